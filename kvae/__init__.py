"""kvae: variational autoencoders for text whose latent code stays alive, shipped as ONNX samplers.

Names are imported on first use, so that `import kvae.serving` needs numpy and onnxruntime alone.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "Config": "kvae.configuration",
    "DataConfig": "kvae.configuration",
    "ModelConfig": "kvae.configuration",
    "ObjectiveConfig": "kvae.configuration",
    "TrainingConfig": "kvae.configuration",
    "Alphabet": "kvae.serving.alphabet",
    "KvaeError": "kvae.serving.errors",
    "Sampler": "kvae.serving.sampler",
    "PRESETS": "kvae.presets",
    "preset": "kvae.presets",
    "TextVAE": "kvae.model",
    "load_run": "kvae.runs",
    "register": "kvae.own_parts",
}

_NEED_KERAS = ("TextVAE", "load_run", "register")

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kvae' has no attribute {name!r}")
    if name in _NEED_KERAS:
        import_module("kvae.backends").check_backend()
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
