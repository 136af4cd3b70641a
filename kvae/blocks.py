"""What several slots build from."""

from __future__ import annotations

from typing import Any

from keras import layers

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig

DATA_FORMAT = "channels_last"
"""Rows are (B, T, C) whatever `keras.json` says of images."""


class Part(layers.Layer):
    """A layer that a TextVAE begins with. A file holds the configuration of the model, not of its layers."""

    def get_config(self) -> dict[str, Any]:
        """What `keras.models.clone_model` asks of each layer."""
        raise ConfigError(
            "clone_model: a TextVAE is more than its graph; make another one with TextVAE.from_config(model.get_config()) and, "
            "for the same weights, set_weights(model.get_weights())"
        )


def batch_norm_relu(config: ModelConfig, features: Any, part: str, level: int) -> Any:
    """Batch normalisation (Ioffe and Szegedy 2015) and ReLU behind a linear layer, named for its part and level."""
    momentum = config.batch_normalization_momentum
    features = layers.BatchNormalization(momentum=momentum, name=f"{part}_normalization_{level}")(
        features
    )
    return layers.ReLU(name=f"{part}_activation_{level}")(features)
