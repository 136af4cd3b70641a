"""What callbacks and the training step do for an objective.

Ramps wait for convergence, decoders start anew, and encoders train ahead.
"""

from typing import Any

import keras
import numpy as np
import pytest

from kvae.model import NEVER, TextVAE
from kvae.serving.errors import ConfigError
from kvae.training.callbacks import DecoderReset, EncoderAhead, RampAfterConvergence

from .conftest import COMPILED, random_tokens, small_model


def trained(model: TextVAE, steps: int = 1, callbacks: Any = (), optimizer: Any = None) -> TextVAE:
    model.compile(optimizer or keras.optimizers.Adam(0.01), **COMPILED)
    model.fit(
        random_tokens(16 * steps),
        batch_size=16,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return model


def snapshot(weights: Any) -> list[np.ndarray]:
    return [np.array(weight) for weight in weights]


def moved(weights: Any, before: list[np.ndarray]) -> bool:
    return any((np.array(weight) != old).any() for weight, old in zip(weights, before, strict=True))


@pytest.mark.jax
def test_every_trainable_weight_is_inference_or_generative() -> None:
    for settings in (
        {},
        {"latent": "map", "latent_size": (3, 2), "expander": "repeat"},
        {"prior": "vamp"},
        {"attributes": ("a", "b")},
    ):
        model = small_model(**settings)
        both = [id(weight) for weight in model.inference_weights + model.generative_weights]
        assert sorted(both) == sorted(id(weight) for weight in model.trainable_weights)


@pytest.mark.jax
@pytest.mark.slow
def test_aggressive_training_updates_the_encoder_alone_then_the_decoder_alone() -> None:
    model = small_model({"encoder_updates": 2})
    for encoder, decoder in [(True, False), (True, False), (False, True), (True, False)]:
        before = snapshot(model.inference_weights), snapshot(model.generative_weights)
        model.compile(keras.optimizers.SGD(0.1), **COMPILED)
        model.fit(random_tokens(16), batch_size=16, verbose=0)
        assert (
            moved(model.inference_weights, before[0]),
            moved(model.generative_weights, before[1]),
        ) == (
            encoder,
            decoder,
        )


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_aggressive_training_ends_when_its_counter_is_zero(jit_compile: bool) -> None:
    model = small_model({"encoder_updates": 2})
    model.encoder_updates.assign(0)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
    before = snapshot(model.inference_weights), snapshot(model.generative_weights)
    model.fit(random_tokens(16), batch_size=16, verbose=0)
    assert moved(model.inference_weights, before[0])
    assert moved(model.generative_weights, before[1])


@pytest.mark.slow
@pytest.mark.jax
def test_aggressive_training_ends_when_mutual_information_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from kvae.training import latent_report

    readings = iter([0.5, 1.0, 0.9])
    monkeypatch.setattr(latent_report, "information", lambda model, found: next(readings))
    said: list[str] = []
    model, rows = small_model({"encoder_updates": 3}), random_tokens(16)
    model.compile("adam", **COMPILED)
    callback, report = EncoderAhead(said.append), latent_report.LatentReport(rows)
    for expected in (3, 3, 0):
        model.fit(rows, batch_size=16, verbose=0, callbacks=[report, callback])
        assert int(model.encoder_updates) == expected
    assert "fell from 1.00 to 0.90" in said[0]


def test_a_ramp_waits_for_convergence_and_lasts_a_fifth_of_it() -> None:
    said: list[str] = []
    model = small_model({"ramp_after_convergence": True, "ramp_steps": 1})
    assert int(model.ramp_start) == NEVER
    callback = RampAfterConvergence(said.append)
    callback.set_model(model)
    model.training_steps.assign(100)
    for reconstruction in (50.0, 40.0, 39.9, 39.8):
        assert float(model.ramp) == 0.0
        callback.on_epoch_end(0, {"val_reconstruction": reconstruction})
    assert (int(model.ramp_start), int(model.ramp_steps)) == (100, 20)
    model.training_steps.assign(110)
    assert float(model.ramp) == pytest.approx(0.5)
    assert "starts at step 100 and lasts 20" in said[0]


@pytest.mark.slow
def test_a_ramp_that_never_began_is_said() -> None:
    said: list[str] = []
    callback = RampAfterConvergence(said.append)
    trained(small_model({"ramp_after_convergence": True}), callbacks=[callback])
    callback.conclude()
    assert "the ramp never started" in said[0]


@pytest.mark.jax
def test_after_the_warm_start_the_decoder_is_new_and_the_encoder_stays() -> None:
    model = small_model({"warm_start_steps": 2})
    still = keras.optimizers.SGD(0.0)
    before = snapshot(model.inference_weights), snapshot(model.generative_weights)
    trained(model, 1, [DecoderReset()], still)
    assert not moved(model.generative_weights, before[1])
    trained(model, 1, [DecoderReset()], keras.optimizers.SGD(0.0))
    assert moved(model.generative_weights, before[1])
    assert not moved(model.inference_weights, before[0])


@pytest.mark.jax
def test_the_ramp_that_waits_for_convergence_counts_from_the_end_of_the_warm_start() -> None:
    model = small_model({"ramp_after_convergence": True, "warm_start_steps": 100, "ramp_steps": 1})
    callback = RampAfterConvergence(lambda sentence: None)
    callback.set_model(model)
    for step in (40, 80, 100):  # the old decoder has long converged
        model.training_steps.assign(step)
        callback.on_epoch_end(0, {"val_reconstruction": 1.0})
    assert int(model.ramp_start) == NEVER
    for step in (150, 200, 250):
        model.training_steps.assign(step)
        callback.on_epoch_end(0, {"val_reconstruction": 9.0})
    assert (int(model.ramp_start), int(model.ramp_steps)) == (150, 30)


def test_summing_over_labels_normalises_by_the_statistics_of_all_values_together() -> None:
    """With the same weights, a labelled batch has nearly the terms of supervised training."""
    tokens, labels = separable(64)
    inputs = {"tokens": tokens, "attribute": labels}
    supervised, summed = (attribute_model(semi_supervised=choice) for choice in (False, True))
    summed.set_weights(supervised.get_weights())
    given, both = (
        np.array(model.terms(inputs, training=True)["reconstruction"])
        for model in (supervised, summed)
    )
    assert both.mean() == pytest.approx(given.mean(), rel=0.1)
    assert (np.array(summed.terms(inputs)["attribute_kl"]) == 0).all()


@pytest.mark.jax
def test_counters_of_schedules_are_saved_with_the_model(tmp_path: Any) -> None:
    model = small_model({"ramp_after_convergence": True, "encoder_updates": 4})
    model.ramp_start.assign(7)
    model.encoder_updates.assign(0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert (int(again.ramp_start), int(again.encoder_updates)) == (7, 0)


def separable(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Texts of symbols 4 and 5 with label 0, of 6 and 7 with label 1."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows).astype(np.int32)
    return (generator.integers(4, 6, (rows, 16)) + 2 * labels[:, None]).astype(np.int32), labels


def attribute_model(**objective: Any) -> TextVAE:
    model = small_model({"ramp_steps": 10, **objective}, attributes=("low", "high"))
    model.compile(keras.optimizers.Adam(0.02), **COMPILED)
    return model


@pytest.mark.slow
def test_texts_follow_the_attribute_they_are_asked_for() -> None:
    from kvae.decoding import at_temperature, sample

    tokens, labels = separable(640)
    model = attribute_model()
    model.fit({"tokens": tokens, "attribute": labels}, batch_size=32, epochs=4, verbose=0)
    for value, symbols in (("low", [4, 5]), ("high", [6, 7])):
        written = np.array(sample(model, 50, at_temperature(1.0, seed=0), seed=0, attribute=value))
        assert np.isin(written, symbols).mean() > 0.9
    mixed = np.array(sample(model, 200, seed=1))
    assert 0.2 < np.isin(mixed[:, 0], [4, 5]).mean() < 0.8


@pytest.mark.jax
@pytest.mark.slow
def test_a_few_labels_teach_the_classifier_and_unlabelled_texts_are_summed_over() -> None:
    tokens, labels = separable(640)
    known = np.where(np.arange(640) % 10 == 0, labels, -1).astype(np.int32)
    model = attribute_model(semi_supervised=True)
    history = model.fit(
        {"tokens": tokens, "attribute": known}, batch_size=32, epochs=4, verbose=0
    ).history
    others, truth = separable(200, seed=1)
    found = model.evaluate({"tokens": others, "attribute": truth}, verbose=0, return_dict=True)
    assert found["attribute_accuracy"] > 0.95
    assert found["attribute_kl"] == 0.0
    unknown = {"tokens": others, "attribute": np.full(200, -1, np.int32)}
    assert (
        0.4
        < model.evaluate(unknown, verbose=0, return_dict=True)["attribute_kl"]
        <= np.log(2) + 1e-6
    )
    assert history["elbo"][-1] < history["elbo"][0]


def test_an_unknown_attribute_is_refused_with_the_known_ones() -> None:
    from kvae.decoding import sample

    with pytest.raises(ConfigError, match="did you mean 'high'"):
        sample(small_model(attributes=("low", "high")), 1, attribute="hgh")
    with pytest.raises(ConfigError, match="trained without labels"):
        sample(small_model(), 1, attribute="high")


@pytest.mark.jax
def test_a_model_with_attributes_says_what_it_learns_from() -> None:
    tokens, labels = separable(16)
    for data, message in (
        ((tokens,), r'"tokens": .*, "attribute"'),
        ((tokens, labels), "give no targets"),
    ):
        with pytest.raises(ConfigError, match=message):
            attribute_model().fit(
                *data, verbose=0
            )  # anew: on JAX a first step that fails takes the weights with it
