"""What is written once for each backend of Keras: the modules `kvae.training.<backend>_step`, found by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras

from kvae.serving.errors import ConfigError

BACKENDS = ("tensorflow", "jax")
"""Backends of Keras that kvae trains on."""


def backend_steps() -> Any:
    """The module of the backend in use, imported when a model computes; raises `ConfigError` for another backend."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND is {backend!r}; kvae trains on {' and '.join(map(repr, BACKENDS))}")
    return import_module(f"kvae.training.{backend}_step")
