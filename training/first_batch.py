"""The first batch of a tf.data pipeline, looked at as it comes by, under every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def call_on_first_batch(dataset: tf.data.Dataset, look: Callable[[Any], None]) -> tf.data.Dataset:
    """The same dataset; `look` is called with its first batch, as arrays, each time it is read from the start. It is not read
    for that: a pipeline around a generator would lose a batch, one that shuffles would take another order."""

    def run(*arrays: np.ndarray) -> np.int64:
        left = iter(arrays)
        look(tf.nest.map_structure(lambda spec: None if is_nothing(spec) else next(left), dataset.element_spec))
        return np.int64(0)

    def passing(number: tf.Tensor, batch: Any) -> Any:
        tensors = [part for part in tf.nest.flatten(batch) if part is not None]
        seen = tf.cond(number == 0, lambda: tf.numpy_function(run, tensors, tf.int64), lambda: tf.zeros((), tf.int64))
        with tf.control_dependencies([seen]):
            return tf.nest.map_structure(lambda part: None if part is None else tf.identity(part), batch)

    return tf.data.Dataset.zip(tf.data.Dataset.counter(), dataset).map(passing)


def is_nothing(spec: Any) -> bool:
    """Whether that part of a batch is None, as the targets between inputs and weights."""
    return spec is None or not hasattr(spec, "shape")
