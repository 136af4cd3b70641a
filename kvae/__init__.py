"""kvae: variational autoencoders for text whose latent code stays alive, shipped as ONNX samplers.

Names are imported on first use, so that `import kvae.serving` needs numpy and onnxruntime alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # editors complete these names and check their arguments
    from kvae.serving.alphabet import Alphabet as Alphabet
    from kvae.serving.errors import KvaeError as KvaeError
    from kvae.serving.sampler import Sampler as Sampler
    from kvae.training.fitting import fit as fit

    from .configuration import Config as Config
    from .configuration import DataConfig as DataConfig
    from .configuration import ModelConfig as ModelConfig
    from .configuration import ObjectiveConfig as ObjectiveConfig
    from .configuration import TrainingConfig as TrainingConfig
    from .model import TextVAE as TextVAE
    from .own_parts import register as register
    from .presets import PRESETS as PRESETS
    from .presets import preset as preset
    from .runs import load_run as load_run

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
    "fit": "kvae.training.fitting",
    "TextVAE": "kvae.model",
    "load_run": "kvae.runs",
    "register": "kvae.own_parts",
}

_NEED_KERAS = ("fit", "TextVAE", "load_run", "register")

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kvae' has no attribute {name!r}")
    if name in _NEED_KERAS:
        import_module("kvae.backends").check_backend()
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
