"""Latents: from the features of the encoder to a Gaussian for each level of the latent code.

Levels are ordered bottom first. A level is a vector (B, d) or a map (B, T', c). The Gaussian of the
top level is its posterior, or is transformed to it by a flow (`kvae.flows`). The Gaussians below
are the bottom-up evidence of a ladder. `kvae.hierarchy` turns them into latent codes.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig
from .distributions import Gaussian, clip_log_variance
from .encoders import Features
from .slots import ENCODERS, POSTERIORS, quoted_list
from .tensors import Tensor


def dense(
    config: ModelConfig, features: list[Features], attribute: Tensor | None
) -> list[Gaussian]:
    """Vectors: linear maps of the summaries, with the attribute (B, K) appended if there is one."""
    return gaussians(config, [joined_vector(layer.summary, attribute) for layer in features])


def feature_map(
    config: ModelConfig, features: list[Features], attribute: Tensor | None
) -> list[Gaussian]:
    """Maps: the same linear map at each position (Petersen 2018, 4.1)."""
    if any(layer.map is None for layer in features):
        others = quoted_list((name for name, row in ENCODERS.items() if row.positions), "or")
        raise ConfigError(
            f"model.latent 'map' needs positions, encoder {config.encoder!r} has none; use {others}"
        )
    return gaussians(config, [joined_map(layer.map, attribute) for layer in features])


def none(config: ModelConfig, features: list[Features], attribute: Tensor | None) -> list[Gaussian]:
    """No latent code."""
    return []


def gaussians(config: ModelConfig, features: list[Tensor]) -> list[Gaussian]:
    """Mean and log variance of each level; the variance starts at 1."""
    return [
        Gaussian(
            posterior_mean(config, layers.Dense(size, name=f"mean_{level}")(inputs), level),
            clip_log_variance(
                layers.Dense(size, name=f"log_variance_{level}", kernel_initializer="zeros")(inputs)
            ),
        )
        for level, (inputs, size) in enumerate(zip(features, config.latent_size, strict=True))
    ]


def posterior_mean(config: ModelConfig, mean: Tensor, level: int) -> Tensor:
    """The mean, batch-normalised to a fixed scale if configured (Zhu et al. 2020, eq. 8)."""
    if not POSTERIORS[config.posterior].normalized:
        return mean
    momentum = config.batch_normalization_momentum
    name = f"mean_normalization_{level}"
    normalized = layers.BatchNormalization(scale=False, epsilon=1e-6, momentum=momentum, name=name)(
        mean
    )
    return config.posterior_scale * normalized


def joined_vector(vector: Tensor, attribute: Tensor | None) -> Tensor:
    """Append the one-hot attribute (B, K) to a vector (B, n): (B, n + K)."""
    return vector if attribute is None else ops.concatenate([vector, attribute], axis=-1)


def joined_map(rows: Tensor, attribute: Tensor | None) -> Tensor:
    """Append the one-hot attribute (B, K) to every row of (B, T', C): (B, T', C + K)."""
    if attribute is None:
        return rows
    return ops.concatenate(
        [rows, ops.repeat(ops.expand_dims(attribute, 1), rows.shape[1], axis=1)], axis=-1
    )


LAYERS: dict[str, Callable[[ModelConfig, list[Features], Tensor | None], list[Gaussian]]] = {
    "dense": dense,
    "map": feature_map,
    "none": none,
}
