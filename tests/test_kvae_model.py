"""The functional graph, its Keras manners, and decoding inside Keras."""

import copy
import pickle
from pathlib import Path

import keras
import numpy as np
import pytest

from kvae.decoding import at_temperature, decode, sample
from kvae.model import TextVAE
from kvae.parts import shifted
from kvae.serving.alphabet import END, NEVER_SAMPLED, PAD, START
from kvae.serving.errors import ConfigError

from .conftest import COMPILED, everyday, numbers, random_tokens, small_config, small_model

pytestmark = pytest.mark.jax


def compiled(**model: object) -> TextVAE:
    made = small_model(**model)
    made.compile(keras.optimizers.Adam(0.01, global_clipnorm=5.0), **COMPILED)
    return made


def test_outputs_are_a_dict_of_named_tensors() -> None:
    shapes = {name: tensor.shape for name, tensor in small_model()(random_tokens(3)).items()}
    assert shapes == {
        "logits": (3, 16, 9),
        "auxiliary_logits": (3, 16, 9),
        "mean": (3, 4),
        "log_variance": (3, 4),
        "z": (3, 4),
        "kl_level_0": (3,),
        "kl_per_dimension": (3, 4),
        "log_ratio": (3,),
    }


def test_previous_is_the_tokens_shifted_behind_start() -> None:
    tokens = random_tokens(2)
    previous = np.array(shifted(tokens))
    assert (previous[:, 0] == START).all()
    np.testing.assert_array_equal(previous[:, 1:], tokens[:, :-1])


def test_auxiliary_logits_see_the_code_and_no_history() -> None:
    """The posterior does not depend on the text here.

    Another text then changes the logits of the head, and not the auxiliary logits.
    """
    model = small_model()
    for name in ("mean_0", "log_variance_0"):
        layer = model.posterior.get_layer(name)
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    noise = np.ones((4, 4), np.float32)
    first, second = (
        model.parts.outputs(random_tokens(4, seed=seed), noise, training=False) for seed in (0, 1)
    )
    np.testing.assert_array_equal(first["auxiliary_logits"], second["auxiliary_logits"])
    assert np.abs(first["logits"] - second["logits"]).max() > 0.01


def test_fit_lowers_the_loss() -> None:
    tokens = random_tokens(64)
    losses = compiled().fit(tokens, epochs=15, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_weight_moves_by_no_more_than_the_clipped_gradient_allows() -> None:
    model = small_model()
    model.compile(keras.optimizers.SGD(1.0, global_clipnorm=0.01), **COMPILED)
    before = [np.array(weight) for weight in model.trainable_weights]
    history = model.fit(random_tokens(16), batch_size=16, verbose=0).history
    changes = (
        np.array(new) - old for new, old in zip(model.trainable_weights, before, strict=True)
    )
    moved = np.sqrt(sum(np.square(change).sum() for change in changes))
    assert history["gradient_norm"][0] > 0.01
    assert moved == pytest.approx(0.01, rel=1e-3)


def test_every_step_counts_and_moves_beta() -> None:
    model = small_model({"ramp_steps": 8})
    model.compile("adam", **COMPILED)
    model.fit(random_tokens(64), batch_size=16, verbose=0)
    assert int(model.training_steps) == 4
    assert model.evaluate(random_tokens(16), verbose=0, return_dict=True)["beta"] == pytest.approx(
        0.5
    )


def test_the_beta_that_is_reported_is_the_one_in_the_loss() -> None:
    model = small_model({"ramp_steps": 8, "alpha": 0.0, "count_padding": False}, auxiliary=False)
    model.compile(keras.optimizers.SGD(0.0), **COMPILED)
    for step in range(3):
        found = model.fit(random_tokens(16), batch_size=16, verbose=0).history
        assert found["beta"][0] == pytest.approx(step / 8)
        assert found["loss"][0] == pytest.approx(
            found["reconstruction"][0] + step / 8 * found["kl"][0], rel=1e-5
        )


@pytest.mark.both
def test_evaluate_weighs_every_text_and_every_character_alike() -> None:
    model = compiled()
    tokens = random_tokens(20)
    found = model.evaluate(tokens, batch_size=16, verbose=0, return_dict=True)
    characters = (tokens != PAD).sum()
    assert found["bits_per_character"] == pytest.approx(
        found["elbo"] * 20 / characters / np.log(2), rel=1e-4
    )


@pytest.mark.both
@pytest.mark.slow
def test_a_saved_model_gives_the_same_outputs_and_trains_on(tmp_path: Path) -> None:
    model = compiled()
    tokens, noise = (
        random_tokens(16),
        np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32),
    )
    model.fit(tokens, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    expected = model.parts.outputs(tokens, noise, training=False)
    for name, tensor in again.parts.outputs(tokens, noise, training=False).items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
    again.fit(tokens, batch_size=8, verbose=0)
    assert int(again.training_steps) == 4


def test_predict_returns_every_output_for_every_row() -> None:
    found = compiled().predict(random_tokens(20), batch_size=16, verbose=0)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 20)


def test_the_training_step_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow traces a function again if it has made variables.

    Tracing takes most of the time of a small run.
    """
    model, traced = small_model(), []
    step = model.train_step
    monkeypatch.setattr(
        model, "train_step", lambda *arguments: traced.append(1) or step(*arguments)
    )
    model.compile("adam", **COMPILED)
    model.fit(random_tokens(12), batch_size=4, verbose=0)
    assert len(traced) == 1


@pytest.mark.parametrize("encoder", everyday(["bag", "lstm", "gru"], "bag"))
def test_the_training_step_compiles_with_xla(encoder: str) -> None:
    model = small_model(  # few layers: XLA takes a second for each
        encoder=encoder, encoder_units=8, expander="repeat", expander_base=0, auxiliary=False
    )
    model.compile("adam", jit_compile=True)
    assert np.isfinite(model.fit(random_tokens(16), batch_size=16, verbose=0).history["loss"]).all()


def test_decoding_never_writes_a_special_symbol_but_end_and_pads_behind_it() -> None:
    model = small_model()
    model.head.classify.bias.assign(np.array([9.0, 9.0, 0.0, 9.0, 0, 0, 0, 0, 0], np.float32))
    tokens = np.array(sample(model, 200, at_temperature(1.0, seed=0), seed=0))
    ended = np.cumsum(tokens == END, axis=1) - (tokens == END) > 0
    assert (tokens[ended] == PAD).all()
    assert not np.isin(tokens[~ended], NEVER_SAMPLED).any()
    assert ended.any()


def test_greedy_decoding_takes_the_likeliest_symbol_at_every_position() -> None:
    model = small_model()
    z = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    tokens = np.array(decode(model, z, min_length=0))
    logits = np.array(
        model.head(model.expander(z, training=False), shifted(tokens), training=False)
    )
    logits[..., list(NEVER_SAMPLED)] = -np.inf
    counted = tokens != PAD
    assert counted.sum() > 200
    np.testing.assert_array_equal(tokens[counted], logits.argmax(axis=-1)[counted])


def test_no_text_is_empty_unless_that_is_allowed() -> None:
    model = small_model()
    model.head.classify.bias.assign(np.array([0, 0, 50.0, 0, 0, 0, 0, 0, 0], np.float32))
    z = np.zeros((20, 4), np.float32)
    assert (np.array(decode(model, z))[:, :2] != END).sum(axis=1).tolist() == [1] * 20
    assert (np.array(decode(model, z, min_length=0))[:, 0] == END).all()


@pytest.mark.both
def test_decoding_at_a_seed_repeats() -> None:
    model = small_model()
    first, second = (
        np.array(sample(model, 20, at_temperature(1.0, seed=3), seed=3)) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        ({"head": "none"}, {"alpha": 0.0}, "head 'none'"),
        (
            {"auxiliary": False},
            {"alpha": 0.1},
            "objective.alpha is 0.1 but model.auxiliary is false",
        ),
        ({"length": 18}, {}, "model.length must be a multiple of 4"),
        ({"vocabulary_size": 0}, {}, "model.vocabulary_size is not set"),
    ],
)
def test_slots_that_do_not_fit_are_refused_with_the_reason(
    model: dict[str, object], objective: dict[str, object], message: str
) -> None:
    from kvae.configuration import ObjectiveConfig

    with pytest.raises(ConfigError) as caught:
        TextVAE(small_config(**model), ObjectiveConfig(**objective))
    assert message in str(caught.value)


def test_a_clone_is_refused_with_the_way_to_make_one() -> None:
    model = small_model()
    for options in (
        {},
        {"clone_function": lambda layer: layer.__class__.from_config(layer.get_config())},
    ):
        with pytest.raises(ConfigError, match=r"TextVAE\.from_config"):
            keras.models.clone_model(model, **options)
    again = TextVAE.from_config(model.get_config())
    again.set_weights(model.get_weights())
    noise, tokens = np.ones((3, 4), np.float32), random_tokens(3)
    expected = numbers(model.parts.outputs(tokens, noise, training=False)["logits"])
    np.testing.assert_array_equal(
        numbers(again.parts.outputs(tokens, noise, training=False)["logits"]), expected
    )


@pytest.mark.parametrize("mode", everyday(["int8", "int4", "float8"], "int8"))
def test_a_quantized_model_is_refused_before_anything_is_written(mode: str, tmp_path: Path) -> None:
    model, file = small_model(), tmp_path / "model.keras"
    before = model.get_weights()
    with pytest.raises(ConfigError, match=r"quantize: .* `kvae export --int8`"):
        model.quantize(mode)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    model.save(file)
    whole = file.read_bytes()
    model.head.classify.quantize("int8")  # a layer by itself
    with pytest.raises(ConfigError, match="quantize: "):
        model.save(file)
    assert file.read_bytes() == whole


def test_a_file_or_graph_that_would_not_load_is_refused(tmp_path: Path) -> None:
    model = small_model()
    with pytest.raises(ConfigError, match=r"give a path that ends in \.keras"):
        model.save(tmp_path / "model.h5")
    with pytest.raises(ConfigError, match=r"export\(format='onnx'\)"):
        model.export(tmp_path / "model.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_frozen_part_stays_frozen_in_a_file_with_its_optimizer(tmp_path: Path) -> None:
    model = small_model()
    model.encoder.trainable = False
    model.compile(keras.optimizers.Adam(0.01), **COMPILED)
    before = [numbers(weight) for weight in model.encoder.weights]
    model.fit(random_tokens(16), batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert not again.encoder.trainable
    assert again.head.trainable
    for one, other in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(numbers(one), numbers(other))
    for weight, first in zip(again.encoder.weights, before, strict=True):
        np.testing.assert_array_equal(numbers(weight), first)
    assert "frozen" not in small_model().get_config()


def test_what_a_model_would_ignore_is_refused() -> None:
    model = small_model()
    with pytest.raises(ConfigError, match=r"add_loss: "):
        model.add_loss(0.0)
    with pytest.raises(ConfigError, match=r"keras\.config\.set_dtype_policy"):
        TextVAE(small_config(), dtype="mixed_bfloat16")
    model.compile(None)
    with pytest.raises(ConfigError, match=r"compile\(optimizer=None\)"):
        model.fit(random_tokens(4), verbose=0)


def test_a_model_travels_through_pickle_and_copy() -> None:
    model, tokens, noise = compiled(), random_tokens(3), np.ones((3, 4), np.float32)
    expected = numbers(model.parts.outputs(tokens, noise, training=False)["logits"])
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(
            numbers(again.parts.outputs(tokens, noise, training=False)["logits"]), expected
        )


def test_a_model_says_its_slots_and_sizes() -> None:
    model = small_model()
    assert repr(model) == (
        "<TextVAE: encoder conv, latent dense, posterior free, prior standard, expander deconv, "
        f"head lstm; code 4, length 16, 9 symbols, {model.count_params():,} parameters>"
    )
    ladder = small_model(latent_size=(4, 3), expander="repeat")
    assert "; code 4 + 3, length" in repr(ladder)
