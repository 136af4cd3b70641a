"""The steps of a backend: both modules offer what the protocol says.

A head runs the loop of a step inside that step alone.
"""

import inspect
from importlib import import_module
from typing import Any

import keras
import numpy as np
import pytest

from kvae.backends import BACKENDS
from kvae.parts import shifted
from kvae.recurrences import keras_loop, looping, over_positions
from kvae.serving.errors import ConfigError
from kvae.steps import Steps, backend_steps
from kvae.training.evaluation import collect

from .conftest import COMPILED, JAX, everyday, numbers, random_tokens, small_model, spread_model

OFFERED = {
    name: member
    for name, member in vars(Steps).items()
    if inspect.isfunction(member) and name[0] != "_"
}
KERAS_STEPS = ("train_step", "test_step", "predict_step")


def module_of(backend: str) -> Any:
    pytest.importorskip(backend)
    return import_module(f"kvae.training.{backend}_step")


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in OFFERED if name not in KERAS_STEPS])
def test_a_module_of_steps_offers_what_the_protocol_says(backend: str, name: str) -> None:
    assert ["self", *parameters(getattr(module_of(backend), name))] == parameters(OFFERED[name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", KERAS_STEPS)
def test_a_step_takes_the_model_and_what_keras_gives_a_step_of_that_backend(
    backend: str, name: str
) -> None:
    module_of(backend)
    given = import_module(f"keras.src.backend.{backend}.trainer")
    trainer = getattr(given, {"tensorflow": "TensorFlowTrainer", "jax": "JAXTrainer"}[backend])
    assert ["model", *parameters(getattr(trainer, name))[1:]] == parameters(
        getattr(module_of(backend), name)
    )


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each pass through our own TensorFlow LSTM, in order, whether it was for training."""
    from kvae.training import tensorflow_step

    seen: list[bool] = []
    own = tensorflow_step.lstm

    def counted(cell: Any, inputs: Any, states: Any, training: bool) -> Any:
        seen.append(bool(training))
        return own(cell, inputs, states, training)

    monkeypatch.setattr(tensorflow_step, "lstm", counted)
    return seen


@pytest.mark.skipif(JAX, reason="the loop with its own gradient is TensorFlow's")
def test_whatever_keras_runs_and_evaluations_take_the_loop_of_the_steps(loops: list[bool]) -> None:
    model, tokens = spread_model(), random_tokens(4)
    model(tokens)
    assert loops == [], "outside a step Keras' loop runs"
    model.compile("adam", **COMPILED)
    for run, training in (
        (lambda: model.train_on_batch(tokens), True),
        (lambda: model.fit(tokens, verbose=0), True),
        (lambda: model.evaluate(tokens, verbose=0), False),
        (lambda: model.test_on_batch(tokens), False),
        (lambda: model.predict(tokens, verbose=0), False),
        (lambda: model.predict_on_batch(tokens), False),
        (lambda: collect(model, tokens), False),
    ):
        loops.clear()
        model.train_function = model.test_function = model.predict_function = None
        run()
        assert set(loops) == {training}


@pytest.mark.skipif(JAX, reason="the loop with its own gradient is TensorFlow's")
@pytest.mark.parametrize("copied", everyday(["from_config", "file"], "from_config"))
def test_a_copy_of_a_model_takes_the_loop_of_the_steps_too(
    loops: list[bool], copied: str, tmp_path: Any
) -> None:
    model = small_model()
    if copied == "file":
        model.save(tmp_path / "model.keras")
        twin = keras.saving.load_model(tmp_path / "model.keras")
    else:
        twin = type(model).from_config(model.get_config())
    twin.compile("adam", **COMPILED)
    twin.train_on_batch(random_tokens(4))
    assert set(loops) == {True}


@pytest.mark.both
def test_a_model_computes_the_same_in_a_step_and_by_itself() -> None:
    model, tokens = small_model(), random_tokens(4)
    noise = np.ones((4, model.parts.noise_size), np.float32)
    inputs = [keras.Input((16,), dtype="int32"), keras.Input((model.parts.noise_size,))]
    compiled = backend_steps().compiled(
        model, lambda *given: model.parts.outputs(*given, training=False), inputs
    )
    features = model.expander(compiled(tokens, noise)["z"], training=False)
    alone = numbers(model.head(features, shifted(tokens)))
    np.testing.assert_allclose(compiled(tokens, noise)["logits"], alone, atol=1e-5)


def test_a_loop_lasts_as_long_as_its_context_and_no_longer() -> None:
    def other(*given: Any) -> Any:
        return given

    recurrence: Any = object()
    with looping(other):
        with looping(keras_loop), pytest.raises(TypeError):
            over_positions(recurrence, 1, [2], False)
        assert over_positions(recurrence, 1, [2], False) == (recurrence, 1, [2], False)
    with pytest.raises(TypeError):
        over_positions(recurrence, 1, [2], False)


def test_the_steps_of_another_backend_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(
        ConfigError, match="KERAS_BACKEND is 'torch'; kvae trains on 'tensorflow' and 'jax'"
    ):
        backend_steps()
