"""Expanders: the bottom level of the latent code to one row of features per position, (B, T, C).
They do not read the text.

Each takes the configuration and rows (B, T', c): one row for a vector, several for a map. Each row
includes the one-hot attribute if there is one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from keras import layers, ops

from kvae.serving.errors import ConfigError

from .blocks import DATA_FORMAT, Conv1DTranspose, batch_norm_relu
from .configuration import ModelConfig
from .tensors import Tensor


def deconv(config: ModelConfig, rows: Tensor) -> Tensor:
    """Linear layer and ReLU to a coarse grid, then transposed convolutions with stride 2 (Semeniuta
    et al. 2017, 3.2-3.3)."""
    count = len(config.expander_filters)
    stride = config.expander_stride
    if config.length % stride:
        raise ConfigError(
            f"model.length must be a multiple of {stride}: each of the {count} deconvolutions "
            f"doubles the positions; got {config.length}, use "
            f"{-(-config.length // stride) * stride} or expander 'repeat'"
        )
    if not config.expander_base:
        raise ConfigError(
            "model.expander_base is 0: expander 'deconv' needs feature maps for its coarse grid"
        )
    coarse = config.length // stride
    if not config.has_map:
        grid = layers.Dense(coarse * config.expander_base, activation="relu", name="grid")(
            rows[:, 0]
        )
        features = layers.Reshape((coarse, config.expander_base), name="grid_positions")(grid)
    elif rows.shape[1] == coarse:
        features = layers.Dense(config.expander_base, activation="relu", name="grid")(rows)
    else:
        raise ConfigError(
            f"expander 'deconv': {count} deconvolutions start from {coarse} positions, the code's "
            f"map has {rows.shape[1]}; give model.expander_filters as many numbers as the encoder "
            "halves, or use expander 'repeat'"
        )
    for level, filters in enumerate(config.expander_filters):
        features = Conv1DTranspose(
            filters,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            data_format=DATA_FORMAT,
            name=f"deconvolution_{level}",
        )(features)
        features = batch_norm_relu(config, features, "expander", level)
    return features


def repeat(config: ModelConfig, rows: Tensor) -> Tensor:
    """Repeat each row over T / T' positions, after a ReLU layer of size `expander_base` if that is
    above 0."""
    if config.expander_base:
        rows = layers.Dense(config.expander_base, activation="relu", name="reconstruction")(rows)
    if config.length % rows.shape[1]:
        raise ConfigError(
            f"expander 'repeat': model.length must be a multiple of the {rows.shape[1]} positions "
            f"of the code's map, got {config.length}; use a multiple of {config.encoder_stride}, "
            "or pad texts of that length with data.mode=lines"
        )
    if rows.shape[1] == 1:
        return rows * np.ones((1, config.length, 1), "float32")
    return ops.repeat(rows, config.length // rows.shape[1], axis=1)


LAYERS: dict[str, Callable[[ModelConfig, Tensor], Tensor]] = {"deconv": deconv, "repeat": repeat}
