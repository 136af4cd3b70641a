"""Parts that several heads share: what they read of features and previous tokens, and logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from .blocks import Dropout
from .cells import Shape
from .configuration import ModelConfig
from .replicas import draw_rows
from .tensors import Tensor


def feature_reader(config: ModelConfig, units: int) -> layers.Layer | None:
    """The linear layer that maps features to a head's inputs, (B, T, units); None for a language
    model without a label, which has no features."""
    if not config.has_code and not config.attributes:
        return None
    return layers.Dense(units, use_bias=False, name="read_features")


def zero_features(features: Tensor, dtype: str) -> Tensor:
    """Zeros (B, T, 1), in place of projected features for a head that reads none."""
    return ops.zeros_like(features[..., :1], dtype=dtype)


def float32_logits(classify: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
    """Logits (..., V) in float32 for any precision of the layers, because a softmax in half
    precision is too coarse."""
    return ops.cast(classify(hidden), "float32")


class PreviousSymbol(layers.Layer):
    """Embedding (units,) of each previous token; in training a fraction `dropout` of the rows is
    set to 0.

    If `head_embedding` is above 0, the row is a linear map of an embedding of that size, and
    `head_dropout` applies to that embedding. Rows are not rescaled after dropout: `dropout` 1 is
    the decoder without history of Semeniuta et al. 2017, 4.1, which reads no history in decoding
    either.
    """

    def __init__(self, config: ModelConfig, units: int, dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        embedding = config.head_embedding
        initializer = (
            keras.initializers.RandomUniform(-0.1, 0.1)
            if config.tied_embeddings
            else "glorot_uniform"
        )
        self.rows = layers.Embedding(
            config.vocabulary_size,
            embedding or units,
            embeddings_initializer=initializer,
            name="rows",
        )
        self.thin = Dropout(config.head_dropout, name="dropout")
        self.linear = layers.Dense(units, use_bias=False, name="linear") if embedding else None
        self.dropout = dropout
        self.noise = keras.random.SeedGenerator()

    def build(self, previous_shape: Shape) -> None:
        self.rows.build(previous_shape)
        if self.linear is not None:
            self.linear.build((*previous_shape, self.rows.output_dim))
        self.built = True

    def call(self, previous: Tensor, training: bool = False) -> Tensor:
        rows = self.thin(self.rows(previous), training=training)
        rows = rows if self.linear is None else self.linear(rows)
        if self.dropout >= 1.0:
            return ops.zeros_like(rows)
        if not training or self.dropout == 0.0:
            return rows
        texts, positions = ops.shape(previous)
        uniform = draw_rows(
            lambda count: keras.random.uniform((count, positions, 1), seed=self.noise), texts
        )
        keep_mask = uniform >= self.dropout
        return rows * ops.cast(keep_mask, rows.dtype)


class TiedClassifier(layers.Layer):
    """Logits (..., V) from outputs h (..., units) and token embeddings E (V, e): W h E^T + b. W
    exists only if units and e differ (Press and Wolf 2017, eq. 1)."""

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.symbols, size = config.vocabulary_size, config.head_embedding or config.head_units
        self.linear = (
            layers.Dense(size, use_bias=False, name="linear") if size != config.head_units else None
        )

    def build(self, outputs_shape: Shape, vectors_shape: Shape | None = None) -> None:
        if self.linear is not None:
            self.linear.build(outputs_shape)
        self.bias = self.add_weight(shape=(self.symbols,), initializer="zeros", name="bias")
        self.built = True

    def call(self, outputs: Tensor, vectors: Tensor) -> Tensor:
        outputs = outputs if self.linear is None else self.linear(outputs)
        vectors = ops.cast(vectors, outputs.dtype)  # in `step`, Keras has not cast it
        return ops.matmul(outputs, ops.transpose(vectors)) + self.bias


def classifier(config: ModelConfig) -> layers.Layer:
    """The layer from the outputs of a head (..., units) to logits (..., V)."""
    if config.tied_embeddings:
        return TiedClassifier(config, name="classify")
    return layers.Dense(config.vocabulary_size, name="classify")


def logits_of(classify: layers.Layer, hidden: Tensor, previous: PreviousSymbol) -> Tensor:
    """Logits (..., V) in float32 of outputs (..., units) by a `classifier`; a tied one uses the
    embeddings of previous tokens."""
    if not isinstance(classify, TiedClassifier):
        return float32_logits(classify, hidden)
    vectors = previous.rows.embeddings
    return float32_logits(lambda outputs: classify(outputs, vectors), hidden)
