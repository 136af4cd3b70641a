"""The GRU of the recurrent heads on TensorFlow, with a gradient of its own.

The forward loop stores the activations that the backward loop needs, and one matrix product after
the loop gives the gradient of the kernel, as for the LSTM (`tensorflow_recurrence`). With layer
normalisation the backward loop standardises inputs and products again, which is cheap, instead of
storing them twice. The gradient of a position is written by hand, because automatic differentiation
would build a graph with many more operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from kvae.cells import GRUCell

from .positions import (
    Sums,
    gru_activations,
    gru_sums,
    of_gates_and_candidate,
    vectors_of,
)
from .tensorflow_recurrence import (
    kernel_gradient,
    matrix_product,
    sigmoid_gradient,
    standardised,
    standardised_gradient,
    sum_over_batch,
    swap_batch_and_time,
    tanh_gradient,
)


class Activations(NamedTuple):
    """Values of the forward loop that the backward loop needs.

    They are TensorArrays with one entry (B, ...) per position, or such entries.
    """

    reset: Any
    update: Any
    """The gates, (B, units) each."""
    candidate: Any
    """The candidate for the hidden state, (B, units)."""
    of_state: Any
    """The part of the candidate that the reset gate multiplies, (B, units)."""
    product: Any = None
    """The product of hidden state and kernel, (B, 3 units), with layer normalisation."""


def gru(
    layer: GRUCell, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool
) -> tf.Tensor:
    """Hidden states (B, T, units) of `layer` for inputs (B, T, 3 units).

    `states` is the initial hidden state, (B, units). Matrix products are computed in the precision
    of `inputs`, everything else in float32. As with the LSTM, the function has its own gradient
    only in training.
    """
    epsilon = layer.norms[0].epsilon if layer.norms else 0.0
    precision = inputs.dtype

    def with_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        half = tf.cast(kernel, precision)
        outputs, arrays = forward(inputs, hidden, half, vectors, epsilon, save=True)
        before = tf.concat([hidden[None], outputs[:-1]], axis=0)
        saved = Activations(*arrays)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            return backward(upstream, inputs, before, saved, half, vectors, epsilon)

        return swap_batch_and_time(outputs), gradient

    def without_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, kernel: tf.Tensor, *vectors: tf.Tensor
    ) -> tf.Tensor:
        half = tf.cast(kernel, precision)
        return swap_batch_and_time(forward(inputs, hidden, half, vectors, epsilon, save=False)[0])

    run = tf.custom_gradient(with_gradient) if training else without_gradient
    others = (*states, layer.kernel, *vectors_of(layer))
    return tf.cast(run(inputs, *(tf.cast(value, tf.float32) for value in others)), precision)


def forward(
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    kernel: tf.Tensor,
    vectors: Sequence[tf.Tensor],
    epsilon: float,
    save: bool,
) -> tuple[tf.Tensor, list[tf.TensorArray]]:
    """Hidden states (T, B, units), and with `save` the fields of `Activations` in their order."""
    positions = tf.shape(inputs)[1]
    sums = sums_at_position(inputs, kernel, vectors, epsilon)
    fields = Activations._fields if len(vectors) > 1 else Activations._fields[:-1]
    arrays = [
        tf.TensorArray(tf.float32, positions, clear_after_read=False)
        for _ in ("hidden", *(fields if save else ()))
    ]

    def step(index: tf.Tensor, hidden: tf.Tensor, arrays: list[tf.TensorArray]) -> tuple[Any, ...]:
        read, recurrent, product = sums(index, hidden)
        reset, update, candidate = gru_activations(read, recurrent)
        hidden = candidate + update * (hidden - candidate)
        new = (hidden, *Activations(reset, update, candidate, recurrent[1], product))
        arrays = [array.write(index, value) for array, value in zip(arrays, new, strict=False)]
        return index + 1, hidden, arrays

    _, _, (outputs, *others) = tf.while_loop(
        lambda index, *_: index < positions, step, (0, hidden, arrays), parallel_iterations=1
    )
    return outputs.stack(), others


def sums_at_position(
    inputs: tf.Tensor,
    kernel: tf.Tensor,
    vectors: Sequence[tf.Tensor],
    epsilon: float,
) -> Callable[[tf.Tensor, tf.Tensor], tuple[Sums, Sums, tf.Tensor | None]]:
    """A function of a position and the hidden state before it, (B, units).

    It returns what the cell reads from the inputs and from the state, and with layer normalisation
    the product of state and kernel. Without it inputs and kernel are cut before the loop: to cut
    the sums at every position would take longer than to compute them.
    """
    if len(vectors) > 1:

        def normalised(index: tf.Tensor, hidden: tf.Tensor) -> tuple[Sums, Sums, tf.Tensor | None]:
            product = matrix_product(hidden, kernel)
            current = tf.cast(inputs[:, index], tf.float32)
            return *gru_sums(current, product, vectors, epsilon), product

        return normalised
    read = of_gates_and_candidate(tf.cast(inputs, tf.float32) + vectors[0])
    kernels = of_gates_and_candidate(kernel)

    def plain(index: tf.Tensor, hidden: tf.Tensor) -> tuple[Sums, Sums, tf.Tensor | None]:
        of_gates, of_candidate = (matrix_product(hidden, part) for part in kernels)
        return (read[0][:, index], read[1][:, index]), (of_gates, of_candidate), None

    return plain


def backward(
    upstream: tf.Tensor,
    inputs: tf.Tensor,
    before: tf.Tensor,
    saved: Activations,
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
        values = Activations(*(array and array.read(index) for array in saved))
        grad_input, grad_product, grad_hidden, terms = position_gradients(
            current, before[index], values, vectors, epsilon, grad_hidden
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
    hidden: tf.Tensor,
    values: Activations,
    vectors: Sequence[tf.Tensor],
    epsilon: float,
    grad_new: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Gradients at one position of the GRU, from that of its new hidden state (B, units).

    They are those of its inputs `current` and product, (B, 3 units) each, of the state `hidden`
    before it (B, units) apart from the product, and the terms of this position in those of the
    vectors.
    """
    grad_hidden = grad_new * values.update
    grad_candidate = tanh_gradient(values.candidate, grad_new - grad_hidden)
    grad_gates = [
        sigmoid_gradient(values.reset, grad_candidate * values.of_state),
        sigmoid_gradient(values.update, grad_new * (hidden - values.candidate)),
    ]
    grad_read = tf.concat([*grad_gates, grad_candidate], axis=-1)
    grad_recurrent = tf.concat([*grad_gates, grad_candidate * values.reset], axis=-1)
    grad_bias = sum_over_batch(grad_read)
    if values.product is None:
        return grad_read, grad_recurrent, grad_hidden, [grad_bias]
    _, read_scale, _, scale, _ = vectors
    current, read_factor = standardised(current, epsilon)
    product, factor = standardised(values.product, epsilon)
    terms = [
        grad_bias,
        sum_over_batch(grad_read * current),
        grad_bias,
        sum_over_batch(grad_recurrent * product),
        sum_over_batch(grad_recurrent),
    ]
    grad_current = standardised_gradient(grad_read * read_scale, current, read_factor)
    grad_product = standardised_gradient(grad_recurrent * scale, product, factor)
    return grad_current, grad_product, grad_hidden, terms
