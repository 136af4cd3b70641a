"""`fit`, `evaluate` and `predict` do what a Keras user expects, also with several steps at once."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kvae.presets import preset
from kvae.serving.errors import ConfigError
from kvae.training.callbacks import DecoderReset
from kvae.training.experiment import run

from .conftest import COMPILED, JAX, numbers, random_tokens, small_model

pytestmark = pytest.mark.jax


def fitted(**options: Any) -> Any:
    model = small_model()
    model.compile(keras.optimizers.Adam(0.01, global_clipnorm=5.0), **options)
    history = model.fit(
        random_tokens(96), batch_size=16, epochs=2, shuffle=False, verbose=0
    ).history
    assert int(model.training_steps) == 12
    return model, history


@pytest.mark.both
@pytest.mark.parametrize(
    ("compiled", "together"),
    [
        pytest.param(COMPILED, 3, marks=() if JAX else pytest.mark.slow),
        pytest.param({"jit_compile": True}, 6, marks=pytest.mark.slow),
    ],  # XLA compiles for a minute
)
def test_steps_per_execution_change_no_number(compiled: dict[str, Any], together: int) -> None:
    """Both are compiled alike: on TensorFlow, XLA draws other random numbers from a seed."""
    (expected, history), (model, found) = (
        fitted(**compiled),
        fitted(steps_per_execution=together, **compiled),
    )
    for name, values in history.items():
        assert found[name] == pytest.approx(values, rel=2e-3, abs=1e-4), name
    rows = random_tokens(40, seed=1)
    one, other = (each.predict(rows, batch_size=8, verbose=0)["mean"] for each in (expected, model))
    np.testing.assert_allclose(other, one, atol=5e-3)
    assert model.evaluate(rows, batch_size=8, verbose=0, return_dict=True)["kl"] > 0


def test_a_warm_start_that_ends_within_an_execution_ends_with_it() -> None:
    model = small_model({"warm_start_steps": 2})
    model.compile(keras.optimizers.SGD(0.0), steps_per_execution=3, **COMPILED)
    encoder, decoder = (
        [numbers(w) for w in part] for part in (model.inference_weights, model.generative_weights)
    )
    rows = random_tokens(48)
    model.fit(rows, batch_size=16, verbose=0, callbacks=[DecoderReset()])
    fresh = [numbers(weight) for weight in model.generative_weights]
    assert any((new != old).any() for new, old in zip(fresh, decoder, strict=True))
    assert all(
        (numbers(w) == old).all() for w, old in zip(model.inference_weights, encoder, strict=True)
    )
    model.fit(rows, batch_size=16, verbose=0, callbacks=[DecoderReset()])
    assert all(
        (numbers(w) == old).all() for w, old in zip(model.generative_weights, fresh, strict=True)
    )


@pytest.mark.parametrize("name", ["loss", "loss_weights", "metrics", "weighted_metrics"])
def test_a_loss_or_metric_that_would_be_ignored_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"compile\({name}="):
        small_model().compile("adam", **{name: ["mse"]})


@pytest.mark.slow
def test_early_stopping_wants_to_know_that_less_is_better() -> None:
    model, rows = small_model(), random_tokens(16)
    model.compile(keras.optimizers.SGD(0.0), **COMPILED)
    with pytest.raises(ValueError, match="mode='min'"):
        model.fit(
            rows,
            validation_data=rows,
            verbose=0,
            callbacks=[keras.callbacks.EarlyStopping("val_elbo")],
        )
    stop = keras.callbacks.EarlyStopping("val_elbo", mode="min", min_delta=1e6, patience=1)
    history = model.fit(rows, validation_data=rows, epochs=5, verbose=0, callbacks=[stop]).history
    assert len(history["loss"]) == 2


def test_an_epoch_that_executions_do_not_fill_is_refused(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    config = preset("hybrid-lstm").with_settings(
        {**small_settings, "training.steps_per_execution": 4}
    )
    with pytest.raises(
        ConfigError, match=r"an epoch of 7 steps .* set training.steps_per_epoch=4 or use 1"
    ):
        run(config, tmp_path / "run", lambda sentence: None)
    assert not (tmp_path / "run").exists()
