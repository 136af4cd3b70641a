"""Expanders: a latent vector z (B, d) as one feature row for every position, (B, T, C), without looking at the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers

from kvae.serving.errors import ConfigError

from .blocks import normalized
from .configuration import ModelConfig


def deconv(config: ModelConfig, z: Any) -> Any:
    """Linear + ReLU to a coarse grid, then transposed convolutions that double it (Semeniuta et al. 2017, 3.2-3.3)."""
    stride = 2 ** len(config.expander_filters)
    if config.length % stride:
        raise ConfigError(
            f"model.length must be a multiple of {stride}, each of the {len(config.expander_filters)} deconvolutions "
            f"doubles the positions; got {config.length}"
        )
    grid = layers.Dense(config.length // stride * config.expander_base, activation="relu", name="grid")(z)
    features = layers.Reshape((config.length // stride, config.expander_base), name="grid_positions")(grid)
    for level, filters in enumerate(config.expander_filters):
        features = layers.Conv1DTranspose(
            filters, 3, strides=2, padding="same", use_bias=False, name=f"deconvolution_{level}"
        )(features)
        features = normalized(config, features, "expander", level)
    return features


EXPANDERS: dict[str, Callable[[ModelConfig, Any], Any]] = {"deconv": deconv}
