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
    """What the way back reads, position by position: (T, B, ...) as arrays of tensors."""

    gates: Any
    """Input, forget and output gate: (B, 3 units)."""
    candidate: Any
    cell: Any
    """Before the position."""
    shown: Any
    """tanh of the (normalised) cell behind it."""
    product: Any
    """Of hidden state and kernel, normalised: (B, 4 units)."""
    product_scale: Any
    """What it was divided by: (B, 1), as its reciprocal."""
    normal_cell: Any
    cell_scale: Any


NORMALIZED = ("product", "product_scale", "normal_cell", "cell_scale")


def lstm(layer: LSTMCell, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool) -> tf.Tensor:
    """Hidden states (B, T, units) of `layer` for inputs (B, T, 4 units), from the first hidden and cell state, (B, units) each.

    Products are computed in the precision of `inputs`, all else in float32. It has its own gradient, and keeps what that wants,
    only while training: a SavedModel holds no such gradients.
    """
    epsilon = layer.normalize_hidden.epsilon if layer.norms else 0.0
    precision = inputs.dtype

    @tf.custom_gradient
    def learning(inputs: Any, hidden: Any, cell: Any, kernel: Any, *norms: Any) -> tuple[Any, Callable[[Any], Any]]:
        kernel = tf.cast(kernel, precision)
        outputs, kept = forward(by_position(inputs), hidden, cell, kernel, norms, epsilon, keep=True)

        def gradient(upstream: Any) -> list[Any]:
            of_inputs, *others = backward(by_position(upstream), outputs, kept, hidden, kernel, norms)
            return [tf.cast(by_position(of_inputs), precision), *others]

        return by_position(outputs), gradient

    def reading(inputs: Any, hidden: Any, cell: Any, kernel: Any, *norms: Any) -> Any:
        kernel = tf.cast(kernel, precision)
        return by_position(forward(by_position(inputs), hidden, cell, kernel, norms, epsilon, keep=False)[0])

    run = learning if training else reading
    weights = [layer.kernel, *(weight for norm in layer.norms for weight in (norm.gamma, norm.beta))]
    return tf.cast(run(inputs, *(tf.cast(value, tf.float32) for value in (*states, *weights))), precision)


def by_position(values: tf.Tensor) -> tf.Tensor:
    """(B, T, n) as (T, B, n), and back."""
    return tf.transpose(values, (1, 0, 2))


def multiplied(values: tf.Tensor, kernel: tf.Tensor, **options: Any) -> tf.Tensor:
    """A product in the kernel's precision, as float32."""
    return tf.cast(tf.matmul(tf.cast(values, kernel.dtype), kernel, **options), tf.float32)


def forward(
    inputs: Any, hidden: Any, cell: Any, kernel: Any, norms: Sequence[Any], epsilon: float, keep: bool
) -> tuple[Any, Kept]:
    """Hidden states (T, B, units), and what the way back wants, where it is to be kept."""
    units, positions = hidden.shape[-1], tf.shape(inputs)[0]
    read = tf.TensorArray(inputs.dtype, positions, element_shape=inputs.shape[1:]).unstack(inputs)
    names = [name for name in Kept._fields if keep and (norms or name not in NORMALIZED)]
    arrays = [tf.TensorArray(tf.float32, positions, clear_after_read=False) for _ in ("hidden", *names)]

    def turn(position: Any, hidden: Any, cell: Any, *arrays: Any) -> tuple[Any, ...]:
        kept = {"cell": cell}
        product = multiplied(hidden, kernel)
        if norms:
            kept["product"], kept["product_scale"] = normal(product, epsilon)
            product = kept["product"] * norms[0] + norms[1]
        sums = tf.cast(read.read(position), tf.float32) + product
        kept["gates"] = tf.sigmoid(sums[:, : 3 * units])
        kept["candidate"] = tf.tanh(sums[:, 3 * units :])
        input_gate, forget_gate, output_gate = tf.split(kept["gates"], 3, axis=-1)
        cell = forget_gate * cell + input_gate * kept["candidate"]
        shown = cell
        if norms:
            kept["normal_cell"], kept["cell_scale"] = normal(cell, epsilon)
            shown = kept["normal_cell"] * norms[2] + norms[3]
        kept["shown"] = tf.tanh(shown)
        hidden = output_gate * kept["shown"]
        written = [hidden, *(kept[name] for name in names)]
        arrays = [array.write(position, value) for array, value in zip(arrays, written, strict=True)]
        return position + 1, hidden, cell, *arrays

    _, _, _, outputs, *arrays = tf.while_loop(
        lambda position, *_: position < positions, turn, (0, hidden, cell, *arrays), parallel_iterations=1
    )
    return outputs.stack(), Kept(**{**dict.fromkeys(Kept._fields), **dict(zip(names, arrays, strict=True))})


def backward(upstream: Any, outputs: Any, kept: Kept, hidden: Any, kernel: Any, norms: Sequence[Any]) -> list[Any]:
    """Gradients of inputs, first hidden and cell state, kernel and norms, from those of the hidden states."""
    units, positions = hidden.shape[-1], tf.shape(upstream)[0]
    read = tf.TensorArray(tf.float32, positions).unstack(upstream)
    arrays = [tf.TensorArray(tf.float32, positions) for _ in range(2 if norms else 1)]
    turned = tf.transpose(kernel)
    of_norms = [tf.zeros_like(norm) for norm in norms]

    def turn(position: Any, of_hidden: Any, of_cell: Any, arrays: Any, of_norms: Any) -> tuple[Any, ...]:
        at = Kept(*(array and array.read(position) for array in kept))
        input_gate, forget_gate, output_gate = tf.split(at.gates, 3, axis=-1)
        of_hidden = of_hidden + read.read(position)
        of_shown = of_hidden * output_gate * (1.0 - tf.square(at.shown))
        if norms:
            of_norms = [
                *of_norms[:2],
                of_norms[2] + over_texts(of_shown * at.normal_cell),
                of_norms[3] + over_texts(of_shown),
            ]
            of_shown = through_normal(of_shown * norms[2], at.normal_cell, at.cell_scale)
        of_cell = of_cell + of_shown
        of_gates = tf.concat([of_cell * at.candidate, of_cell * at.cell, of_hidden * at.shown], axis=-1)
        of_sums = tf.concat(
            [of_gates * at.gates * (1.0 - at.gates), of_cell * input_gate * (1.0 - tf.square(at.candidate))], axis=-1
        )
        of_product = of_sums
        if norms:
            of_norms = [
                of_norms[0] + over_texts(of_sums * at.product),
                of_norms[1] + over_texts(of_sums),
                *of_norms[2:],
            ]
            of_product = through_normal(of_sums * norms[0], at.product, at.product_scale)
        written = (of_sums, of_product)
        arrays = [array.write(position, value) for array, value in zip(arrays, written, strict=False)]
        return position - 1, multiplied(of_product, turned), of_cell * forget_gate, arrays, of_norms

    _, of_hidden, of_cell, arrays, of_norms = tf.while_loop(
        lambda position, *_: position >= 0,
        turn,
        (positions - 1, tf.zeros_like(hidden), tf.zeros_like(hidden), arrays, of_norms),
        parallel_iterations=1,
    )
    of_sums, of_products = arrays[0].stack(), arrays[-1].stack()
    before = tf.concat([hidden[None], outputs[:-1]], axis=0)
    of_kernel = multiplied(
        tf.reshape(before, (-1, units)),
        tf.cast(tf.reshape(of_products, (-1, 4 * units)), kernel.dtype),
        transpose_a=True,
    )
    return [of_sums, of_hidden, of_cell, of_kernel, *of_norms]


def normal(values: Any, epsilon: float) -> tuple[Any, Any]:
    """Values (B, n) with mean 0 and variance 1 in each row, and the factor (B, 1) that made it so."""
    centred = values - tf.reduce_mean(values, axis=-1, keepdims=True)
    scale = tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + epsilon)
    return centred * scale, scale


def through_normal(of_values: Any, values: Any, scale: Any) -> Any:
    """The gradient of what `normal` was given, from that of what it made."""
    mean = tf.reduce_mean(of_values, axis=-1, keepdims=True)
    along = tf.reduce_mean(of_values * values, axis=-1, keepdims=True)
    return scale * (of_values - mean - values * along)


def over_texts(values: Any) -> Any:
    """(B, n) -> (n,)."""
    return tf.reduce_sum(values, axis=0)
