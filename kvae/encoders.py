"""Encoders: a text as feature maps, bottom first. Each takes the configuration and one-hot symbols (B, T, V)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers

from .blocks import normalized
from .configuration import ModelConfig


def conv(config: ModelConfig, symbols: Any) -> list[Any]:
    """Strided convolutions, kernel 3, batch norm, ReLU: maps (B, T/2, C1), (B, T/4, C2), ... (Semeniuta et al. 2017, 3.3)."""
    maps = []
    features = symbols
    for level, filters in enumerate(config.encoder_filters):
        features = layers.Conv1D(
            filters, 3, strides=2, padding="same", use_bias=False, name=f"encoder_convolution_{level}"
        )(features)
        features = normalized(config, features, "encoder", level)
        maps.append(features)
    return maps


ENCODERS: dict[str, Callable[[ModelConfig, Any], list[Any]]] = {"conv": conv}
