"""TensorFlow for what is not training, where another backend may train."""

from __future__ import annotations

import contextlib
from typing import Any


def tensorflow_as_guest() -> Any:
    """The module TensorFlow; on another backend without the GPU, which belongs to that backend."""
    import keras
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        with contextlib.suppress(RuntimeError):  # the program has used TensorFlow before
            tf.config.set_visible_devices([], "GPU")
    return tf
