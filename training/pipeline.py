"""tf.data pipelines: batches of tokens (B, T) int32, with the attribute (B,) of each text where there is one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .corpora import Prepared

if keras.backend.backend() != "tensorflow":
    tf.config.set_visible_devices([], "GPU")  # it only feeds then: the GPU belongs to the backend


def training_batches(prepared: Prepared) -> tf.data.Dataset:
    """The training split of a corpus, by its mode, batch size and seed."""
    config = prepared.config
    batch_size, seed = config.training.batch_size, config.training.seed
    if config.data.mode == "windows":
        return random_windows(prepared.train, config.model.length, batch_size, seed)
    return shuffled_rows(prepared.train, batch_size, seed, prepared.train_attribute)


def validation_batches(prepared: Prepared, batch_size: int = 128) -> tf.data.Dataset:
    """The held-out split of a corpus."""
    return ordered_rows(prepared.validation, batch_size, prepared.validation_attribute)


def shuffled_rows(rows: np.ndarray, batch_size: int, seed: int, attribute: np.ndarray | None = None) -> tf.data.Dataset:
    """Rows in an order drawn anew each pass, full batches only. Fewer rows than a batch make one batch of all."""
    batch_size = min(batch_size, len(rows))
    order = tf.data.Dataset.range(len(rows)).shuffle(len(rows), seed=seed, reshuffle_each_iteration=True)
    return gathered(rows, order.batch(batch_size, drop_remainder=True), attribute)


def random_windows(stream: np.ndarray, length: int, batch_size: int, seed: int) -> tf.data.Dataset:
    """Windows of `length` from random places of a stream, drawn anew each pass; a pass sees about every character once."""
    places = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).map(
        lambda number: number % (len(stream) - length + 1)
    )
    count = max(1, len(stream) // length)
    starts = places.take(count).batch(min(batch_size, count), drop_remainder=True)
    offsets = tf.range(length, dtype=tf.int64)
    return gathered(stream, starts.map(lambda start: start[:, None] + offsets))


def ordered_rows(rows: np.ndarray, batch_size: int, attribute: np.ndarray | None = None) -> tf.data.Dataset:
    """Every row once, in order; the last batch may be smaller."""
    return gathered(rows, tf.data.Dataset.range(len(rows)).batch(batch_size), attribute)


def gathered(values: np.ndarray, indices: tf.data.Dataset, attribute: np.ndarray | None = None) -> tf.data.Dataset:
    """The values at each element's indices, as int32, fetched ahead of use; with attributes as {"tokens", "attribute"}."""
    table = tf.constant(values)
    labels = None if attribute is None else tf.constant(attribute, tf.int32)

    def pick(index: tf.Tensor) -> Any:
        tokens = tf.cast(tf.gather(table, index), tf.int32)
        return tokens if labels is None else {"tokens": tokens, "attribute": tf.gather(labels, index)}

    return indices.map(pick, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
