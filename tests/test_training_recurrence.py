"""Recurrences with a gradient of their own against Keras' loop over the same cell."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest

from kvae.blocks import DATA_FORMAT, Conv1DTranspose
from kvae.configuration import ObjectiveConfig
from kvae.heads import gru, lstm
from kvae.recurrences import keras_loop

from .conftest import JAX, everyday, numbers, small_config

if JAX:
    import jax

    from kvae.training.jax_step import over_positions
else:
    import tensorflow as tf

    from kvae.training.tensorflow_step import over_positions

pytestmark = pytest.mark.both

TEXTS, POSITIONS, UNITS = 3, 7, 5
HEADS = {"lstm": lstm, "gru": gru}


def recurrence_of(head: str, normalised: bool, precision: str = "float32") -> keras.layers.RNN:
    """A built recurrence, its weights spread."""
    keras.utils.set_random_seed(0)
    config = small_config(head_units=UNITS, head_layer_normalization=normalised)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    recurrence = HEADS[head](config, ObjectiveConfig()).recurrence
    keras.config.set_dtype_policy(policy)
    recurrence.build((TEXTS, POSITIONS, recurrence.cell.gates * UNITS))
    for weight in recurrence.trainable_weights:
        weight.assign(weight + 0.3 * keras.random.normal(weight.shape))
    return recurrence


def outputs_and_gradients(
    run: Any,
    recurrence: keras.layers.RNN,
    positions: int = POSITIONS,
    jit_compile: bool = False,
    training: bool = True,
) -> list[np.ndarray]:
    """Hidden states of random inputs, and the gradients of a randomly weighted sum of them.

    The gradients are with respect to inputs, states and weights. They run compiled on JAX.
    """
    inputs, states, weighting = drawn(recurrence, positions)
    weights = recurrence.trainable_weights

    def loss(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
        hidden = run(recurrence, inputs, states, training)
        return keras.ops.sum(keras.ops.cast(hidden, "float32") * weighting), hidden

    if JAX:

        def stateless(inputs: Any, states: list[Any], values: list[Any]) -> tuple[Any, Any]:
            with keras.StatelessScope(list(zip(weights, values, strict=True))):
                return loss(inputs, states)

        both = jax.jit(jax.value_and_grad(stateless, (0, 1, 2), has_aux=True))
        (_, hidden), gradients = both(inputs, states, [weight.value for weight in weights])
        return [numbers(value) for value in (hidden, *jax.tree.leaves(gradients))]

    @tf.function(jit_compile=jit_compile)
    def traced() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([inputs, *states])
            scalar, hidden = loss(inputs, states)
        wanted = [inputs, *states, *(weight.value for weight in weights)]
        return [hidden, *tape.gradient(scalar, wanted)]

    return [numbers(value) for value in traced()]


def drawn(recurrence: keras.layers.RNN, positions: int) -> tuple[Any, list[Any], Any]:
    """Inputs, states and the weighting of the outputs, in the precision of the cell."""
    draw = np.random.default_rng(1).normal
    states = [(TEXTS, UNITS) for _ in recurrence.cell.state_size]
    shapes = [(TEXTS, positions, recurrence.cell.gates * UNITS), *states]
    inputs, *states = (
        keras.ops.convert_to_tensor(draw(size=shape), recurrence.compute_dtype) for shape in shapes
    )
    weighting = keras.ops.convert_to_tensor(draw(size=(TEXTS, positions, UNITS)), "float32")
    return inputs, states, weighting


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("positions", everyday([1, POSITIONS], POSITIONS))
def test_outputs_and_every_gradient_are_those_of_keras(
    head: str, normalised: bool, positions: int
) -> None:
    check_against_keras(head, normalised, positions, jit_compile=JAX)


@pytest.mark.skipif(JAX, reason="JAX compiles in the test before")
@pytest.mark.parametrize(
    ("head", "normalised"),
    everyday(itertools.product(HEADS, (False, True)), ("lstm", True), ("gru", False)),
)
def test_so_are_they_under_xla(head: str, normalised: bool) -> None:
    check_against_keras(head, normalised, POSITIONS, jit_compile=True)


def check_against_keras(head: str, normalised: bool, positions: int, jit_compile: bool) -> None:
    recurrence = recurrence_of(head, normalised)
    found = outputs_and_gradients(over_positions, recurrence, positions, jit_compile)
    wanted = outputs_and_gradients(keras_loop, recurrence, positions)
    count = {"lstm": (6, 12), "gru": (5, 9)}[head][normalised]
    assert len(found) == len(wanted) == count
    for own, keras_own in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own, keras_own, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("normalised", [False, True])
def test_the_gradient_is_that_of_finite_differences(head: str, normalised: bool) -> None:
    recurrence = recurrence_of(head, normalised)
    kernel = recurrence.cell.kernel
    gradient = outputs_and_gradients(over_positions, recurrence)[
        2 + len(recurrence.cell.state_size)
    ]
    inputs, states, weighting = drawn(recurrence, POSITIONS)

    def loss_with(change: np.ndarray) -> float:
        before = numbers(kernel.value)
        kernel.assign(before + change)
        hidden = numbers(over_positions(recurrence, inputs, states, training=True))
        kernel.assign(before)
        return float((hidden.astype(np.float64) * numbers(weighting)).sum())

    direction = np.random.default_rng(2).normal(size=kernel.shape) * 2e-3
    slope = (loss_with(direction) - loss_with(-direction)) / 2
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=5e-3)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    "precision", everyday(["mixed_bfloat16", "mixed_float16"], "mixed_bfloat16")
)
def test_half_precision_stays_near_single(head: str, precision: str) -> None:
    single = outputs_and_gradients(over_positions, recurrence_of(head, True))
    half_recurrence = recurrence_of(head, True, precision)
    inputs, states, _ = drawn(half_recurrence, POSITIONS)
    outputs = over_positions(half_recurrence, inputs, states, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == half_recurrence.compute_dtype
    tolerance = 0.05 if precision == "mixed_bfloat16" else 0.01
    for half, full in zip(
        outputs_and_gradients(over_positions, half_recurrence), single, strict=True
    ):
        np.testing.assert_allclose(half, full, atol=tolerance * max(1.0, np.abs(full).max()))


@pytest.mark.parametrize("head", HEADS)
def test_without_training_it_is_the_same_and_still_has_a_gradient(head: str) -> None:
    recurrence = recurrence_of(head, True)
    for ours, theirs in zip(
        outputs_and_gradients(over_positions, recurrence, training=False),
        outputs_and_gradients(over_positions, recurrence),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5, rtol=1e-4)


def test_other_cells_run_in_the_loop_of_keras() -> None:
    recurrence = keras.layers.RNN(keras.layers.SimpleRNNCell(UNITS), return_sequences=True)
    inputs, states = keras.ops.ones((TEXTS, POSITIONS, 2)), [keras.ops.zeros((TEXTS, UNITS))]
    np.testing.assert_array_equal(
        numbers(over_positions(recurrence, inputs, states, training=True)),
        numbers(recurrence(inputs, initial_state=states)),
    )


@pytest.mark.parametrize("positions", [1, 5])
def test_a_transposed_convolution_is_that_of_keras(positions: int) -> None:
    """On JAX the one with kernel 3 and stride 2 is computed as products."""
    options = {"strides": 2, "padding": "same", "use_bias": False}
    ours = Conv1DTranspose(4, 3, data_format=DATA_FORMAT, **options)
    theirs = keras.layers.Conv1DTranspose(4, 3, data_format=DATA_FORMAT, **options)
    rows = keras.random.normal((2, positions, 6), seed=0)
    for layer in (ours, theirs):
        layer.build(rows.shape)
    theirs.kernel.assign(ours.kernel)
    np.testing.assert_allclose(numbers(ours(rows)), numbers(theirs(rows)), atol=1e-5)
