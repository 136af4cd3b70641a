"""Training: from texts to a trained model.

Names are imported on first use, so that `import kvae.training` loads neither Keras nor TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # mypy holds the steps of both backends to their protocol
    from kvae.steps import Steps

    from . import jax_step, tensorflow_step

    STEPS: tuple[Steps, Steps] = (tensorflow_step, jax_step)

    # editors complete these names and check their arguments
    from .comparison import results as results
    from .data.pipeline import training_batches as training_batches
    from .data.pipeline import validation_batches as validation_batches
    from .data.prepare import prepare as prepare
    from .from_python import evaluate_run as evaluate_run
    from .from_python import fit_run as fit_run

_MODULES = {
    "prepare": "kvae.training.data.prepare",
    "training_batches": "kvae.training.data.pipeline",
    "validation_batches": "kvae.training.data.pipeline",
    "fit_run": "kvae.training.from_python",
    "evaluate_run": "kvae.training.from_python",
    "results": "kvae.training.comparison",
}

_NEED_NO_KERAS = ("results",)

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kvae.training' has no attribute {name!r}")
    if name not in _NEED_NO_KERAS:
        import_module("kvae.backends").check_backend()
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
