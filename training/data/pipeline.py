"""tf.data pipelines that feed training and validation.

A batch contains tokens (B, T) int32, and the attribute (B,) of each text if the corpus has
attributes. With length buckets it has only as many positions as its longest text needs. The content
of a batch depends only on the seed and the training step, so that an interrupted run continues with
the batches it would have seen.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.serving.alphabet import PAD

from .columns import MemoryColumn
from .prepare import Prepared
from .rows import Rows, Stream

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # the GPU belongs to the backend that trains


POOL = 50
"""Number of batches that are sorted by length together.

More batches make the lengths within a batch more similar; fewer are closer to a plain shuffle.
"""

ROUNDING = 4
"""Batches are trimmed to a multiple of this length, so that few shapes are compiled."""

MOST_TOGETHER, TOKENS_TOGETHER = 32, 2**19
"""Largest number of batches that are read together, and the tokens that they have at most."""

QUIET_SECONDS, LONGEST_WAIT = 0.05, 5.0
"""Seconds without a reading thread after which a process may end, and the longest wait for them."""

Values = Rows | Stream
"""The tokens of a corpus, in memory or on disk."""


class Reading:
    """Whether threads of tf.data read in Python. The interpreter must not end while one does: the
    process would wait for it for ever (TensorFlow 2.21)."""

    def __init__(self) -> None:
        self.running, self.ended = 0, 0.0
        atexit.register(self.wait)

    def __enter__(self) -> None:
        self.running += 1

    def __exit__(self, *error: object) -> None:
        self.running, self.ended = self.running - 1, time.monotonic()

    def wait(self) -> None:
        """Wait until the buffers are full and no thread reads."""
        latest = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < latest and (
            self.running or time.monotonic() < self.ended + QUIET_SECONDS
        ):
            time.sleep(QUIET_SECONDS / 5)


READING = Reading()


@dataclass(frozen=True)
class Order:
    """The order in which a corpus is read.

    `places(step)` are the indices of the batch of that step; `steps` steps make one pass.
    """

    places: Callable[[tf.Tensor], tf.Tensor]
    steps: int


def training_batches(prepared: Prepared) -> tf.data.Dataset:
    """One pass over the training split, for `model.fit(..., epochs=N)`.

    Every iteration draws a new order.
    """
    order = order_of(prepared)
    passes = tf.data.Dataset.random(
        prepared.config.training.seed, rerandomize_each_iteration=True
    ).take(1)
    steps = passes.flat_map(
        lambda index: tf.data.Dataset.range(order.steps).map(
            lambda step: index * order.steps + step
        )
    )
    batches = training_dataset(prepared, steps.map(order.places))
    return batches.apply(tf.data.experimental.assert_cardinality(order.steps))


def training_stream(prepared: Prepared, first_step: int = 0) -> tf.data.Dataset:
    """The batches of the steps from `first_step` on, without end; they depend only on the seed."""
    steps = tf.data.Dataset.counter(first_step, dtype=tf.int64)
    return training_dataset(prepared, steps.map(order_of(prepared).places))


def training_dataset(prepared: Prepared, indices: tf.data.Dataset) -> tf.data.Dataset:
    """Batches of the training split, one for each element of `indices`."""
    buckets = prepared.config.training.length_buckets
    return batches_of(in_groups(prepared.train, indices), prepared.train_attribute, buckets)


def steps_of_a_pass(prepared: Prepared) -> int:
    """Number of training steps in one pass over the training split."""
    return order_of(prepared).steps


def batch_size_of(prepared: Prepared) -> int:
    """Texts per training step: `training.batch_size`, or all texts of a smaller corpus."""
    config, rows = prepared.config, len(prepared.train)
    return min(
        config.training.batch_size,
        window_count(rows, config.model.length) if config.data.reading.is_stream else rows,
    )


def validation_batches(
    prepared: Prepared, batch_size: int = 128, parts: int = 1
) -> tf.data.Dataset:
    """Batches of the held-out split, each divisible into `parts` equal parts.

    Fewer than `parts` texts at the end are left out for that. With length buckets the shortest
    texts come first.
    """
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
    """The order of the training split, from the data mode, batch size and seed."""
    config, train = prepared.config, prepared.train
    batch_size, seed = config.training.batch_size, config.training.seed
    if isinstance(train, Stream):
        return random_windows(len(train), config.model.length, batch_size, seed)
    if config.training.length_buckets:
        return bucketed_rows(lengths_of(train), batch_size, seed)
    return shuffled_rows(len(train), batch_size, seed)


def shuffled_rows(rows: int, batch_size: int, seed: int) -> Order:
    """A random order in which every row occurs at most once per pass, in full batches.

    Every pass has a different order. If there are fewer rows than `batch_size`, one batch contains
    all of them.
    """
    batch_size = min(batch_size, rows)
    steps = rows // batch_size

    def places(step: tf.Tensor) -> tf.Tensor:
        positions = step % steps * batch_size + tf.range(batch_size, dtype=tf.int64)
        return tf.random.experimental.index_shuffle(
            positions, tf.stack([seed, step // steps]), rows - 1
        )

    return Order(places, steps)


def bucketed_rows(lengths: np.ndarray, batch_size: int, seed: int) -> Order:
    """A random order like that of `shuffled_rows`, with texts of similar length in a batch.

    The rows of `POOL` batches at a time are sorted by their `lengths` (N,). The resulting batches
    come in a random order.
    """
    batch_size = min(batch_size, len(lengths))
    shuffled = shuffled_rows(len(lengths), batch_size, seed)
    table = tf.constant(lengths, tf.int32)

    def places(step: tf.Tensor) -> tf.Tensor:
        first = step - step % shuffled.steps % POOL
        size = tf.minimum(tf.constant(POOL, tf.int64), shuffled.steps - first % shuffled.steps)
        pool = tf.reshape(tf.map_fn(shuffled.places, first + tf.range(size)), [-1])
        by_length = tf.gather(pool, tf.argsort(tf.gather(table, pool), stable=True))
        batch = tf.random.experimental.index_shuffle(
            step - first, tf.stack([seed, first]), size - 1
        )
        return tf.gather(by_length, batch * batch_size + tf.range(batch_size, dtype=tf.int64))

    return Order(places, shuffled.steps)


def lengths_of(rows: Rows | np.ndarray) -> np.ndarray:
    """Number of positions of each row without padding, (N,)."""
    if isinstance(rows, np.ndarray):
        return np.asarray(np.sum(rows != PAD, axis=1))
    return rows.lengths()


def random_windows(tokens: int, length: int, batch_size: int, seed: int) -> Order:
    """Windows of `length` tokens at random positions of a stream of so many tokens.

    A pass has about as many tokens as the stream.
    """
    count = window_count(tokens, length)
    batch_size = min(batch_size, count)
    offsets = tf.range(length, dtype=tf.int64)

    def places(step: tf.Tensor) -> tf.Tensor:
        end = tokens - length + 1
        starts = tf.random.stateless_uniform(
            (batch_size, 1), tf.stack([seed, step]), 0, end, tf.int64
        )
        return starts + offsets

    return Order(places, count // batch_size)


def window_count(tokens: int, length: int) -> int:
    """Number of windows that make one pass over a stream of so many tokens."""
    return max(1, tokens // length)


def ordered_rows(
    rows: np.ndarray, batch_size: int, attribute: np.ndarray | None = None, trim: bool = False
) -> tf.data.Dataset:
    """Batches with every row once, in order; the last one may be smaller."""
    places, table = tf.data.Dataset.range(len(rows)).batch(batch_size), tf.constant(rows)
    pairs = places.map(lambda index: (index, tf.cast(tf.gather(table, index), tf.int32)))
    return batches_of(pairs, attribute, trim)


def memory_reader(values: Values) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that reads the tokens (G, B, T) of G batches from memory.

    Its argument is the indices of rows (G, B), or the positions (G, B, T) of windows in a stream.
    """
    table = tf.convert_to_tensor(values.numbers())
    return lambda indices: tf.cast(tf.gather(table, indices), tf.int32)


def disk_reader(values: Values) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that reads from disk what `memory_reader` reads from memory."""

    def read(indices: np.ndarray) -> np.ndarray:
        flat = indices.reshape(-1, *indices.shape[2:])
        with READING:
            return values.take(flat).reshape(*indices.shape[:2], -1)

    def take(indices: tf.Tensor) -> tf.Tensor:
        length = values.row_length if isinstance(values, Rows) else indices.shape[2]
        return tf.ensure_shape(
            tf.numpy_function(read, [indices], tf.int32), (None, indices.shape[1], length)
        )

    return take


def trim_padding(tokens: tf.Tensor) -> tf.Tensor:
    """Tokens (B, T) trimmed to the longest text, rounded up to a multiple of `ROUNDING` or to T."""
    longest = tf.reduce_max(tf.math.count_nonzero(tokens != PAD, axis=1, dtype=tf.int32))
    return tokens[:, : (longest + ROUNDING - 1) // ROUNDING * ROUNDING]


def in_groups(values: Values, indices: tf.data.Dataset) -> tf.data.Dataset:
    """Pairs of the indices of each element and their tokens, which are read for several batches at
    once. All elements have the same shape."""
    in_memory = isinstance(values.tokens, MemoryColumn)
    take = memory_reader(values) if in_memory else disk_reader(values)
    batch_size, *window = indices.element_spec.shape.as_list()
    length = window[0] if isinstance(values, Stream) else values.row_length
    together = max(1, min(MOST_TOGETHER, TOKENS_TOGETHER // (batch_size * length)))
    return indices.batch(together).map(lambda index: (index, take(index))).unbatch()


def batches_of(
    pairs: tf.data.Dataset, attribute: np.ndarray | None = None, trim: bool = False
) -> tf.data.Dataset:
    """Batches of pairs of indices and tokens, prefetched.

    With `trim` every batch is trimmed to its longest text. With attributes a batch is {"tokens",
    "attribute"}.
    """
    labels = None if attribute is None else tf.constant(attribute, tf.int32)

    def pick(index: tf.Tensor, tokens: tf.Tensor) -> Any:
        tokens = trim_padding(tokens) if trim else tokens
        if labels is None:
            return tokens
        return {"tokens": tokens, "attribute": tf.gather(labels, index)}

    options = tf.data.Options()  # with several workers, split each batch and not the corpus
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = pairs.map(pick, tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)
