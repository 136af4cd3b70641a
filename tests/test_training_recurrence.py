"""The LSTM with a gradient of its own against Keras' loop over the same cell."""

from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import ObjectiveConfig
from kvae.heads import lstm

from .conftest import JAX, small_config

if JAX:
    pytest.skip("the loop with its own gradient is TensorFlow's", allow_module_level=True)

import tensorflow as tf

from kvae.training.tensorflow_step import over_positions

TEXTS, POSITIONS, UNITS = 3, 7, 5


def recurrence_of(normalised: bool) -> keras.layers.RNN:
    """A built LSTM, its weights spread."""
    keras.utils.set_random_seed(0)
    config = small_config(head_units=UNITS, head_layer_normalization=normalised)
    recurrence = lstm(config, ObjectiveConfig()).recurrence
    recurrence.build((TEXTS, POSITIONS, 4 * UNITS))
    for weight in recurrence.trainable_weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    return recurrence


def outputs_and_gradients(
    run: Any, recurrence: keras.layers.RNN, positions: int = POSITIONS, jit_compile: bool = False
) -> list[np.ndarray]:
    """Hidden states of random inputs, and the gradients of a randomly weighted sum of them.

    The gradients are with respect to inputs, states and weights.
    """
    inputs, states, weighting = drawn(positions)

    @tf.function(jit_compile=jit_compile)
    def both() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([inputs, *states])
            hidden = run(recurrence, inputs, states)
            loss = tf.reduce_sum(hidden * weighting)
        wanted = [inputs, *states, *(weight.value for weight in recurrence.trainable_weights)]
        return [hidden, *tape.gradient(loss, wanted)]

    return [value.numpy() for value in both()]


def drawn(positions: int) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
    """Inputs, states and the weighting of the outputs."""
    draw = np.random.default_rng(1).normal
    shapes = [
        (TEXTS, positions, 4 * UNITS),
        (TEXTS, UNITS),
        (TEXTS, UNITS),
        (TEXTS, positions, UNITS),
    ]
    inputs, *states, weighting = (tf.constant(draw(size=shape), tf.float32) for shape in shapes)
    return inputs, states, weighting


def learning(recurrence: keras.layers.RNN, inputs: Any, states: list[Any]) -> Any:
    return over_positions(recurrence, inputs, states, training=True)


def reading(recurrence: keras.layers.RNN, inputs: Any, states: list[Any]) -> Any:
    return over_positions(recurrence, inputs, states, training=False)


def by_keras(recurrence: keras.layers.RNN, inputs: Any, states: list[Any]) -> Any:
    return recurrence(inputs, initial_state=states)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("positions", [1, POSITIONS])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_outputs_and_every_gradient_are_those_of_keras(
    normalised: bool, positions: int, jit_compile: bool
) -> None:
    recurrence = recurrence_of(normalised)
    found = outputs_and_gradients(learning, recurrence, positions, jit_compile)
    wanted = outputs_and_gradients(by_keras, recurrence, positions)
    assert len(found) == len(wanted) == (12 if normalised else 6)
    for own, keras_own in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own, keras_own, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_gradient_is_that_of_finite_differences(normalised: bool) -> None:
    recurrence = recurrence_of(normalised)
    kernel = recurrence.cell.kernel
    gradient = outputs_and_gradients(learning, recurrence)[4]
    weighting = drawn(POSITIONS)[2].numpy().astype(np.float64)

    def loss_with(change: np.ndarray) -> float:
        before = kernel.numpy()
        kernel.assign(before + change)
        hidden = outputs_and_gradients(learning, recurrence)[0]
        kernel.assign(before)
        return float((hidden.astype(np.float64) * weighting).sum())

    direction = np.random.default_rng(2).normal(size=kernel.shape) * 2e-3
    slope = (loss_with(direction) - loss_with(-direction)) / 2
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=5e-3)


def test_half_precision_stays_near_single() -> None:
    recurrence = recurrence_of(True)
    inputs, states, _ = drawn(POSITIONS)
    single = learning(recurrence, inputs, states)
    half = learning(recurrence, tf.cast(inputs, tf.bfloat16), states)
    assert half.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(half, tf.float32), single, atol=0.05)


@pytest.mark.parametrize("normalised", [False, True])
def test_without_training_it_is_the_same_and_still_has_a_gradient(normalised: bool) -> None:
    recurrence = recurrence_of(normalised)
    for ours, theirs in zip(
        outputs_and_gradients(reading, recurrence),
        outputs_and_gradients(learning, recurrence),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)
