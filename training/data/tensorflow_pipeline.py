"""A feed as a tf.data pipeline."""

from __future__ import annotations

import atexit
import itertools
import time
from typing import Any

import numpy as np
import tensorflow as tf

from .batches import Feed

QUIET_SECONDS, LONGEST_WAIT = 0.05, 5.0
"""Seconds without a reading thread after which a process may end, and the longest wait for them."""


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


def dataset_of(feed: Feed) -> tf.data.Dataset:
    """The batches of a feed, prefetched. Every iteration makes the next pass."""
    batch_size = None if feed.is_ragged else feed.shape[0]
    shapes = {
        "tokens": (None, batch_size, feed.shape[1]),
        **({"attribute": (None, batch_size)} if feed.has_attribute else {}),
        **({"lengths": (None,)} if feed.is_trimmed else {}),
    }

    def read(first: np.int64, end: np.int64) -> list[np.ndarray]:
        with READING:
            group = feed.read(np.arange(first, end))
        return [getattr(group, name) for name in shapes]

    def parts(first: tf.Tensor, end: tf.Tensor) -> dict[str, tf.Tensor]:
        arrays = tf.numpy_function(read, [first, end], [tf.int32] * len(shapes), stateful=False)
        return {
            name: tf.ensure_shape(array, shape)
            for array, (name, shape) in zip(arrays, shapes.items(), strict=True)
        }

    def batch(parts: dict[str, tf.Tensor]) -> Any:
        tokens = parts["tokens"]
        if feed.is_trimmed:
            tokens = tokens[:, : parts["lengths"]]
        return {"tokens": tokens, "attribute": parts["attribute"]} if feed.has_attribute else tokens

    groups = numbers_of_groups(feed).map(parts)
    if feed.is_trimmed:
        batches = groups.unbatch().map(batch, tf.data.AUTOTUNE)
    else:
        batches = groups.map(batch).unbatch()
    options = tf.data.Options()  # with several workers, split each batch and not the corpus
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    count = tf.data.INFINITE_CARDINALITY if feed.count is None else feed.count
    batches = batches.apply(tf.data.experimental.assert_cardinality(count))
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def numbers_of_groups(feed: Feed) -> tf.data.Dataset:
    """The number of the first batch of each group of a pass, and the one after its last batch."""
    if feed.count is None:
        firsts = tf.data.Dataset.counter(feed.first, feed.together, tf.int64)
        return firsts.map(lambda first: (first, first + feed.together))
    passes, bounds = itertools.count(), np.array(feed.bounds(feed.count), np.int64)

    def next_pass() -> np.int64:
        with READING:
            return np.int64(feed.number(0, next(passes)))

    starts = tf.data.Dataset.from_tensors(0).map(
        lambda _: tf.ensure_shape(tf.numpy_function(next_pass, [], tf.int64), ())
    )
    return starts.flat_map(
        lambda start: tf.data.Dataset.from_tensor_slices(tuple(bounds.T)).map(
            lambda first, end: (start + first, start + end)
        )
    )
