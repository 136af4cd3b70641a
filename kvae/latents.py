"""Latents: from the encoder's feature maps to the posterior q(z|x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers

from .configuration import ModelConfig
from .distributions import Gaussian


def dense(config: ModelConfig, maps: list[Any]) -> Gaussian:
    """One Gaussian vector (B, d): linear maps of the flattened top feature map."""
    summary = layers.Flatten(name="summary")(maps[-1])
    mean = layers.Dense(config.latent_size, name="mean")(summary)
    log_variance = layers.Dense(config.latent_size, name="log_variance", kernel_initializer="zeros")(summary)
    return Gaussian(mean, log_variance)


LATENTS: dict[str, Callable[[ModelConfig, list[Any]], Gaussian]] = {"dense": dense}
