"""Building blocks that several slots share."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig
from .replicas import draw_rows
from .tensors import Tensor

DATA_FORMAT = "channels_last"
"""Sequences are (B, T, C), whatever image format `keras.json` sets."""


class Part(layers.Layer):
    """Base class of the first layers of a TextVAE.

    A `.keras` file holds the configuration of the model, not that of its layers.
    """

    def get_config(self) -> dict[str, Any]:
        """Raise `ConfigError`: only `clone_model` calls this, and it cannot clone a TextVAE."""
        raise ConfigError(
            "clone_model: a TextVAE is more than its graph; make another one with "
            "TextVAE.from_config(model.get_config()) and, for the same weights, "
            "set_weights(model.get_weights())"
        )


class StandardNoise(Part):
    """Standard normal noise (B, size) for tokens (B, T).

    The state of the random generator is saved with the model.
    """

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.generator = keras.random.SeedGenerator()

    def call(self, tokens: Tensor) -> Tensor:
        def draw(rows: int | Tensor) -> Tensor:
            return keras.random.normal(
                (rows, self.size), dtype=self.compute_dtype, seed=self.generator
            )

        return draw_rows(draw, ops.shape(tokens)[0])


class Dropout(layers.Layer):
    """Dropout on values (B, ...): in training a fraction `rate` is set to 0 and the others are
    scaled by 1 / (1 - rate), so that the mean stays the same (Srivastava et al. 2014)."""

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.noise = keras.random.SeedGenerator() if rate else None

    def call(self, values: Tensor, training: bool = False) -> Tensor:
        if not training or not self.rate:
            return values
        rows, *rest = ops.shape(values)
        uniform = draw_rows(
            lambda count: keras.random.uniform((count, *rest), seed=self.noise), rows
        )
        return ops.where(uniform >= self.rate, values / (1.0 - self.rate), 0.0)


class Conv1DTranspose(layers.Conv1DTranspose):
    """Keras' transposed convolution of rows (B, T, C), without bias.

    With kernel 3 and stride 2 it is three matrix products on JAX, because XLA computes the gradient
    of the dilated kernel ten times slower on a CPU than the products. The name is that of Keras'
    class, because `.keras` files contain it.
    """

    def call(self, inputs: Tensor) -> Tensor:
        if keras.backend.backend() != "jax" or (self.kernel_size, self.strides) != ((3,), (2,)):
            return super().call(inputs)
        now, odd, before = (ops.transpose(self.kernel[tap]) for tap in range(3))
        previous = ops.pad(inputs[:, :-1], [[0, 0], [1, 0], [0, 0]])
        even_rows = ops.matmul(inputs, now) + ops.matmul(previous, before)
        rows = ops.stack([even_rows, ops.matmul(inputs, odd)], axis=2)
        return ops.reshape(rows, (-1, 2 * inputs.shape[1], self.filters))


def repeated_rows(values: Tensor, times: int | Tensor) -> Tensor:
    """Each row of (B, ...) so many times, one after another: (B * times, ...)."""
    is_same = isinstance(times, int) and times == 1
    return values if is_same else ops.repeat(values, times, axis=0)


def batch_norm_relu(config: ModelConfig, features: Tensor, part: str, level: int) -> Tensor:
    """Batch normalisation (Ioffe and Szegedy 2015) and ReLU of features, in the same shape.

    `part` and `level` name the two layers.
    """
    momentum = config.batch_normalization_momentum
    features = layers.BatchNormalization(momentum=momentum, name=f"{part}_normalization_{level}")(
        features
    )
    return layers.ReLU(name=f"{part}_activation_{level}")(features)
