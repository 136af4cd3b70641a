"""Sampling from a bundle with numpy and onnxruntime alone. This folder imports nothing else of
kvae."""

from typing import TYPE_CHECKING, Any

# Import numpy before onnxruntime: onnxruntime's own import of numpy takes 20 ms longer.
import numpy as _numpy  # noqa: F401

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
from .results import Sample, Score
from .sampler import Sampler

if TYPE_CHECKING:
    from .asynchronous import AsyncSampler as AsyncSampler

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
    """Import `AsyncSampler` on first use: asyncio takes longer to import than the rest of this
    folder."""
    if name != "AsyncSampler":
        raise AttributeError(f"module 'kvae.serving' has no attribute {name!r}")
    from .asynchronous import AsyncSampler

    return AsyncSampler
