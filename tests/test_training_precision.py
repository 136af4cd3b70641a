"""Mixed precision: layers compute in half precision, and probabilities and losses in float32.

Outputs are float32.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.model import TextVAE
from kvae.serving.errors import ConfigError

from .conftest import COMPILED, JAX, everyday, numbers, random_tokens, small_model

SYSTEMS: dict[str, dict[str, Any]] = {
    "hybrid": {"head_layer_normalization": True},
    "ladder": {
        "latent": "map",
        "latent_size": (4, 3),
        "expander": "repeat",
        "head": "gated_conv",
        "head_layers": 2,
    },
    "recurrent mixture": {
        "encoder": "gru",
        "encoder_embedding": 4,
        "prior": "mixture",
        "head": "gru",
        "head_reads": "both",
        "expander": "repeat",
    },
    "attention": {
        "encoder": "transformer",
        "expander": "repeat",
        "head": "transformer",
        "head_layers": 2,
        "head_reads": "both",
    },
    "labels": {"attributes": ("a", "b"), "prior": "vamp"},
}
HALF = {"mixed_bfloat16": 0.03, "mixed_float16": 0.005}
"""The policies, and the largest relative difference of their losses from those of float32.

Their significands have 8 and 11 bits, of which a loss is wrong in a few.
"""


@pytest.fixture(params=everyday(HALF, "mixed_bfloat16"))
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    keras.config.set_dtype_policy("float32")


def gently(optimizer: Any) -> Any:
    """An optimizer whose loss scale does not overflow in the first steps; only float16 uses it."""
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=16.0)


def half(policy: str, **model: Any) -> tuple[TextVAE, TextVAE]:
    """A model in float32, and one in half precision with the same weights."""
    full = small_model(**model)
    keras.config.set_dtype_policy(policy)
    made = small_model(**model)
    made.set_weights(full.get_weights())
    return full, made


def inputs(model: TextVAE, rows: int = 16) -> Any:
    tokens = random_tokens(rows)
    return (
        {"tokens": tokens, "attribute": np.arange(rows, dtype=np.int32) % 2}
        if model.model_config.attributes
        else tokens
    )


def terms(model: TextVAE, data: Any) -> dict[str, np.ndarray]:
    rows = data["tokens"] if isinstance(data, dict) else data
    noise = (
        np.random.default_rng(0).normal(size=(len(rows), model.parts.noise_size)).astype(np.float32)
    )
    outputs = model.parts.outputs(
        rows, noise, data["attribute"] if isinstance(data, dict) else None, training=True
    )
    assert {keras.backend.standardize_dtype(tensor.dtype) for tensor in outputs.values()} == {
        "float32"
    }
    return {name: numbers(value) for name, value in model.loss_terms(data, outputs).items()}


@pytest.mark.jax
@pytest.mark.parametrize("system", ["hybrid", "ladder"] if JAX else everyday(SYSTEMS, "hybrid"))
def test_terms_are_near_those_of_float32_and_training_goes_on(system: str, policy: str) -> None:
    full, made = half(policy, **SYSTEMS[system])
    data = inputs(made)
    expected = terms(full, data)
    for name, found in terms(made, data).items():
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found.mean(), expected[name].mean(), rtol=HALF[policy], atol=0.02, err_msg=name
        )
    if not JAX or (system, policy) in (("hybrid", "mixed_float16"), ("ladder", "mixed_bfloat16")):
        made.compile(keras.optimizers.Adam(0.01, global_clipnorm=5.0), **COMPILED)
        history = made.fit(data, batch_size=8, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert int(made.training_steps) == 4


@pytest.mark.jax
def test_the_gradient_is_reported_and_clipped_without_the_scale_of_the_loss(policy: str) -> None:
    full, made = half(policy)
    norms = []
    for model in (full, made):
        model.get_layer("noise").call = lambda tokens: np.ones((16, 4), np.float32)
        optimizer = keras.optimizers.SGD(1.0, global_clipnorm=0.01)
        model.compile(
            gently(optimizer) if model.dtype_policy.name == "mixed_float16" else optimizer,
            **COMPILED,
        )
        before = [np.array(weight) for weight in model.trainable_weights]
        norms += model.fit(random_tokens(16), batch_size=16, verbose=0).history["gradient_norm"]
        changes = (
            np.array(new) - old for new, old in zip(model.trainable_weights, before, strict=True)
        )
        assert np.sqrt(sum(np.square(change).sum() for change in changes)) == pytest.approx(
            0.01, rel=0.01
        )
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


@pytest.mark.jax
@pytest.mark.slow
def test_a_step_whose_scaled_loss_overflows_changes_nothing_and_halves_the_scale() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=2.0**120),
        **COMPILED,
    )
    before = model.get_weights()[:5]
    history = model.fit(random_tokens(16), batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["gradient_norm"] == [0.0]
    assert float(model.optimizer.dynamic_scale) == 2.0**119
    trainable = [weight.path for weight in model.weights[:5] if weight.trainable]
    assert trainable
    for weight, old in zip(model.weights[:5], before, strict=True):
        if weight.trainable:
            np.testing.assert_array_equal(numbers(weight), old)


@pytest.mark.slow
@pytest.mark.jax
def test_a_file_of_a_mixed_model_opens_in_float32_with_its_optimizer(
    policy: str, tmp_path: Path
) -> None:
    _, made = half(policy)
    made.compile(
        gently(keras.optimizers.Adam()) if policy == "mixed_float16" else "adam", **COMPILED
    )
    made.fit(random_tokens(16), batch_size=8, verbose=0)
    made.save(tmp_path / "model.keras")
    keras.config.set_dtype_policy("float32")
    again, twin = keras.saving.load_model(tmp_path / "model.keras"), made.in_float32()
    assert again.dtype_policy.name == twin.dtype_policy.name == "float32"
    assert int(again.optimizer.iterations) == int(again.training_steps) == 2
    tokens = random_tokens(4)
    for name, expected in twin.encode(tokens).items():
        np.testing.assert_array_equal(numbers(again.encode(tokens)[name]), numbers(expected))


@pytest.mark.slow
def test_texts_are_written_by_a_mixed_model(policy: str) -> None:
    from kvae.decoding import sample

    for system in ("hybrid", "ladder"):
        _, made = half(policy, **SYSTEMS[system])
        assert np.array(sample(made, 3, seed=0)).shape == (3, 16)


@pytest.mark.slow
def test_evaluation_is_that_of_the_model_in_float32(policy: str) -> None:
    from kvae.training.evaluation import evaluate

    full, made = half(policy)
    assert evaluate(made, random_tokens(20)) == evaluate(full, random_tokens(20))


@pytest.mark.jax
@pytest.mark.parametrize("policy_name", ["float16", "bfloat16", "float64"])
def test_other_policies_are_refused(policy_name: str) -> None:
    keras.config.set_dtype_policy(policy_name)
    try:
        with pytest.raises(ConfigError, match=f"{policy_name!r}: weights must be float32"):
            small_model()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.jax
def test_aggressive_training_in_float16_is_refused_with_the_way_out() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ConfigError, match="use 'mixed_bfloat16'"):
            small_model({"encoder_updates": 2})
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_a_run_in_half_precision_is_exported_in_float32(
    tmp_path: Path, run_settings: dict[str, Any]
) -> None:
    from kvae.export.bundle import write_bundle
    from kvae.presets import preset
    from kvae.training.experiment import run

    settings = {**run_settings, "training.precision": "mixed_bfloat16", "training.steps": 3}
    try:
        trained, _ = run(
            preset("hybrid-lstm").with_settings(settings), tmp_path / "run", lambda sentence: None
        )
        assert trained.model.dtype_policy.name == "mixed_bfloat16"
        manifest = write_bundle(
            trained.model, trained.alphabet, trained.config, tmp_path / "bundle"
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert manifest["parity"]["largest_logit_difference"] < 1e-4


def test_export_names_the_backend_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvae.export.convert import check_backend

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ConfigError, match="KERAS_BACKEND=tensorflow kvae export"):
        check_backend()
