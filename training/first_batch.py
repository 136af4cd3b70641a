"""A function that sees the first batch of a tf.data pipeline, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .guest import tensorflow_as_guest


def call_on_first_batch(dataset: Any, look: Callable[[Any], None]) -> Any:
    """The same dataset; `look` is called with its first batch, as arrays, in each iteration.

    The batch is seen on its way to the consumer, and not read separately: a pipeline around a
    generator would lose a batch, and one that shuffles would change its order.
    """
    tf = tensorflow_as_guest()

    def call_look(*arrays: np.ndarray) -> np.int64:
        remaining = iter(arrays)
        look(
            tf.nest.map_structure(
                lambda spec: None if is_none(spec) else next(remaining), dataset.element_spec
            )
        )
        return np.int64(0)

    def pass_through(index: Any, batch: Any) -> Any:
        tensors = [part for part in tf.nest.flatten(batch) if part is not None]
        looked = tf.cond(
            index == 0,
            lambda: tf.numpy_function(call_look, tensors, tf.int64),
            lambda: tf.zeros((), tf.int64),
        )
        with tf.control_dependencies([looked]):
            return tf.nest.map_structure(
                lambda part: None if part is None else tf.identity(part), batch
            )

    return tf.data.Dataset.zip(tf.data.Dataset.counter(), dataset).map(pass_through)


def is_none(spec: Any) -> bool:
    """Whether this part of a batch is None, as missing targets between inputs and weights are."""
    return spec is None or not hasattr(spec, "shape")
