"""The LSTM of the recurrent heads on TensorFlow, with a gradient of its own.

Automatic differentiation of the loop stores whatever an operation has read, and adds up the
gradient of the kernel position by position. Here the backward loop stores the gradients of the
kernel's outputs, and one matrix product after the loop gives the gradient of the kernel. Each loop
then has one matrix product per position and only the element-wise operations that the equations
need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from kvae.cells import LSTMCell


class Activations(NamedTuple):
    """Values of the forward loop that the backward loop needs.

    They are TensorArrays with one entry (B, ...) per position, or such entries. Only layer
    normalisation has the last six: three standardised values, and for each the factor (B, 1) of
    `standardised`.
    """

    gates: Any
    """Input, forget and output gate, (B, 3 units)."""
    candidate: Any
    """The candidate for the cell state, (B, units)."""
    previous_cell: Any
    """The cell state before the position, (B, units)."""
    cell_output: Any
    """tanh of the (normalised) new cell state, (B, units)."""
    inputs: Any = None
    inputs_factor: Any = None
    product: Any = None
    product_factor: Any = None
    cell: Any = None
    cell_factor: Any = None


class Weights(NamedTuple):
    """Weights of a cell, in float32 except for the kernel.

    Scales and shifts are those of layer normalisation, None without it.
    """

    kernel: tf.Tensor
    bias: tf.Tensor
    inputs_scale: tf.Tensor | None = None
    inputs_shift: tf.Tensor | None = None
    product_scale: tf.Tensor | None = None
    product_shift: tf.Tensor | None = None
    cell_scale: tf.Tensor | None = None
    cell_shift: tf.Tensor | None = None

    @property
    def shift(self) -> tf.Tensor:
        """The sum of bias and shifts that is added to the gates, (4 units,)."""
        if self.inputs_shift is None:
            return self.bias
        return self.bias + self.inputs_shift + self.product_shift

    @property
    def vectors(self) -> list[tf.Tensor]:
        """The vectors whose gradients differ; those of all shifts equal that of the bias."""
        if self.inputs_scale is None:
            return [self.bias]
        scales = [self.inputs_scale, self.product_scale, self.cell_scale]
        return [self.bias, *scales, self.cell_shift]


def lstm(
    layer: LSTMCell, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool
) -> tf.Tensor:
    """Hidden states (B, T, units) of `layer` for inputs (B, T, 4 units).

    `states` are the initial hidden and cell state, (B, units) each. Matrix products are computed in
    the precision of `inputs`, everything else in float32. Only in training does the function have
    its own gradient and store activations, because a SavedModel cannot contain such a gradient.
    """
    epsilon = layer.normalize_hidden.epsilon if layer.norms else 0.0
    precision = inputs.dtype

    def with_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, kernel: tf.Tensor, *others: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], list[tf.Tensor]]]:
        weights = Weights(tf.cast(kernel, precision), *others)
        outputs, arrays = forward(inputs, hidden, cell, weights, epsilon, save=True)
        saved = Activations(*arrays)

        def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
            grad_inputs, *grad_others = backward(upstream, outputs, saved, hidden, weights)
            return [tf.cast(swap_batch_and_time(grad_inputs), precision), *grad_others]

        return swap_batch_and_time(outputs), gradient

    def without_gradient(
        inputs: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, kernel: tf.Tensor, *others: tf.Tensor
    ) -> tf.Tensor:
        weights = Weights(tf.cast(kernel, precision), *others)
        outputs, _ = forward(inputs, hidden, cell, weights, epsilon, save=False)
        return swap_batch_and_time(outputs)

    run = tf.custom_gradient(with_gradient) if training else without_gradient
    weights = [
        layer.kernel,
        layer.bias,
        *(weight for norm in layer.norms for weight in (norm.gamma, norm.beta)),
    ]
    return tf.cast(
        run(inputs, *(tf.cast(value, tf.float32) for value in (*states, *weights))), precision
    )


def swap_batch_and_time(values: tf.Tensor) -> tf.Tensor:
    """(B, T, n) as (T, B, n), and back."""
    return tf.transpose(values, (1, 0, 2))


def matrix_product(values: tf.Tensor, kernel: tf.Tensor, **options: Any) -> tf.Tensor:
    """`values` @ `kernel`, computed in the precision of the kernel and returned in float32."""
    return tf.cast(tf.matmul(tf.cast(values, kernel.dtype), kernel, **options), tf.float32)


def forward(
    inputs: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    weights: Weights,
    epsilon: float,
    save: bool,
) -> tuple[tf.Tensor, list[tf.TensorArray]]:
    """Hidden states (T, B, units), and with `save` the fields of `Activations` in their order."""
    units, positions = hidden.shape[-1], tf.shape(inputs)[1]
    normalised = weights.inputs_scale is not None
    names = [
        name
        for name in Activations._fields
        if save and (normalised or name not in Activations._field_defaults)
    ]
    arrays = [
        tf.TensorArray(tf.float32, positions, clear_after_read=False) for _ in ("hidden", *names)
    ]
    shift = weights.shift

    def step(
        position: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, *arrays: tf.TensorArray
    ) -> tuple[Any, ...]:
        values = {"previous_cell": cell}
        product = matrix_product(hidden, weights.kernel)
        current = tf.cast(inputs[:, position], tf.float32)
        if normalised:
            values["inputs"], values["inputs_factor"] = standardised(current, epsilon)
            values["product"], values["product_factor"] = standardised(product, epsilon)
            current = values["inputs"] * weights.inputs_scale
            product = values["product"] * weights.product_scale
        sums = current + product + shift
        values["gates"] = tf.sigmoid(sums[:, : 3 * units])
        values["candidate"] = tf.tanh(sums[:, 3 * units :])
        input_gate, forget_gate, output_gate = tf.split(values["gates"], 3, axis=-1)
        cell = forget_gate * cell + input_gate * values["candidate"]
        cell_output = cell
        if normalised:
            values["cell"], values["cell_factor"] = standardised(cell, epsilon)
            cell_output = values["cell"] * weights.cell_scale + weights.cell_shift
        values["cell_output"] = tf.tanh(cell_output)
        hidden = output_gate * values["cell_output"]
        new = [hidden, *(values[name] for name in names)]
        arrays = tuple(
            array.write(position, value) for array, value in zip(arrays, new, strict=True)
        )
        return position + 1, hidden, cell, *arrays

    _, _, _, outputs, *saved = tf.while_loop(
        lambda position, *_: position < positions,
        step,
        (0, hidden, cell, *arrays),
        parallel_iterations=1,
    )
    return outputs.stack(), saved


def backward(
    upstream: tf.Tensor,
    outputs: tf.Tensor,
    saved: Activations,
    hidden: tf.Tensor,
    weights: Weights,
) -> list[tf.Tensor]:
    """Gradients of the inputs, the initial hidden and cell state, and the weights in their order.

    `upstream` (B, T, units) is the gradient of the hidden states `outputs` (T, B, units); `hidden`
    (B, units) is the initial hidden state.
    """
    positions = tf.shape(upstream)[1]
    normalised = weights.inputs_scale is not None
    arrays = [tf.TensorArray(tf.float32, positions) for _ in range(2 if normalised else 1)]
    transposed_kernel = tf.transpose(weights.kernel)

    def step(
        position: tf.Tensor,
        grad_hidden: tf.Tensor,
        grad_cell: tf.Tensor,
        arrays: list[tf.TensorArray],
        grad_vectors: list[tf.Tensor],
    ) -> tuple[Any, ...]:
        values = Activations(*(array and array.read(position) for array in saved))
        grad_hidden = grad_hidden + tf.cast(upstream[:, position], tf.float32)
        grad_cell, grad_product, grad_inputs, terms = position_gradients(
            values, grad_hidden, grad_cell, weights
        )
        grad_vectors = [total + term for total, term in zip(grad_vectors, terms, strict=True)]
        new = (grad_product, grad_inputs)
        arrays = [array.write(position, value) for array, value in zip(arrays, new, strict=False)]
        grad_hidden = matrix_product(grad_product, transposed_kernel)
        return position - 1, grad_hidden, grad_cell, arrays, grad_vectors

    _, grad_hidden, grad_cell, arrays, grad_vectors = tf.while_loop(
        lambda position, *_: position >= 0,
        step,
        (
            positions - 1,
            tf.zeros_like(hidden),
            tf.zeros_like(hidden),
            arrays,
            [tf.zeros_like(weight) for weight in weights.vectors],
        ),
        parallel_iterations=1,
    )
    grad_products, grad_inputs = arrays[0].stack(), arrays[-1].stack()
    before = tf.concat([hidden[None], outputs[:-1]], axis=0)
    grad_kernel = kernel_gradient(before, grad_products, weights.kernel)
    gradients = [grad_inputs, grad_hidden, grad_cell, grad_kernel]
    if not normalised:
        return [*gradients, *grad_vectors]
    grad_shift, grad_inputs_scale, grad_product_scale, *grad_cell_norm = grad_vectors
    grad_norms = [grad_inputs_scale, grad_shift, grad_product_scale, grad_shift, *grad_cell_norm]
    return [*gradients, grad_shift, *grad_norms]


def kernel_gradient(before: tf.Tensor, grad_products: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The gradient of the kernel (units, gates), in one matrix product over all positions.

    `grad_products` (T, B, gates) are the gradients of the products of the kernel and `before`
    (T, B, units), the hidden states before each position.
    """
    rows, columns = (
        tf.reshape(values, (-1, values.shape[-1])) for values in (before, grad_products)
    )
    return matrix_product(rows, tf.cast(columns, kernel.dtype), transpose_a=True)


def position_gradients(
    values: Activations, grad_hidden: tf.Tensor, grad_cell: tf.Tensor, weights: Weights
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Gradients at one position, from those of its hidden and new cell state, (B, units) each.

    They are those of the previous cell state (B, units), of the product of hidden state and kernel
    and of the inputs, (B, 4 units) each, and the terms of this position in those of the vectors
    among the weights.
    """
    input_gate, forget_gate, output_gate = tf.split(values.gates, 3, axis=-1)
    normalised = weights.inputs_scale is not None
    grad_norms: list[tf.Tensor] = []
    grad_output = tanh_gradient(values.cell_output, grad_hidden * output_gate)
    if normalised:
        grad_norms = [sum_over_batch(grad_output * values.cell), sum_over_batch(grad_output)]
        grad_output = standardised_gradient(
            grad_output * weights.cell_scale, values.cell, values.cell_factor
        )
    grad_cell = grad_cell + grad_output
    grad_gates = tf.concat(
        [
            grad_cell * values.candidate,
            grad_cell * values.previous_cell,
            grad_hidden * values.cell_output,
        ],
        axis=-1,
    )
    grad_candidate = tanh_gradient(values.candidate, grad_cell * input_gate)
    grad_sums = tf.concat([sigmoid_gradient(values.gates, grad_gates), grad_candidate], axis=-1)
    grad_inputs = grad_product = grad_sums
    if normalised:
        grad_inputs = standardised_gradient(
            grad_sums * weights.inputs_scale, values.inputs, values.inputs_factor
        )
        grad_product = standardised_gradient(
            grad_sums * weights.product_scale, values.product, values.product_factor
        )
        grad_norms = [
            sum_over_batch(grad_sums * values.inputs),
            sum_over_batch(grad_sums * values.product),
            *grad_norms,
        ]
    terms = [sum_over_batch(grad_sums), *grad_norms]
    return grad_cell * forget_gate, grad_product, grad_inputs, terms


def standardised(values: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Values (B, n) scaled to mean 0 and variance 1 in each row, and the factor (B, 1) of that."""
    centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    factor = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * factor, factor


def standardised_gradient(upstream: tf.Tensor, values: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """The gradient of the input of `standardised`, from that of its output `values`: (B, n)."""
    mean = tf.reduce_mean(upstream, axis=-1, keepdims=True)
    projection = tf.reduce_mean(upstream * values, axis=-1, keepdims=True)
    return factor * (upstream - mean - values * projection)


def sigmoid_gradient(activations: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The gradient of the input of a sigmoid, from that of its output `activations`."""
    return tf.raw_ops.SigmoidGrad(y=activations, dy=upstream)


def tanh_gradient(activations: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """The gradient of the input of a tanh, from that of its output `activations`."""
    return tf.raw_ops.TanhGrad(y=activations, dy=upstream)


def sum_over_batch(values: tf.Tensor) -> tf.Tensor:
    """(B, n) -> (n,)."""
    return tf.reduce_sum(values, axis=0)
