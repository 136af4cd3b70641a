"""Encoders: a text to the features of each layer, bottom first.

An encoder takes the configuration, symbols (B, T, E) as one-hot vectors or embeddings, and `last`
(B,), the position of the last token before the padding. It returns one `Features` for each of
`encoder_units`. Its row of `kvae.slots.ENCODERS` lists its properties.

A ladder of maps also needs a function from a level of the code to the prior of the level below. It
takes the configuration, the level above as rows (B, T', c), the number of positions of the level
below, `units` and the index of the level below. It returns rows (B, positions, units).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from keras import layers, ops

from kvae.serving.errors import ConfigError

from .blocks import DATA_FORMAT, Conv1DTranspose, Dropout, batch_norm_relu
from .configuration import ModelConfig
from .tensors import Tensor
from .transformers import Positions, encoder_layer, normalized


class Features(NamedTuple):
    """Output of one encoder layer: a vector for the whole text and, if there is a time axis, one
    row per position."""

    summary: Tensor
    """(B, n)."""
    map: Tensor | None = None
    """(B, T', C), or None."""


def conv(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """Convolutions with kernel 3, stride 2, batch normalisation and ReLU: maps (B, T/2, C1), (B,
    T/4, C2), ... (Semeniuta et al. 2017, 3.3)."""
    features_per_layer = []
    features = symbols
    for level, filters in enumerate(config.encoder_units):
        features = layers.Conv1D(
            filters,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            data_format=DATA_FORMAT,
            name=f"encoder_convolution_{level}",
        )(features)
        features = batch_norm_relu(config, features, "encoder", level)
        features_per_layer.append(
            Features(
                layers.Flatten(DATA_FORMAT, name=f"encoder_summary_{level}")(features), features
            )
        )
    return features_per_layer


def lstm(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """LSTM layers; the summary is the state at the last symbol (Bowman et al. 2016)."""
    return recurrent(layers.LSTM, config, symbols, last)


def gru(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """GRU layers; the summary is the state at the last symbol, as in `lstm`."""
    return recurrent(layers.GRU, config, symbols, last)


def recurrent(
    layer: type[layers.RNN], config: ModelConfig, symbols: Tensor, last: Tensor
) -> list[Features]:
    """Stacked recurrent layers. The summary of a backward layer is its state at the first
    position."""
    features_per_layer = []
    features = symbols
    for level, units in enumerate(config.encoder_units):
        forward = layer(units, return_sequences=True, name=f"encoder_recurrence_{level}")(features)
        summary = AtPosition(name=f"encoder_summary_{level}")(forward, last)
        if config.encoder_bidirectional:
            backward = layer(
                units,
                return_sequences=True,
                go_backwards=True,
                name=f"encoder_backward_recurrence_{level}",
            )(features)
            forward = ops.concatenate([forward, ops.flip(backward, axis=1)], axis=-1)
            summary = ops.concatenate([summary, backward[:, -1]], axis=-1)
        features = forward
        features_per_layer.append(Features(summary, features))
    return features_per_layer


def dense(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """Dense layers with batch normalisation and ReLU on the flattened text (Soenderby et al. 2016);
    no time axis."""
    return dense_layers(config, layers.Flatten(DATA_FORMAT, name="encoder_symbols")(symbols))


def bag(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """The dense layers of `dense` on the mean of a text's symbols, which ignores their order (Iyyer
    et al. 2015)."""
    return dense_layers(config, MeanUpTo(dtype="float32", name="encoder_mean")(symbols, last))


def dense_layers(config: ModelConfig, features: Tensor) -> list[Features]:
    """Stacked dense layers with batch normalisation and ReLU on a vector (B, n)."""
    features_per_layer = []
    for level, units in enumerate(config.encoder_units):
        features = layers.Dense(units, use_bias=False, name=f"encoder_dense_{level}")(features)
        features = batch_norm_relu(config, features, "encoder", level)
        features_per_layer.append(Features(features))
    return features_per_layer


def transformer(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """Transformer layers; the summary is the mean of the rows up to the last symbol, or the first
    row (Vaswani et al. 2017, 3.1; Devlin et al. 2019).

    Embeddings of the width of the first layer are its rows; other symbols pass a linear layer.
    """
    mask = UpTo(name="encoder_mask")(symbols, last)
    rows, features_per_layer = symbols, []
    before = config.encoder_normalization == "before"
    for level, units in enumerate(config.encoder_units):
        if rows.shape[-1] != units or (level == 0 and not config.encoder_embedding):
            rows = layers.Dense(units, name=f"encoder_width_{level}")(rows)
        if level == 0:
            rows = Positions(config.length, units, name="encoder_positions")(rows)
            rows = rows if before else normalized(rows, "encoder_embedding_normalization")
            rows = Dropout(config.encoder_dropout, name="encoder_dropout")(rows)
        layer = encoder_layer(config, units, f"encoder_transformer_{level}")
        rows = layer(rows, padding_mask=mask)
        seen = normalized(rows, f"encoder_normalization_{level}") if before else rows
        summary = (
            seen[:, 0]
            if config.encoder_summary == "first"
            else MeanUpTo(name=f"encoder_summary_{level}")(seen, last)
        )
        features_per_layer.append(Features(summary, seen))
    return features_per_layer


def none(config: ModelConfig, symbols: Tensor, last: Tensor) -> list[Features]:
    """No features: for a language model."""
    return []


class AtPosition(layers.Layer):
    """Select the rows (B, C) of (B, T, C) at positions (B,)."""

    def call(self, rows: Tensor, positions: Tensor) -> Tensor:
        return ops.take_along_axis(rows, ops.cast(positions, "int32")[:, None, None], axis=1)[:, 0]


def up_to(rows: Tensor, positions: Tensor) -> Tensor:
    """Whether a row of (B, T, C) lies at or before positions (B,): (B, T)."""
    return ops.arange(ops.shape(rows)[1], dtype="int32") <= ops.cast(positions, "int32")[:, None]


class UpTo(layers.Layer):
    """The layer of `up_to`: rows (B, T, C) and positions (B,) to booleans (B, T)."""

    def call(self, rows: Tensor, positions: Tensor) -> Tensor:
        return up_to(rows, positions)


class MeanUpTo(layers.Layer):
    """The mean of rows (B, T, C) up to and including positions (B,): (B, C)."""

    def call(self, rows: Tensor, positions: Tensor) -> Tensor:
        weights = ops.cast(up_to(rows, positions), rows.dtype)
        return ops.sum(rows * weights[:, :, None], axis=1) / ops.sum(weights, axis=1, keepdims=True)


def conv_down(config: ModelConfig, rows: Tensor, positions: int, units: int, level: int) -> Tensor:
    """Transposed convolution from the positions of a level to those of the level below (Petersen
    2018, 4.2)."""
    stride = positions // rows.shape[1]
    if stride * rows.shape[1] != positions:
        raise ConfigError(
            f"model.length {config.length}: the layers of encoder {config.encoder!r} do not "
            "divide it evenly, which a ladder of maps needs; use a multiple of "
            f"{config.encoder_stride}"
        )
    rows = Conv1DTranspose(
        units,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        data_format=DATA_FORMAT,
        name=f"down_deconvolution_{level}",
    )(rows)
    return batch_norm_relu(config, rows, "down", level)


def lstm_down(config: ModelConfig, rows: Tensor, positions: int, units: int, level: int) -> Tensor:
    """LSTM over the positions (Petersen 2018, 7.2)."""
    return layers.LSTM(units, return_sequences=True, name=f"down_recurrence_{level}")(rows)


def gru_down(config: ModelConfig, rows: Tensor, positions: int, units: int, level: int) -> Tensor:
    """GRU over the positions, as `lstm_down`."""
    return layers.GRU(units, return_sequences=True, name=f"down_recurrence_{level}")(rows)


class Layers(NamedTuple):
    """The functions of an encoder: text to features, and one level of a ladder of maps to the level
    below."""

    up: Callable[[ModelConfig, Tensor, Tensor], list[Features]]
    down: Callable[[ModelConfig, Tensor, int, int, int], Tensor] = conv_down


LAYERS: dict[str, Layers] = {
    "conv": Layers(conv),
    "lstm": Layers(lstm, lstm_down),
    "gru": Layers(gru, gru_down),
    "dense": Layers(dense),
    "bag": Layers(bag),
    "transformer": Layers(transformer),
    "none": Layers(none),
}
