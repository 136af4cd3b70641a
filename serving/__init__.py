"""Serving: texts from a bundle with numpy and onnxruntime alone. It imports nothing of kvae outside its own folder."""

from .asynchronous import AsyncSampler
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
