"""tf.data pipelines: batches of tokens (B, T) int32, with the attribute (B,) of each text where there is one.

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

from .corpora import Prepared
from .store import StoredRows, StoredStream

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # it only feeds then: the GPU belongs to the backend


@dataclass(frozen=True)
class Order:
    """In which order a corpus is read: `places(step)` are the indices of that step's batch, `steps` make one pass."""

    places: Callable[[tf.Tensor], tf.Tensor]
    steps: int


def training_batches(prepared: Prepared) -> tf.data.Dataset:
    """One pass over the training split of a corpus, drawn anew each time it is iterated, for `model.fit(..., epochs=N)`."""
    order = order_of(prepared)
    passes = tf.data.Dataset.random(prepared.config.training.seed, rerandomize_each_iteration=True).take(1)
    steps = passes.flat_map(
        lambda number: tf.data.Dataset.range(order.steps).map(lambda step: number * order.steps + step)
    )
    steps = steps.apply(tf.data.experimental.assert_cardinality(order.steps))
    return gathered(prepared.train, steps.map(order.places), prepared.train_attribute)


def training_stream(prepared: Prepared, first_step: int = 0) -> tf.data.Dataset:
    """The batches of steps `first_step`, `first_step` + 1, ... without end, always the same ones for a seed."""
    steps = tf.data.Dataset.counter(first_step, dtype=tf.int64)
    return gathered(prepared.train, steps.map(order_of(prepared).places), prepared.train_attribute)


def steps_of_a_pass(prepared: Prepared) -> int:
    """Training steps that go once through the training split."""
    return order_of(prepared).steps


def batch_size_of(prepared: Prepared) -> int:
    """Texts of a training step: a corpus with fewer has them all in one batch."""
    config, rows = prepared.config, len(prepared.train)
    return min(
        config.training.batch_size, windows_of(rows, config.model.length) if config.data.mode == "windows" else rows
    )


def validation_batches(prepared: Prepared, batch_size: int = 128, parts: int = 1) -> tf.data.Dataset:
    """The held-out split of a corpus; of a last batch that does not divide into `parts`, what does."""
    whole = len(prepared.validation) // parts * parts
    attribute = prepared.validation_attribute
    batch_size = batch_size // parts * parts or parts
    return ordered_rows(prepared.validation[:whole], batch_size, None if attribute is None else attribute[:whole])


def order_of(prepared: Prepared) -> Order:
    """The order of a corpus by its mode, batch size and seed."""
    config = prepared.config
    batch_size, seed = config.training.batch_size, config.training.seed
    if config.data.mode == "windows":
        return random_windows(len(prepared.train), config.model.length, batch_size, seed)
    return shuffled_rows(len(prepared.train), batch_size, seed)


def shuffled_rows(rows: int, batch_size: int, seed: int) -> Order:
    """Every row at most once a pass, each pass in an order of its own, full batches only. Fewer rows than a batch make one
    batch of all."""
    batch_size = min(batch_size, rows)
    steps = rows // batch_size

    def places(step: tf.Tensor) -> tf.Tensor:
        positions = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.random.experimental.index_shuffle(positions, tf.stack([seed, step // steps]), rows - 1)

    return Order(places, steps)


def random_windows(characters: int, length: int, batch_size: int, seed: int) -> Order:
    """Windows of `length` from random places of a stream; a pass sees about every character once."""
    count = windows_of(characters, length)
    batch_size = min(batch_size, count)
    offsets = tf.range(length, dtype=tf.int64)

    def places(step: tf.Tensor) -> tf.Tensor:
        last = characters - length + 1
        starts = tf.random.stateless_uniform((batch_size, 1), tf.stack([seed, step]), 0, last, tf.int64)
        return starts + offsets

    return Order(places, count // batch_size)


def windows_of(characters: int, length: int) -> int:
    """How many windows make one pass over a stream."""
    return max(1, characters // length)


def ordered_rows(rows: np.ndarray, batch_size: int, attribute: np.ndarray | None = None) -> tf.data.Dataset:
    """Every row once, in order; the last batch may be smaller."""
    return gathered(rows, tf.data.Dataset.range(len(rows)).batch(batch_size), attribute)


Values = np.ndarray | StoredRows | StoredStream


def taken_from_memory(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads an array at indices."""
    table = tf.constant(values)
    return lambda index: tf.cast(tf.gather(table, index), tf.int32)


def taken_from_disk(values: StoredRows | StoredStream) -> Callable[[tf.Tensor], tf.Tensor]:
    """What reads a store at indices: (B, T) at the rows (B,), or at the places (B, T) of windows."""

    def take(index: tf.Tensor) -> tf.Tensor:
        length = values.row_length if isinstance(values, StoredRows) else index.shape[1]
        return tf.ensure_shape(tf.numpy_function(values.take, [index], tf.int32), (index.shape[0], length))

    return take


def gathered(values: Values, indices: tf.data.Dataset, attribute: np.ndarray | None = None) -> tf.data.Dataset:
    """The values at each element's indices, as int32, fetched ahead of use; with attributes as {"tokens", "attribute"}."""
    take = taken_from_memory(values) if isinstance(values, np.ndarray) else taken_from_disk(values)
    labels = None if attribute is None else tf.constant(attribute, tf.int32)

    def pick(index: tf.Tensor) -> Any:
        tokens = take(index)
        return tokens if labels is None else {"tokens": tokens, "attribute": tf.gather(labels, index)}

    options = tf.data.Options()  # several workers: each batch is split, not the corpus
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return indices.map(pick, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).with_options(options)
