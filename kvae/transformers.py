"""Transformer layers of encoders and heads: those of keras-nlp, and the step of its decoder with a
cache of keys and values.

Layers normalise their inputs (pre-normalisation, Xiong et al. 2020), so that they train without a
warm-up of the learning rate; those of an encoder like BERT normalise their outputs. keras-nlp is
imported when a model with such a layer is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import layers, ops

from kvae.serving.errors import ConfigError

from .blocks import Dropout
from .cells import Shape
from .configuration import ModelConfig
from .head_parts import (
    PreviousSymbol,
    classifier,
    feature_reader,
    logits_of,
    zero_features,
)
from .tensors import Tensor

WIDENING = 4
"""Width of the feed-forward layer in units (Vaswani et al. 2017, 3.3)."""

EPSILON = 1e-5
"""Added to the variance in layer normalisation, as in keras-nlp's layers and in GPT-2."""

MASKED_SCORE = -3e4
"""Score of a key that a position does not see: its weight is 0, and float16 can represent it."""


class Place(NamedTuple):
    """Where a step writes keys and values of caches (B, heads, places, size), and which it
    reads."""

    indices: Tensor
    """The place of each head of each text, (B * heads, 3)."""
    masks: Tensor
    """0 for the places up to this position, `MASKED_SCORE` for the others, (B, 1, 1, places)."""

    @classmethod
    def of(cls, position: Tensor, cache: Tensor, has_memory: bool) -> Place:
        """The place of the texts' positions (B,) in a cache, which may begin with a memory."""
        place = ops.cast(position, "int32") + int(has_memory)
        batch, (_, heads, places, _) = ops.shape(cache)[0], cache.shape
        axes = (
            ops.arange(batch, dtype="int32")[:, None],
            ops.arange(heads, dtype="int32")[None],
            place[:, None],
        )
        indices = ops.stack([ops.broadcast_to(axis, (batch, heads)) for axis in axes], axis=-1)
        later = ops.arange(places, dtype="int32") > place[:, None, None, None]
        return cls(ops.reshape(indices, (-1, 3)), MASKED_SCORE * ops.cast(later, cache.dtype))


def keras_nlp_layers() -> Any:
    """The module `keras_nlp.layers`. Raises `ConfigError` if keras-nlp is not installed."""
    try:
        from keras_nlp import layers as found
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the layers of a 'transformer' need {error.name}, which is not installed: "
            "pip install 'kvae-text[train]'"
        ) from error
    return found


def gelu(values: Tensor) -> Tensor:
    """The Gaussian error linear unit in the form with a hyperbolic tangent (Hendrycks and Gimpel
    2016, 2)."""
    return keras.activations.gelu(values, approximate=True)


def layer_options(
    units: int, heads: int, dropout: float, normalize_first: bool = True
) -> dict[str, Any]:
    """The arguments that encoder and decoder layers of keras-nlp share."""
    return {
        "intermediate_dim": WIDENING * units,
        "num_heads": heads,
        "dropout": dropout,
        "activation": gelu,
        "normalize_first": normalize_first,
    }


def normalized(rows: Tensor, name: str) -> Tensor:
    """Layer normalisation of rows (..., units) (Ba et al. 2016), with keras-nlp's epsilon."""
    return layers.LayerNormalization(epsilon=EPSILON, name=name)(rows)


def encoder_layer(config: ModelConfig, units: int, name: str) -> layers.Layer:
    """Self-attention and a feed-forward layer on rows (B, T, units), called with a `padding_mask`
    (B, T) of the positions that are read (Vaswani et al. 2017, 3.1)."""
    first = config.encoder_normalization == "before"
    options = layer_options(units, config.encoder_attention_heads, config.encoder_dropout, first)
    return keras_nlp_layers().TransformerEncoder(**options, name=name)


class Positions(layers.Layer):
    """Adds a learned vector of each position to rows (B, T, units), T at most `length` (Devlin et
    al. 2019). `step` does so for rows (B, units) at positions (B,)."""

    def __init__(self, length: int, units: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vectors = layers.Embedding(
            length, units, embeddings_initializer="glorot_uniform", name="vectors"
        )

    def build(self, rows_shape: Shape) -> None:
        self.vectors.build()
        self.built = True

    def call(self, rows: Tensor) -> Tensor:
        return rows + self.vectors(ops.arange(ops.shape(rows)[1], dtype="int32"))

    def step(self, row: Tensor, position: Tensor) -> Tensor:
        return row + self.vectors(ops.cast(position, "int32"))


class CachedDecoder(layers.Layer):
    """A decoder layer of keras-nlp: rows (B, T, units) to rows, each of which reads itself and the
    rows before it, and the memory (B, units) if there is one.

    `step` is the same for one position, with keys and values as states (B, heads, places, size).
    The cache of keras-nlp's layer has an operation that ONNX lacks, and one position for a batch.
    """

    def __init__(self, config: ModelConfig, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = config.head_attention_heads
        options = layer_options(config.head_units, self.heads, config.head_dropout)
        self.decoder = keras_nlp_layers().TransformerDecoder(**options, name="decoder")

    def build(self, rows_shape: Shape, memory_shape: Shape | None = None) -> None:
        self.decoder.build(rows_shape)
        self.built = True

    def call(self, rows: Tensor, memory: Tensor | None = None, training: bool = False) -> Tensor:
        if memory is None:
            return self.decoder(rows, training=training)
        rows = ops.concatenate([ops.expand_dims(memory, 1), rows], axis=1)
        return self.decoder(rows, training=training)[:, 1:]

    def first_cache(self, batch: Tensor | int, length: int, memory: Tensor | None) -> list[Tensor]:
        """Keys and values for `length` positions that are still to come, behind those of the memory
        (B, units) if there is one."""
        size = self.decoder._self_attention_layer.key_dim
        empty = ops.zeros((batch, self.heads, length, size), self.compute_dtype)
        if memory is None:
            return [empty, empty]
        _, *first = self.projected(memory)
        return [ops.concatenate([ops.expand_dims(part, 2), empty], axis=2) for part in first]

    def step(self, row: Tensor, cache: Sequence[Tensor], at: Place) -> tuple[Tensor, list[Tensor]]:
        """One position: row (B, units), and keys and values, to the same."""
        decoder = self.decoder
        query, *new = self.projected(row)
        keys, values = (
            ops.scatter_update(past, at.indices, ops.reshape(part, (-1, part.shape[-1])))
            for past, part in zip(cache, new, strict=True)
        )
        query = ops.expand_dims(query, 2) * query.shape[-1] ** -0.5
        scores = ops.matmul(query, ops.swapaxes(keys, 2, 3)) + at.masks
        read = ops.reshape(ops.matmul(ops.softmax(scores), values), (-1, row.shape[-1]))
        row = row + self.linear(read, decoder._self_attention_layer.output_dense)
        hidden = decoder._feedforward_layer_norm(row)
        hidden = decoder._feedforward_intermediate_dense(hidden)
        return row + decoder._feedforward_output_dense(hidden), [keys, values]

    def projected(self, row: Tensor) -> list[Tensor]:
        """Query, key and value (B, heads, size) of a row (B, units), which is normalised first."""
        attention = self.decoder._self_attention_layer
        row = self.decoder._self_attention_layer_norm(row)
        denses = (attention.query_dense, attention.key_dense, attention.value_dense)
        shape = (-1, 3 * self.heads, attention.key_dim)
        parts: list[Tensor] = ops.split(ops.reshape(self.linear(row, *denses), shape), 3, axis=1)
        return parts

    def linear(self, row: Tensor, *denses: layers.Layer) -> Tensor:
        """The linear maps of a row (B, n) by layers whose weights have an axis for the heads, side
        by side: (B, m)."""
        rows = row.shape[-1]
        kernels = [ops.reshape(dense.kernel, (rows, -1)) for dense in denses]
        biases = [ops.reshape(dense.bias, (-1,)) for dense in denses]
        kernel, bias = (
            ops.cast(ops.concatenate(parts, axis=-1), self.compute_dtype)
            for parts in (kernels, biases)
        )
        return ops.matmul(row, kernel) + bias


class TransformerHead(layers.Layer):
    """Transformer decoder. `head_reads` says where it reads the features, as for a recurrent head.

    `steps` adds a linear map of them to the inputs of every position. `state` gives each layer a
    row before those of the positions, to which all positions attend: a linear map of the features
    of the first position. These are embedding and memory of Li et al. 2020. `both` is both. The
    inputs are embeddings of the previous token and of the position.

    The states are the position (B,) float32, and keys and values of each layer (B, heads, places,
    size of a head). There are T places, and one for the memory.
    """

    def __init__(self, config: ModelConfig, input_dropout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.length, count = config.head_units, config.length, config.head_layers
        steps, memory = config.head_reads != "state", config.head_reads != "steps"
        self.read_features = feature_reader(config, self.units) if steps else None
        self.read_state = layers.Dense(count * self.units, name="read_state") if memory else None
        self.read_previous = PreviousSymbol(config, self.units, input_dropout, name="read_previous")
        self.positions = Positions(self.length, self.units, name="positions")
        self.decoders = [CachedDecoder(config, name=f"decoder_{place}") for place in range(count)]
        self.normalize = layers.LayerNormalization(epsilon=EPSILON, name="normalize")
        self.dropout = Dropout(config.head_dropout, name="dropout")
        self.classify = classifier(config)

    def build(self, features_shape: Shape, previous_shape: Shape) -> None:
        rows = (*features_shape[:-1], self.units)
        if self.read_features is not None:
            self.read_features.build(features_shape)
        if self.read_state is not None:
            self.read_state.build((features_shape[0], features_shape[-1]))
        self.read_previous.build(previous_shape)
        self.positions.build(rows)
        for decoder in self.decoders:
            decoder.build(rows)
        self.normalize.build(rows)
        self.classify.build(rows)
        self.built = True

    def project(self, features: Tensor) -> Tensor:
        """Project features (B, T, C) to (B, T, units); zeros (B, T, 1) if the head reads none per
        position."""
        return (
            zero_features(features, self.compute_dtype)
            if self.read_features is None
            else self.read_features(features)
        )

    def memories(self, features: Tensor) -> list[Tensor | None]:
        """The memory (B, units) of each layer, or None."""
        if self.read_state is None:
            return [None] * len(self.decoders)
        memories: list[Tensor | None] = ops.split(
            self.read_state(features[:, 0]), len(self.decoders), axis=-1
        )
        return memories

    def initial_state(self, features: Tensor) -> list[Tensor]:
        """Position 0 of each text, and caches that have nothing but the memory."""
        batch = ops.shape(features)[0]
        caches = [
            decoder.first_cache(batch, self.length, memory)
            for decoder, memory in zip(self.decoders, self.memories(features), strict=True)
        ]
        return [ops.zeros((batch,), "float32"), *(part for cache in caches for part in cache)]

    def step(
        self, projected: Tensor, previous: Tensor, state: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        position, *parts = state
        row = self.positions.step(projected + self.read_previous(previous), position)
        at = Place.of(position, parts[0], self.read_state is not None)
        new_state = [position + 1.0]
        for decoder, *cache in zip(self.decoders, parts[::2], parts[1::2], strict=True):
            row, after = decoder.step(row, cache, at)
            new_state += after
        return self.logits(row), new_state

    def call(self, features: Tensor, previous: Tensor, training: bool = False) -> Tensor:
        rows = self.project(features) + self.read_previous(previous, training=training)
        rows = self.positions(rows)
        for decoder, memory in zip(self.decoders, self.memories(features), strict=True):
            rows = decoder(rows, memory, training=training)
        return self.logits(rows, training)

    def logits(self, rows: Tensor, training: bool = False) -> Tensor:
        """Logits (..., V) in float32 of the last layer's rows (..., units)."""
        rows = self.dropout(self.normalize(rows), training=training)
        return logits_of(self.classify, rows, self.read_previous)
