"""What several slots build from."""

from __future__ import annotations

from typing import Any

from keras import layers

from .configuration import ModelConfig

DATA_FORMAT = "channels_last"
"""Rows are (B, T, C) whatever `keras.json` says of images."""


def normalized(config: ModelConfig, features: Any, part: str, level: int) -> Any:
    """Batch normalisation (Ioffe and Szegedy 2015) and ReLU behind a linear layer, named for its part and level."""
    momentum = config.batch_normalization_momentum
    features = layers.BatchNormalization(momentum=momentum, name=f"{part}_normalization_{level}")(features)
    return layers.ReLU(name=f"{part}_activation_{level}")(features)
