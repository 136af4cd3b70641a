"""Serving: texts from a bundle with numpy and onnxruntime alone. It imports nothing of kvae outside its own folder."""

from typing import Any

import numpy as _numpy  # noqa: F401  (imported by onnxruntime from within this package it takes 20 ms longer)

from .errors import (
    BundleError,
    Cancelled,
    CheckFailed,
    ConfigError,
    DataError,
    DeadlineError,
    KvaeError,
    ModelError,
)
from .limits import Cancellation
from .sampler import Sample, Sampler, Score

__all__ = [
    "AsyncSampler",
    "BundleError",
    "Cancellation",
    "Cancelled",
    "CheckFailed",
    "ConfigError",
    "DataError",
    "DeadlineError",
    "KvaeError",
    "ModelError",
    "Sample",
    "Sampler",
    "Score",
]


def __getattr__(name: str) -> Any:
    """`AsyncSampler` when it is asked for: asyncio takes longer to import than all the rest of this folder."""
    if name != "AsyncSampler":
        raise AttributeError(f"module 'kvae.serving' has no attribute {name!r}")
    from .asynchronous import AsyncSampler

    return AsyncSampler
