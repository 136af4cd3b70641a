"""The GRU of the recurrent heads on TensorFlow, with a gradient of its own.

As on JAX (`jax_recurrence`), the forward loop stores the states and one product per position. The
backward loop computes a position again, and one matrix product after the loop gives the gradient of
the kernel. The gradient of a position is written by hand, because automatic differentiation would
build a graph with many more operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import tensorflow as tf

from kvae.cells import GRUCell

from .positions import Position, gru_position, vectors_of
from .tensorflow_recurrence import (
    kernel_gradient,
    matrix_product,
    standardised,
    standardised_gradient,
    sum_over_batch,
    swap_batch_and_time,
)


def gru(
    layer: GRUCell, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool
) -> tf.Tensor:
    """Hidden states (B, T, units) of `layer` for inputs (B, T, 3 units).

    `states` is the initial hidden state, (B, units). Matrix products are computed in the precision
    of `inputs`, everything else in float32. As with the LSTM, the function has its own gradient
    only in training.
    """
    epsilon = layer.norms[0].epsilon if layer.norms else 0.0
    position = partial(gru_position, epsilon=epsilon)
    precision = inputs.dtype

    def with_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        half = tf.cast(kernel, precision)
        outputs, products = forward(position, inputs, hidden, half, vectors, save=True)
        before = tf.concat([hidden[None], outputs[:-1]], axis=0)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return backward(upstream, inputs, before, products, half, vectors, epsilon)

        return swap_batch_and_time(outputs), gradient

    def without_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
    ) -> tf.Tensor:
        half = tf.cast(kernel, precision)
        return swap_batch_and_time(forward(position, inputs, hidden, half, vectors, save=False)[0])

    run = tf.custom_gradient(with_gradient) if training else without_gradient
    others = (*states, layer.kernel, *vectors_of(layer))
    return tf.cast(run(inputs, *(tf.cast(value, tf.float32) for value in others)), precision)


def forward(
    position: Position,
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    vectors: Sequence[tf.Tensor],
    save: bool,
) -> tuple[tf.Tensor, tf.TensorArray | None]:
    """Hidden states (T, B, units), and with `save` the products of hidden states and kernel."""
    positions = tf.shape(inputs)[1]
    arrays = [
        tf.TensorArray(tf.float32, positions, clear_after_read=False)
        for _ in range(2 if save else 1)
    ]

    def step(index: tf.Tensor, hidden: tf.Tensor, arrays: list[tf.TensorArray]) -> tuple[Any, ...]:
        product = matrix_product(hidden, kernel)
        current = tf.cast(inputs[:, index], tf.float32)
        (hidden,) = position(current, product, [hidden], vectors)
        new = (hidden, product)
        arrays = [array.write(index, value) for array, value in zip(arrays, new, strict=False)]
        return index + 1, hidden, arrays

    _, _, arrays = tf.while_loop(
        lambda index, *_: index < positions, step, (0, hidden, arrays), parallel_iterations=1
    )
    return arrays[0].stack(), arrays[1] if save else None


def backward(
    upstream: tf.Tensor,
    inputs: tf.Tensor,
    before: tf.Tensor,
    products: tf.TensorArray,
    kernel: tf.Tensor,
    vectors: Sequence[tf.Tensor],
    epsilon: float,
) -> list[tf.Tensor]:
    """Gradients of the inputs, the initial hidden state, the kernel and the vectors.

    `upstream` (B, T, units) is the gradient of the hidden states; `before` (T, B, units) are the
    hidden states before each position.
    """
    positions = tf.shape(inputs)[1]
    transposed = tf.transpose(kernel)

    def step(
        index: tf.Tensor,
        grad_hidden: tf.Tensor,
        arrays: list[tf.TensorArray],
        totals: list[tf.Tensor],
    ) -> tuple[Any, ...]:
        grad_hidden = grad_hidden + tf.cast(upstream[:, index], tf.float32)
        current = tf.cast(inputs[:, index], tf.float32)
        grad_input, grad_product, grad_hidden, terms = position_gradients(
            current, products.read(index), before[index], vectors, epsilon, grad_hidden
        )
        totals = [total + term for total, term in zip(totals, terms, strict=True)]
        grad_hidden += matrix_product(grad_product, transposed)
        new = (grad_product, grad_input)
        arrays = [array.write(index, value) for array, value in zip(arrays, new, strict=True)]
        return index - 1, grad_hidden, arrays, totals

    _, grad_hidden, arrays, grad_vectors = tf.while_loop(
        lambda index, *_: index >= 0,
        step,
        (
            positions - 1,
            tf.zeros_like(before[0]),
            [tf.TensorArray(tf.float32, positions) for _ in range(2)],
            [tf.zeros_like(vector) for vector in vectors],
        ),
        parallel_iterations=1,
    )
    grad_products, grad_inputs = (array.stack() for array in arrays)
    grad_inputs = tf.cast(swap_batch_and_time(grad_inputs), inputs.dtype)
    return [grad_inputs, grad_hidden, kernel_gradient(before, grad_products, kernel), *grad_vectors]


def position_gradients(
    current: tf.Tensor,
    product: tf.Tensor,
    hidden: tf.Tensor,
    vectors: Sequence[tf.Tensor],
    epsilon: float,
    grad_new: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Gradients at one position of `gru_position`, from that of its new hidden state (B, units).

    They are those of its inputs and product, (B, 3 units) each, of the hidden state before it
    (B, units), and the terms of this position in those of the vectors.
    """
    units = hidden.shape[-1]
    bias, *norms = vectors
    read, recurrent = current, product
    if norms:
        read_scale, read_shift, scale, shift = norms
        current, read_factor = standardised(current, epsilon)
        product, factor = standardised(product, epsilon)
        bias = bias + read_shift
        read, recurrent = current * read_scale, product * scale + shift
    read = read + bias
    gates = tf.sigmoid(read[:, : 2 * units] + recurrent[:, : 2 * units])
    reset, update = tf.split(gates, 2, axis=-1)
    of_candidate = recurrent[:, 2 * units :]
    candidate = tf.tanh(read[:, 2 * units :] + reset * of_candidate)
    grad_candidate = grad_new * (1.0 - update) * (1.0 - tf.square(candidate))
    grad_gates = tf.concat([grad_candidate * of_candidate, grad_new * (hidden - candidate)], -1)
    grad_gates = grad_gates * gates * (1.0 - gates)
    grad_read = tf.concat([grad_gates, grad_candidate], axis=-1)
    grad_recurrent = tf.concat([grad_gates, grad_candidate * reset], axis=-1)
    grad_bias = sum_over_batch(grad_read)
    if not norms:
        return grad_read, grad_recurrent, grad_new * update, [grad_bias]
    terms = [
        grad_bias,
        sum_over_batch(grad_read * current),
        grad_bias,
        sum_over_batch(grad_recurrent * product),
        sum_over_batch(grad_recurrent),
    ]
    grad_current = standardised_gradient(grad_read * read_scale, current, read_factor)
    grad_product = standardised_gradient(grad_recurrent * scale, product, factor)
    return grad_current, grad_product, grad_new * update, terms
