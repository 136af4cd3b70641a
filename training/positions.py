"""One position of the recurrent cells of heads, as functions of arrays for any backend.

They take the product of hidden state and kernel, so that a recurrence with a gradient of its own
can differentiate one position by itself and leave the gradient of the kernel to one matrix product
over all positions. Everything is computed in the precision of the arguments, float32 in training.
The formulas are those of `kvae.cells`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from keras import layers, ops

from kvae.cells import GRUCell, LSTMCell
from kvae.tensors import Tensor

Position = Callable[[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
"""Inputs (B, gates), product (B, gates), states and vectors -> the new states, (B, units) each.

The vectors are those of `vectors_of`; the first state is the hidden state.
"""

Sums = tuple[Tensor, Tensor]
"""What a GRU reads from one side: for the gates (B, 2 units), for the candidate (B, units)."""


def position_of(cell: layers.Layer) -> Position | None:
    """The position of a cell of kvae, None for other cells."""
    for kind, position in ((LSTMCell, lstm_position), (GRUCell, gru_position)):
        if isinstance(cell, kind):
            return partial(position, epsilon=cell.norms[0].epsilon if cell.norms else 0.0)
    return None


def vectors_of(cell: LSTMCell | GRUCell) -> list[Tensor]:
    """The bias of a cell, then scale and shift of each of its layer normalisations."""
    return [cell.bias, *(weight for norm in cell.norms for weight in (norm.gamma, norm.beta))]


def lstm_position(
    inputs: Tensor,
    product: Tensor,
    states: Sequence[Tensor],
    vectors: Sequence[Tensor],
    epsilon: float,
) -> list[Tensor]:
    """A `Position` of the LSTM (Ba et al. 2016, supplementary eq. 20-22)."""
    _, cell = states
    bias, *norms = vectors
    of_inputs, of_product, of_cell = norms[:2], norms[2:4], norms[4:]
    units = cell.shape[-1]
    sums = normalised(inputs, of_inputs, epsilon) + normalised(product, of_product, epsilon) + bias
    gates = ops.sigmoid(sums[:, : 3 * units])
    input_gate, forget_gate, output_gate = ops.split(gates, 3, axis=-1)
    cell = forget_gate * cell + input_gate * ops.tanh(sums[:, 3 * units :])
    return [output_gate * ops.tanh(normalised(cell, of_cell, epsilon)), cell]


def gru_position(
    inputs: Tensor,
    product: Tensor,
    states: Sequence[Tensor],
    vectors: Sequence[Tensor],
    epsilon: float,
) -> list[Tensor]:
    """A `Position` of the GRU (Cho et al. 2014; Ba et al. 2016, supplementary eq. 25)."""
    (hidden,) = states
    read, recurrent = gru_sums(inputs, product, vectors, epsilon)
    _, update, candidate = gru_activations(read, recurrent)
    return [update * hidden + (1.0 - update) * candidate]


def gru_sums(
    inputs: Tensor, product: Tensor, vectors: Sequence[Tensor], epsilon: float
) -> tuple[Sums, Sums]:
    """What the gates and the candidate of a GRU read from the inputs, and from the state."""
    bias, *norms = vectors
    read = normalised(inputs, norms[:2], epsilon) + bias
    recurrent = normalised(product, norms[2:], epsilon)
    return of_gates_and_candidate(read), of_gates_and_candidate(recurrent)


def of_gates_and_candidate(values: Tensor) -> Sums:
    """Values (..., 3 units) as those of the two gates (..., 2 units) and of the candidate."""
    units = values.shape[-1] // 3
    return values[..., : 2 * units], values[..., 2 * units :]


def gru_activations(read: Sums, recurrent: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Reset gate, update gate and candidate of a GRU, (B, units) each."""
    reset, update = ops.split(ops.sigmoid(read[0] + recurrent[0]), 2, axis=-1)
    return reset, update, ops.tanh(read[1] + reset * recurrent[1])


def normalised(values: Tensor, norm: Sequence[Tensor], epsilon: float) -> Tensor:
    """Layer normalisation of values (B, n) with scale and shift (n,); as they are without these."""
    if not norm:
        return values
    scale, shift = norm
    centred = values - ops.mean(values, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centred), axis=-1, keepdims=True)
    return centred * ops.rsqrt(variance + epsilon) * scale + shift
