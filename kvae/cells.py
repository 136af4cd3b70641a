"""The recurrent cells of heads: one step of an LSTM or of a GRU, with layer normalisation."""

from __future__ import annotations

from typing import Any

from keras import layers, ops

from .configuration import ModelConfig
from .tensors import Tensor

Shape = tuple[int | None, ...]
"""The shape of a tensor; None where it is not known when a layer is built."""


def layer_normalization(config: ModelConfig, name: str) -> layers.Layer:
    """A layer normalisation (Ba et al. 2016), or the identity without
    `head_layer_normalization`."""
    return (
        layers.LayerNormalization(name=name)
        if config.head_layer_normalization
        else layers.Identity(name=name)
    )


def layer_normalizations(*norms: layers.Layer) -> list[layers.LayerNormalization]:
    """Those of some layers that normalise; others are the identity."""
    return [norm for norm in norms if isinstance(norm, layers.LayerNormalization)]


class LSTMCell(layers.Layer):
    """LSTM cell. Its inputs (B, 4 units) are the projected inputs of the gates; the cell adds the
    recurrent part.

    The order of the gates is input, forget, output, candidate. Layer normalisation is as in Ba et
    al. 2016, supplementary eq. 20-22: the inputs and the recurrent part are normalised before they
    are added, and the cell state is normalised before the output gate.
    """

    gates = 4

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.output_size = config.head_units
        self.state_size = [self.units, self.units]
        self.normalize_inputs = layer_normalization(config, "normalize_inputs")
        self.normalize_hidden = layer_normalization(config, "normalize_hidden")
        self.normalize_cell = layer_normalization(config, "normalize_cell")

    def build(self, inputs_shape: Shape, states_shape: Shape | None = None) -> None:
        self.kernel = self.add_weight(
            shape=(self.units, 4 * self.units), initializer="orthogonal", name="kernel"
        )
        self.bias = self.add_weight(
            shape=(4 * self.units,), initializer=unit_forget_bias, name="bias"
        )
        self.normalize_inputs.build((None, 4 * self.units))
        self.normalize_hidden.build((None, 4 * self.units))
        self.normalize_cell.build((None, self.units))
        self.built = True

    def call(self, inputs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        hidden, cell = states
        gates = (
            self.normalize_inputs(inputs)
            + self.normalize_hidden(ops.matmul(hidden, self.kernel))
            + self.bias
        )
        gates, candidate = ops.split(gates, [3 * self.units], axis=-1)
        input_gate, forget_gate, output_gate = ops.split(ops.sigmoid(gates), 3, axis=-1)
        cell = forget_gate * cell + input_gate * ops.tanh(candidate)
        hidden = output_gate * ops.tanh(self.normalize_cell(cell))
        return hidden, [hidden, cell]

    @property
    def norms(self) -> list[layers.LayerNormalization]:
        """The layer normalisations of the inputs, the recurrent part and the cell state; empty
        without them."""
        return layer_normalizations(
            self.normalize_inputs, self.normalize_hidden, self.normalize_cell
        )

    @staticmethod
    def first_state(linear: Tensor) -> list[Tensor]:
        """Hidden and cell state, (B, units) each, from a linear map (B, units) of the features."""
        return [ops.tanh(linear), linear]


def unit_forget_bias(shape: tuple[int, ...], dtype: str | None = None) -> Tensor:
    """Bias initialiser: 1 for the forget gate, 0 for the others (Jozefowicz et al. 2015)."""
    units = shape[0] // 4
    return ops.concatenate([ops.zeros(units), ops.ones(units), ops.zeros(2 * units)])


class GRUCell(layers.Layer):
    """GRU cell (Cho et al. 2014) for projected inputs (B, 3 units), in the order reset, update,
    candidate.

    The reset gate multiplies the recurrent part of the candidate, as in cuDNN and in Ba et al.
    2016, supplementary eq. 25. With layer normalisation, one covers the recurrent part of all
    three; Ba et al. normalise gates and candidate separately.
    """

    gates = 3

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = self.output_size = config.head_units
        self.state_size = [self.units]
        self.normalize_inputs = layer_normalization(config, "normalize_inputs")
        self.normalize_hidden = layer_normalization(config, "normalize_hidden")

    def build(self, inputs_shape: Shape, states_shape: Shape | None = None) -> None:
        self.kernel = self.add_weight(
            shape=(self.units, 3 * self.units), initializer="orthogonal", name="kernel"
        )
        self.bias = self.add_weight(shape=(3 * self.units,), initializer="zeros", name="bias")
        self.normalize_inputs.build((None, 3 * self.units))
        self.normalize_hidden.build((None, 3 * self.units))
        self.built = True

    def call(self, inputs: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        (hidden,) = states
        read = self.normalize_inputs(inputs) + self.bias
        recurrent = self.normalize_hidden(ops.matmul(hidden, self.kernel))
        reset_and_update = slice(None, 2 * self.units)
        reset, update = ops.split(
            ops.sigmoid(read[:, reset_and_update] + recurrent[:, reset_and_update]), 2, axis=-1
        )
        candidate = ops.tanh(read[:, 2 * self.units :] + reset * recurrent[:, 2 * self.units :])
        hidden = update * hidden + (1.0 - update) * candidate
        return hidden, [hidden]

    @property
    def norms(self) -> list[layers.LayerNormalization]:
        """The layer normalisations of the inputs and the recurrent part; empty without them."""
        return layer_normalizations(self.normalize_inputs, self.normalize_hidden)

    @staticmethod
    def first_state(linear: Tensor) -> list[Tensor]:
        """The hidden state (B, units) from a linear map (B, units) of the features."""
        return [ops.tanh(linear)]
