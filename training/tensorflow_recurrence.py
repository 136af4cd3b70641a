"""The LSTM of the recurrent heads on TensorFlow, with a gradient of its own.

Automatic differentiation of a loop keeps whatever an operation has read and adds up the kernel's gradient position by position.
Here the way back keeps the gradients of what the kernel made and forms its own in one product behind the loop; inside the
loops stands one product a position, and no more beside it than the equations need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from kvae.heads import LSTMCell


class Kept(NamedTuple):
    """What the way back reads, position by position: (T, B, ...) as arrays of tensors. The last six exist with layer
    normalisation alone: what each made normal, and the factor (B, 1) that made it so."""

    gates: Any
    """Input, forget and output gate: (B, 3 units)."""
    candidate: Any
    before: Any
    """The cell before the position."""
    shown: Any
    """tanh of the (normalised) cell behind it."""
    inputs: Any = None
    inputs_factor: Any = None
    product: Any = None
    product_factor: Any = None
    cell: Any = None
    cell_factor: Any = None


class Weights(NamedTuple):
    """Of a cell, in float32 but for the kernel; scales and shifts are those of the layer normalisation."""

    kernel: Any
    bias: Any
    inputs_scale: Any = None
    inputs_shift: Any = None
    product_scale: Any = None
    product_shift: Any = None
    cell_scale: Any = None
    cell_shift: Any = None

    @property
    def shift(self) -> Any:
        """All that is added to the gates wherever they come from."""
        return (
            self.bias
            if self.inputs_shift is None
            else self.bias + self.inputs_shift + self.product_shift
        )


def lstm(
    layer: LSTMCell, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool
) -> tf.Tensor:
    """Hidden states (B, T, units) of `layer` for inputs (B, T, 4 units), from the first hidden and cell state, (B, units) each.

    Products are computed in the precision of `inputs`, all else in float32. It has its own gradient, and keeps what that wants,
    only while training: a SavedModel holds no such gradients.
    """
    epsilon = layer.normalize_hidden.epsilon if layer.norms else 0.0
    precision = inputs.dtype

    @tf.custom_gradient
    def learning(
        inputs: Any, hidden: Any, cell: Any, kernel: Any, *others: Any
    ) -> tuple[Any, Callable[[Any], Any]]:
        weights = Weights(tf.cast(kernel, precision), *others)
        outputs, kept = forward(inputs, hidden, cell, weights, epsilon, keep=True)

        def gradient(upstream: Any) -> list[Any]:
            of_inputs, *of_others = backward(upstream, outputs, kept, hidden, weights)
            return [tf.cast(by_position(of_inputs), precision), *of_others]

        return by_position(outputs), gradient

    def reading(inputs: Any, hidden: Any, cell: Any, kernel: Any, *others: Any) -> Any:
        weights = Weights(tf.cast(kernel, precision), *others)
        return by_position(forward(inputs, hidden, cell, weights, epsilon, keep=False)[0])

    run = learning if training else reading
    weights = [
        layer.kernel,
        layer.bias,
        *(weight for norm in layer.norms for weight in (norm.gamma, norm.beta)),
    ]
    return tf.cast(
        run(inputs, *(tf.cast(value, tf.float32) for value in (*states, *weights))), precision
    )


def by_position(values: tf.Tensor) -> tf.Tensor:
    """(B, T, n) as (T, B, n), and back."""
    return tf.transpose(values, (1, 0, 2))


def multiplied(values: tf.Tensor, kernel: tf.Tensor, **options: Any) -> tf.Tensor:
    """A product in the kernel's precision, as float32."""
    return tf.cast(tf.matmul(tf.cast(values, kernel.dtype), kernel, **options), tf.float32)


def forward(
    inputs: Any, hidden: Any, cell: Any, weights: Weights, epsilon: float, keep: bool
) -> tuple[Any, Any]:
    """Hidden states (T, B, units), and what the way back wants, or None where nothing is to be kept."""
    units, positions = hidden.shape[-1], tf.shape(inputs)[1]
    normalised = weights.inputs_scale is not None
    names = [
        name for name in Kept._fields if keep and (normalised or name not in Kept._field_defaults)
    ]
    arrays = [
        tf.TensorArray(tf.float32, positions, clear_after_read=False) for _ in ("hidden", *names)
    ]
    shift = weights.shift

    def turn(position: Any, hidden: Any, cell: Any, *arrays: Any) -> tuple[Any, ...]:
        found = {"before": cell}
        product, read = multiplied(hidden, weights.kernel), tf.cast(inputs[:, position], tf.float32)
        if normalised:
            found["inputs"], found["inputs_factor"] = normal(read, epsilon)
            found["product"], found["product_factor"] = normal(product, epsilon)
            read, product = (
                found["inputs"] * weights.inputs_scale,
                found["product"] * weights.product_scale,
            )
        sums = read + product + shift
        found["gates"] = tf.sigmoid(sums[:, : 3 * units])
        found["candidate"] = tf.tanh(sums[:, 3 * units :])
        input_gate, forget_gate, output_gate = tf.split(found["gates"], 3, axis=-1)
        cell = forget_gate * cell + input_gate * found["candidate"]
        shown = cell
        if normalised:
            found["cell"], found["cell_factor"] = normal(cell, epsilon)
            shown = found["cell"] * weights.cell_scale + weights.cell_shift
        found["shown"] = tf.tanh(shown)
        hidden = output_gate * found["shown"]
        new = [hidden, *(found[name] for name in names)]
        arrays = tuple(
            array.write(position, value) for array, value in zip(arrays, new, strict=True)
        )
        return position + 1, hidden, cell, *arrays

    _, _, _, outputs, *kept = tf.while_loop(
        lambda position, *_: position < positions,
        turn,
        (0, hidden, cell, *arrays),
        parallel_iterations=1,
    )
    return outputs.stack(), Kept(*kept) if keep else None


def backward(upstream: Any, outputs: Any, kept: Kept, hidden: Any, weights: Weights) -> list[Any]:
    """Gradients of inputs, first hidden and cell state and of the weights in their order, from those of the hidden states."""
    units, positions = hidden.shape[-1], tf.shape(upstream)[1]
    normalised = weights.inputs_scale is not None
    arrays = [tf.TensorArray(tf.float32, positions) for _ in range(2 if normalised else 1)]
    turned = tf.transpose(weights.kernel)
    scales = [
        weights.bias,
        weights.inputs_scale,
        weights.product_scale,
        weights.cell_scale,
        weights.cell_shift,
    ]
    summed = scales if normalised else scales[:1]

    def turn(
        position: Any, of_hidden: Any, of_cell: Any, arrays: Any, of_others: Any
    ) -> tuple[Any, ...]:
        at = Kept(*(array and array.read(position) for array in kept))
        input_gate, forget_gate, output_gate = tf.split(at.gates, 3, axis=-1)
        of_hidden = of_hidden + tf.cast(upstream[:, position], tf.float32)
        of_norms: list[Any] = []
        of_shown = of_hidden * output_gate * (1.0 - tf.square(at.shown))
        if normalised:
            of_norms = [over_texts(of_shown * at.cell), over_texts(of_shown)]
            of_shown = through_normal(of_shown * weights.cell_scale, at.cell, at.cell_factor)
        of_cell = of_cell + of_shown
        of_gates = tf.concat(
            [of_cell * at.candidate, of_cell * at.before, of_hidden * at.shown], axis=-1
        )
        of_sums = tf.concat(
            [
                of_gates * at.gates * (1.0 - at.gates),
                of_cell * input_gate * (1.0 - tf.square(at.candidate)),
            ],
            axis=-1,
        )
        of_inputs = of_product = of_sums
        if normalised:
            of_inputs = through_normal(of_sums * weights.inputs_scale, at.inputs, at.inputs_factor)
            of_product = through_normal(
                of_sums * weights.product_scale, at.product, at.product_factor
            )
            of_norms = [
                over_texts(of_sums * at.inputs),
                over_texts(of_sums * at.product),
                *of_norms,
            ]
        here = [over_texts(of_sums), *of_norms]
        of_others = [before + more for before, more in zip(of_others, here, strict=True)]
        new = (of_product, of_inputs)
        arrays = [array.write(position, value) for array, value in zip(arrays, new, strict=False)]
        return (
            position - 1,
            multiplied(of_product, turned),
            of_cell * forget_gate,
            arrays,
            of_others,
        )

    _, of_hidden, of_cell, arrays, of_others = tf.while_loop(
        lambda position, *_: position >= 0,
        turn,
        (
            positions - 1,
            tf.zeros_like(hidden),
            tf.zeros_like(hidden),
            arrays,
            [tf.zeros_like(weight) for weight in summed],
        ),
        parallel_iterations=1,
    )
    of_products, of_inputs = arrays[0].stack(), arrays[-1].stack()
    before = tf.reshape(tf.concat([hidden[None], outputs[:-1]], axis=0), (-1, units))
    columns = tf.cast(tf.reshape(of_products, (-1, 4 * units)), weights.kernel.dtype)
    of_kernel = multiplied(before, columns, transpose_a=True)
    found = [of_inputs, of_hidden, of_cell, of_kernel]
    if not normalised:
        return [*found, *of_others]
    of_shift, of_inputs_scale, of_product_scale, *of_cell_norm = of_others
    return [*found, of_shift, of_inputs_scale, of_shift, of_product_scale, of_shift, *of_cell_norm]


def normal(values: Any, epsilon: float) -> tuple[Any, Any]:
    """Values (B, n) with mean 0 and variance 1 in each row, and the factor (B, 1) that made it so."""
    centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    factor = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * factor, factor


def through_normal(of_values: Any, values: Any, factor: Any) -> Any:
    """The gradient of what `normal` was given, from that of what it made."""
    mean = tf.reduce_mean(of_values, axis=-1, keepdims=True)
    along = tf.reduce_mean(of_values * values, axis=-1, keepdims=True)
    return factor * (of_values - mean - values * along)


def over_texts(values: Any) -> Any:
    """(B, n) -> (n,)."""
    return tf.reduce_sum(values, axis=0)
