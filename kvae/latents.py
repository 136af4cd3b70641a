"""Latents: what the encoder's features say about each level of the code, as Gaussians, bottom first.

A level is a vector (B, d) or a map (B, T', c). Its Gaussian is the posterior itself at the top level and the bottom-up
evidence of a ladder below it; `kvae.hierarchy` makes codes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig
from .distributions import Gaussian, clipped
from .encoders import Features
from .slots import ENCODERS, quoted_list


def dense(config: ModelConfig, features: list[Features], attribute: Any) -> list[Gaussian]:
    """Vectors: linear maps of the summaries, joined by the attribute (B, K) where there is one."""
    return gaussians(config, [joined_vector(layer.summary, attribute) for layer in features])


def feature_map(config: ModelConfig, features: list[Features], attribute: Any) -> list[Gaussian]:
    """Maps: the same linear maps at each position (Petersen 2018, 4.1)."""
    if any(layer.map is None for layer in features):
        others = quoted_list((name for name, row in ENCODERS.items() if row.positions), "or")
        raise ConfigError(f"model.latent 'map' needs positions, encoder {config.encoder!r} has none; use {others}")
    return gaussians(config, [joined_map(layer.map, attribute) for layer in features])


def none(config: ModelConfig, features: list[Features], attribute: Any) -> list[Gaussian]:
    """No code at all."""
    return []


def gaussians(config: ModelConfig, features: list[Any]) -> list[Gaussian]:
    """Mean and log variance of each level, the variance 1 at first."""
    return [
        Gaussian(
            mean_of(config, layers.Dense(size, name=f"mean_{level}")(inputs), level),
            clipped(layers.Dense(size, name=f"log_variance_{level}", kernel_initializer="zeros")(inputs)),
        )
        for level, (inputs, size) in enumerate(zip(features, config.latent_size, strict=True))
    ]


def mean_of(config: ModelConfig, mean: Any, level: int) -> Any:
    """The mean as it is, or normalised to a fixed spread (BN-VAE, Zhu et al. 2020, eq. 8)."""
    if config.posterior == "free":
        return mean
    momentum = config.batch_normalization_momentum
    name = f"mean_normalization_{level}"
    normalized = layers.BatchNormalization(scale=False, epsilon=1e-6, momentum=momentum, name=name)(mean)
    return config.posterior_scale * normalized


def joined_vector(vector: Any, attribute: Any) -> Any:
    """(B, n) and one-hot attribute (B, K) side by side."""
    return vector if attribute is None else ops.concatenate([vector, attribute], axis=-1)


def joined_map(rows: Any, attribute: Any) -> Any:
    """(B, T', C) with the one-hot attribute (B, K) in every row."""
    if attribute is None:
        return rows
    return ops.concatenate([rows, ops.repeat(ops.expand_dims(attribute, 1), rows.shape[1], axis=1)], axis=-1)


LAYERS: dict[str, Callable[[ModelConfig, list[Features], Any], list[Gaussian]]] = {
    "dense": dense,
    "map": feature_map,
    "none": none,
}
