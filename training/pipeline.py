"""tf.data pipelines: batches of tokens (B, T) int32, with the attribute (B,) of each text where there is one; with length
buckets a batch has no more positions than its longest text needs.

What stands in a batch follows from the seed and the number of its training step alone, so that a run that was interrupted
goes on with the batches it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.serving.alphabet import PAD

from .corpora import Prepared
from .store import StoredRows, StoredStream

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # it only feeds then: the GPU belongs to the backend


POOL = 50
"""Batches that are sorted by length together: more are more alike within, fewer are more like a plain shuffle."""

ROUNDING = 4
"""Batches are cut to a multiple of this, so that few shapes are compiled."""


Values = np.ndarray | StoredRows | StoredStream


@dataclass(frozen=True)
class Order:
    """In which order a corpus is read: `places(step)` are the indices of that step's batch, `steps` make one pass."""

    places: Callable[[tf.Tensor], tf.Tensor]
    steps: int


def training_batches(prepared: Prepared) -> tf.data.Dataset:
    """One pass over the training split of a corpus, drawn anew each time it is iterated, for `model.fit(..., epochs=N)`."""
    order = order_of(prepared)
    passes = tf.data.Dataset.random(
        prepared.config.training.seed, rerandomize_each_iteration=True
    ).take(1)
    steps = passes.flat_map(
        lambda number: tf.data.Dataset.range(order.steps).map(
            lambda step: number * order.steps + step
        )
    )
    steps = steps.apply(tf.data.experimental.assert_cardinality(order.steps))
    return training_rows(prepared, steps.map(order.places))


def training_stream(prepared: Prepared, first_step: int = 0) -> tf.data.Dataset:
    """The batches of steps `first_step`, `first_step` + 1, ... without end, always the same ones for a seed."""
    steps = tf.data.Dataset.counter(first_step, dtype=tf.int64)
    return training_rows(prepared, steps.map(order_of(prepared).places))


def training_rows(prepared: Prepared, indices: tf.data.Dataset) -> tf.data.Dataset:
    """The texts to learn from at each element's indices."""
    return gathered(
        prepared.train, indices, prepared.train_attribute, prepared.config.training.length_buckets
    )


def steps_of_a_pass(prepared: Prepared) -> int:
    """Training steps that go once through the training split."""
    return order_of(prepared).steps


def batch_size_of(prepared: Prepared) -> int:
    """Texts of a training step: a corpus with fewer has them all in one batch."""
    config, rows = prepared.config, len(prepared.train)
    return min(
        config.training.batch_size,
        windows_of(rows, config.model.length) if config.data.mode == "windows" else rows,
    )


def validation_batches(
    prepared: Prepared, batch_size: int = 128, parts: int = 1
) -> tf.data.Dataset:
    """The held-out split of a corpus, shortest first where batches are cut; of a last batch that does not divide into
    `parts`, what does."""
    rows, attribute = prepared.validation, prepared.validation_attribute
    places = np.arange(len(rows) // parts * parts)
    buckets = prepared.config.training.length_buckets
    if buckets:
        places = np.argsort(lengths_of(rows)[places], kind="stable")
    batch_size = batch_size // parts * parts or parts
    return ordered_rows(
        rows[places], batch_size, None if attribute is None else attribute[places], buckets
    )


def order_of(prepared: Prepared) -> Order:
    """The order of a corpus by its mode, batch size and seed."""
    config = prepared.config
    batch_size, seed = config.training.batch_size, config.training.seed
    if config.data.mode == "windows":
        return random_windows(len(prepared.train), config.model.length, batch_size, seed)
    if config.training.length_buckets:
        return bucketed_rows(lengths_of(prepared.train), batch_size, seed)
    return shuffled_rows(len(prepared.train), batch_size, seed)


def shuffled_rows(rows: int, batch_size: int, seed: int) -> Order:
    """Every row at most once a pass, each pass in an order of its own, full batches only. Fewer rows than a batch make one
    batch of all."""
    batch_size = min(batch_size, rows)
    steps = rows // batch_size

    def places(step: tf.Tensor) -> tf.Tensor:
        positions = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.random.experimental.index_shuffle(
            positions, tf.stack([seed, step // steps]), rows - 1
        )

    return Order(places, steps)


def bucketed_rows(lengths: np.ndarray, batch_size: int, seed: int) -> Order:
    """As `shuffled_rows`, but the batches hold texts of similar length: `POOL` of them at a time are sorted by `lengths` (N,)
    and dealt out in a random order."""
    batch_size = min(batch_size, len(lengths))
    plain = shuffled_rows(len(lengths), batch_size, seed)
    table = tf.constant(lengths, tf.int32)

    def places(step: tf.Tensor) -> tf.Tensor:
        first = step - step % plain.steps % POOL
        size = tf.minimum(tf.constant(POOL, tf.int64), plain.steps - first % plain.steps)
        pool = tf.reshape(tf.map_fn(plain.places, first + tf.range(size)), [-1])
        by_length = tf.gather(pool, tf.argsort(tf.gather(table, pool), stable=True))
        batch = tf.random.experimental.index_shuffle(
            step - first, tf.stack([seed, first]), size - 1
        )
        return tf.gather(by_length, batch * batch_size + tf.range(batch_size, dtype=tf.int64))

    return Order(places, plain.steps)


def lengths_of(rows: Values) -> np.ndarray:
    """How many positions of each row are no padding, (N,)."""
    return (
        rows.lengths() if isinstance(rows, StoredRows) else np.sum(np.asarray(rows) != PAD, axis=1)
    )


def random_windows(characters: int, length: int, batch_size: int, seed: int) -> Order:
    """Windows of `length` from random places of a stream; a pass sees about every character once."""
    count = windows_of(characters, length)
    batch_size = min(batch_size, count)
    offsets = tf.range(length, dtype=tf.int64)

    def places(step: tf.Tensor) -> tf.Tensor:
        last = characters - length + 1
        starts = tf.random.stateless_uniform(
            (batch_size, 1), tf.stack([seed, step]), 0, last, tf.int64
        )
        return starts + offsets

    return Order(places, count // batch_size)


def windows_of(characters: int, length: int) -> int:
    """How many windows make one pass over a stream."""
    return max(1, characters // length)


def ordered_rows(
    rows: np.ndarray, batch_size: int, attribute: np.ndarray | None = None, cut: bool = False
) -> tf.data.Dataset:
    """Every row once, in order; the last batch may be smaller."""
    return gathered(rows, tf.data.Dataset.range(len(rows)).batch(batch_size), attribute, cut)


def taken_from_memory(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads an array at indices."""
    table = tf.constant(values)
    return lambda index: tf.cast(tf.gather(table, index), tf.int32)


def taken_from_disk(values: StoredRows | StoredStream) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads a store at indices: (B, T) at the rows (B,), or at the places (B, T) of windows."""

    def take(index: tf.Tensor) -> tf.Tensor:
        length = values.row_length if isinstance(values, StoredRows) else index.shape[1]
        return tf.ensure_shape(
            tf.numpy_function(values.take, [index], tf.int32), (index.shape[0], length)
        )

    return take


def without_padding(tokens: tf.Tensor) -> tf.Tensor:
    """Tokens (B, T) cut behind their longest text, to a multiple of `ROUNDING` or T."""
    longest = tf.reduce_max(tf.math.count_nonzero(tokens != PAD, axis=1, dtype=tf.int32))
    return tokens[:, : (longest + ROUNDING - 1) // ROUNDING * ROUNDING]


def gathered(
    values: Values, indices: tf.data.Dataset, attribute: np.ndarray | None = None, cut: bool = False
) -> tf.data.Dataset:
    """The values at each element's indices, as int32, fetched ahead of use, each batch `cut` to its longest text if that is
    wanted; with attributes as {"tokens", "attribute"}."""
    take = taken_from_memory(values) if isinstance(values, np.ndarray) else taken_from_disk(values)
    labels = None if attribute is None else tf.constant(attribute, tf.int32)

    def pick(index: tf.Tensor) -> Any:
        tokens = without_padding(take(index)) if cut else take(index)
        return (
            tokens if labels is None else {"tokens": tokens, "attribute": tf.gather(labels, index)}
        )

    options = tf.data.Options()  # several workers: each batch is split, not the corpus
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return indices.map(pick, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).with_options(options)
