"""The interface of the training steps, which each backend implements in `kvae.training`.

`backend_steps` is the only place where this folder imports `kvae.training`. Only `TextVAE.fit` and
its siblings call it: building, applying and exporting a model do not need `kvae.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from kvae.serving.errors import ConfigError

from .backends import BACKENDS
from .tensors import Tensor

if TYPE_CHECKING:
    import numpy as np

    from .model import TextVAE


class Steps(Protocol):
    """The functions of a backend's module.

    Keras calls a step with `data` on TensorFlow. On JAX a step is a function of the values of the
    variables, and Keras calls it with `state` and `data`.
    """

    def train_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """One optimisation step; returns the logs, on JAX also the new state."""

    def test_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """One evaluation step; returns the logs, on JAX also the new state."""

    def predict_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """The outputs of the model in inference mode; on JAX also the new state."""

    def keeping_weights(self, model: TextVAE) -> AbstractContextManager[None]:
        """Context in which the model keeps its weights even if an error is raised."""

    def call_on_first_batch(self, dataset: Any, look: Callable[[Any], None]) -> Any:
        """The same tf.data pipeline, which calls `look` with its first batch, as arrays.

        It does so each time the pipeline is read from the start.
        """

    def compiled(
        self, model: TextVAE, function: Callable[..., dict[str, Tensor]], inputs: Sequence[Tensor]
    ) -> Callable[..., dict[str, np.ndarray]]:
        """Compile `function`, which takes arrays like the symbolic `inputs`.

        The compiled function always uses the current weights of the model.
        """

    def accelerators(self) -> list[str]:
        """Names of the GPUs or TPUs in use."""


def backend_steps() -> Steps:
    """The steps of the backend in use.

    Their module is imported when a model is first trained, evaluated or asked for predictions.
    Raises `ConfigError` for a backend that kvae does not train on.
    """
    import keras

    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ConfigError(
            f"KERAS_BACKEND is {backend!r}; kvae trains on {' and '.join(map(repr, BACKENDS))}"
        )
    return cast(Steps, import_module(f"kvae.training.{backend}_step"))
