"""Serving: texts from a bundle with numpy and onnxruntime alone. It imports nothing of kvae outside its own folder."""

from .errors import BundleError, CheckFailed, ConfigError, DataError, KvaeError, ModelError
from .sampler import Sample, Sampler

__all__ = ["BundleError", "CheckFailed", "ConfigError", "DataError", "KvaeError", "ModelError", "Sample", "Sampler"]
