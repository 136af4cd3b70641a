"""Heads: features (B, T, C) and previous tokens (B, T) to logits (B, T, V).

Every head has the same four callables, which training, decoding in Keras and export use:

    projected     = head.project(features)                   computed for all positions at once
    state         = head.initial_state(features)             a list of tensors (B, ...), maybe empty
    logits, state = head.step(projected_t, previous, state)  one position: (B, P), (B,) -> (B, V)
    logits        = head(features, previous)                 all positions, teacher-forced
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers, ops

from .blocks import DATA_FORMAT, Dropout
from .cells import GRUCell, LSTMCell, Shape, layer_normalization
from .configuration import ModelConfig, ObjectiveConfig
from .head_parts import (
    PreviousSymbol,
    classifier,
    feature_reader,
    float32_logits,
    logits_of,
    zero_features,
)
from .recurrences import over_positions
from .tensors import Tensor
from .transformers import TransformerHead


class IndependentHead(layers.Layer):
    """Head without history: p(x|z) factorises over positions, and logits are linear in the
    features."""

    def __init__(self, vocabulary_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classify = layers.Dense(vocabulary_size, name="classify")

    def build(self, features_shape: Shape, previous_shape: Shape) -> None:
        self.classify.build(features_shape)
        self.built = True

    def project(self, features: Tensor) -> Tensor:
        return float32_logits(self.classify, features)

    def initial_state(self, features: Tensor) -> list[Tensor]:
        return []

    def step(
        self, projected: Tensor, previous: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        return projected, state

    def call(self, features: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        return self.project(features)


def with_skip(outputs: Tensor, skipped: Tensor | None) -> Tensor:
    """Outputs of a head plus what a skip connection adds to them, if there is one."""
    return outputs if skipped is None else outputs + skipped


class RecurrentHead(layers.Layer):
    """Recurrent head. `head_reads` says where it reads the features: at every step with the
    previous token (Semeniuta et al. 2017, fig. 2b), in its initial state (Bowman et al. 2016), or
    in both.

    The features of all positions are known in advance, so one matrix product outside the recurrence
    projects them to the gates. A previous token adds one row of an embedding. With `head_skip` the
    product has `units` more columns, which are added to the outputs of the recurrence (Dieng et al.
    2019).
    """

    def __init__(
        self, config: ModelConfig, cell: LSTMCell | GRUCell, input_dropout: float, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.units = config.head_units
        width = cell.gates * self.units
        self.width = width
        self.skip = config.head_skip
        read = width + self.units if self.skip else width
        self.read_features = feature_reader(config, read) if config.head_reads != "state" else None
        self.read_state = (
            layers.Dense(self.units, name="read_state") if config.head_reads != "steps" else None
        )
        self.read_previous = PreviousSymbol(config, width, input_dropout, name="read_previous")
        self.recurrence = layers.RNN(cell, return_sequences=True, name="recurrence")
        self.dropout = Dropout(config.head_dropout, name="dropout")
        self.classify = classifier(config)

    def build(self, features_shape: Shape, previous_shape: Shape) -> None:
        gates = (*features_shape[:-1], self.width)
        if self.read_features is not None:
            self.read_features.build(features_shape)
        if self.read_state is not None:
            self.read_state.build((features_shape[0], features_shape[-1]))
        self.read_previous.build(previous_shape)
        self.recurrence.build(gates)
        self.classify.build((None, self.units))
        self.built = True

    def project(self, features: Tensor) -> Tensor:
        """Project features (B, T, C) to the gates (B, T, gates), followed by `units` columns of the
        skip connection, if any; zeros (B, T, 1) if the head reads no features per step."""
        return (
            zero_features(features, self.compute_dtype)
            if self.read_features is None
            else self.read_features(features)
        )

    def initial_state(self, features: Tensor) -> list[Tensor]:
        """The initial states, (B, units) each: zeros, or from a linear map of the features of the
        first position."""
        cell = self.recurrence.cell
        if self.read_state is not None:
            state: list[Tensor] = cell.first_state(self.read_state(features[:, 0]))
            return state
        return [
            ops.zeros((ops.shape(features)[0], self.units), self.compute_dtype)
            for _ in cell.state_size
        ]

    def step(
        self, projected: Tensor, previous: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        gates, skipped = self.split_skip(projected)
        hidden, state = self.recurrence.cell(self.read(gates, previous), state)
        return self.logits(with_skip(hidden, skipped)), state

    def call(self, features: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        gates, skipped = self.split_skip(self.project(features))
        inputs = self.read(gates, previous, training)
        hidden = over_positions(self.recurrence, inputs, self.initial_state(features), training)
        return self.logits(self.dropout(with_skip(hidden, skipped), training=training))

    def split_skip(self, projected: Tensor) -> tuple[Tensor, Tensor | None]:
        """Projected features as those of the gates and those of the skip connection, if any."""
        if not self.skip:
            return projected, None
        gates, skipped = ops.split(projected, [self.width], axis=-1)
        return gates, skipped

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) in float32 of outputs (..., units)."""
        return logits_of(self.classify, hidden, self.read_previous)

    def read(self, projected: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        """The inputs of the recurrence: projected features plus the row of the previous token,
        (..., gates)."""
        return projected + self.read_previous(previous, training=training)


class CausalConvolution(layers.Layer):
    """Causal convolution (B, T, units) -> (B, T, 2 units). Position t reads itself and `kernel - 1`
    earlier positions, `dilation` apart."""

    def __init__(self, config: ModelConfig, dilation: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.kernel_size, self.dilation = (
            config.head_units,
            config.head_kernel,
            dilation,
        )
        self.normalize = layer_normalization(config, "normalize")

    def build(self, inputs_shape: Shape) -> None:
        self.kernel = self.add_weight(
            shape=(self.kernel_size, self.units, 2 * self.units), name="kernel"
        )
        self.normalize.build((None, 2 * self.units))
        self.bias = self.add_weight(shape=(2 * self.units,), initializer="zeros", name="bias")
        self.built = True

    def initial_state(self, batch: Tensor | int) -> Tensor:
        """The inputs before the first position: zeros (B, positions, units)."""
        return ops.zeros(
            (batch, (self.kernel_size - 1) * self.dilation, self.units), self.compute_dtype
        )

    def call(self, inputs: Tensor) -> Tensor:
        padded = ops.pad(inputs, [[0, 0], [(self.kernel_size - 1) * self.dilation, 0], [0, 0]])
        outputs = ops.conv(
            padded,
            self.kernel,
            padding="valid",
            data_format=DATA_FORMAT,
            dilation_rate=self.dilation,
        )
        return self.normalize(outputs) + self.bias

    def step(self, inputs: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The output (B, 2 units) for one position (B, units), and the past inputs of the next
        position."""
        window = ops.concatenate([past, ops.expand_dims(inputs, 1)], axis=1)
        read = ops.reshape(window[:, :: self.dilation], (-1, self.kernel_size * self.units))
        kernel, bias = (ops.cast(weight, self.compute_dtype) for weight in (self.kernel, self.bias))
        product = ops.matmul(
            read, ops.reshape(kernel, (self.kernel_size * self.units, 2 * self.units))
        )
        return self.normalize(product) + bias, window[:, 1:]


def gated_linear_unit(inputs: Tensor) -> Tensor:
    """Gated linear unit: one half times the sigmoid of the other half (Dauphin et al. 2017, eq.
    1)."""
    value, gate = ops.split(inputs, 2, axis=-1)
    return value * ops.sigmoid(gate)


def highway(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Highway connection: a gate mixes a layer's ReLU with its input (Srivastava et al. 2015, eq.
    3)."""
    value, gate = ops.split(outputs, 2, axis=-1)
    transform = ops.sigmoid(gate - 1.0)
    return transform * ops.relu(value) + (1.0 - transform) * inputs


def residual(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Residual connection around a gated linear unit (Dauphin et al. 2017, 3)."""
    return inputs + gated_linear_unit(outputs)


class ConvolutionHead(layers.Layer):
    """Causal convolutions over [features_t, previous token]; `join` combines the output of each
    with its input.

    The receptive field is 1 + (kernel - 1) * (sum of dilations) positions, with position t itself:
    N + 1 for N layers of kernel 2 and dilation 1.
    """

    def __init__(
        self,
        config: ModelConfig,
        join: Callable[[Tensor, Tensor], Tensor],
        input_dropout: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units, self.join = config.head_units, join
        width = 2 * config.head_units
        self.read_features = feature_reader(config, width)
        self.read_previous = PreviousSymbol(config, width, input_dropout, name="read_previous")
        self.convolutions = [
            CausalConvolution(config, config.head_dilation**number, name=f"convolution_{number}")
            for number in range(config.head_layers)
        ]
        self.classify = layers.Dense(config.vocabulary_size, name="classify")

    def build(self, features_shape: Shape, previous_shape: Shape) -> None:
        if self.read_features is not None:
            self.read_features.build(features_shape)
        self.read_previous.build(previous_shape)
        self.bias = self.add_weight(shape=(2 * self.units,), initializer="zeros", name="bias")
        for convolution in self.convolutions:
            convolution.build((*features_shape[:-1], self.units))
        self.classify.build((None, self.units))
        self.built = True

    def project(self, features: Tensor) -> Tensor:
        """Project features (B, T, C) to (B, T, 2 units); zeros (B, T, 1) without features."""
        return (
            zero_features(features, self.compute_dtype)
            if self.read_features is None
            else self.read_features(features)
        )

    def initial_state(self, features: Tensor) -> list[Tensor]:
        """The past inputs of each convolution before the first position, (B, positions, units)
        each."""
        return [
            convolution.initial_state(ops.shape(features)[0]) for convolution in self.convolutions
        ]

    def step(
        self, projected: Tensor, previous: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        hidden = self.read(projected, previous)
        new_state = []
        for convolution, past in zip(self.convolutions, state, strict=True):
            outputs, after = convolution.step(hidden, past)
            hidden = self.join(hidden, outputs)
            new_state.append(after)
        return float32_logits(self.classify, hidden), new_state

    def call(self, features: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        hidden = self.read(self.project(features), previous, training)
        for convolution in self.convolutions:
            hidden = self.join(hidden, convolution(hidden))
        return float32_logits(self.classify, hidden)

    def read(self, projected: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        """The gated linear unit of projected features plus the row of the previous token: (...,
        units)."""
        rows = projected + self.read_previous(previous, training=training)
        return gated_linear_unit(rows + ops.cast(self.bias, self.compute_dtype))


def independent(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `none`: no history."""
    return IndependentHead(config.vocabulary_size, name="head")


def lstm(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `lstm`: an LSTM."""
    return RecurrentHead(
        config, LSTMCell(config, name="cell"), objective.input_dropout, name="head"
    )


def gru(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `gru`: a GRU."""
    return RecurrentHead(config, GRUCell(config, name="cell"), objective.input_dropout, name="head")


def bytenet(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `bytenet`: causal convolutions with highway connections (Semeniuta et al. 2017, fig. 2c;
    Kalchbrenner et al. 2016)."""
    return ConvolutionHead(config, highway, objective.input_dropout, name="head")


def gated_conv(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `gated_conv`: gated causal convolutions with residual connections (Prokhorov et al.
    2019; Dauphin et al. 2017)."""
    return ConvolutionHead(config, residual, objective.input_dropout, name="head")


def transformer(config: ModelConfig, objective: ObjectiveConfig) -> layers.Layer:
    """Head `transformer`: a Transformer decoder (Vaswani et al. 2017; Li et al. 2020)."""
    return TransformerHead(config, objective.input_dropout, name="head")


LAYERS: dict[str, Callable[[ModelConfig, ObjectiveConfig], layers.Layer]] = {
    "none": independent,
    "lstm": lstm,
    "gru": gru,
    "bytenet": bytenet,
    "gated_conv": gated_conv,
    "transformer": transformer,
}
