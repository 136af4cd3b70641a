"""What is written once for each backend, in `kvae.training`, and how a model that is trained finds it.

`backend_steps` is the one place from which this folder reaches into `kvae.training`, and `TextVAE.fit` and its like are the
only ones to ask: a model is built, computes and leaves without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from kvae.serving.errors import ConfigError

from .backends import BACKENDS

if TYPE_CHECKING:
    from .model import TextVAE


class Steps(Protocol):
    """What the module of a backend offers. Keras hands a step its `data` on TensorFlow; on JAX, where a step is a function of
    the variables' values, `state` and `data`."""

    def train_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """One optimisation step: the logs; on JAX those and the state after it."""

    def test_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """The objective's terms with the model in inference mode, as `train_step`."""

    def predict_step(self, model: TextVAE, *arguments: Any, **options: Any) -> Any:
        """The outputs with the model in inference mode; on JAX those and the state after it."""

    def keeping_weights(self, model: TextVAE) -> AbstractContextManager[None]:
        """Within this a model has its weights, whatever fails."""

    def watched(self, dataset: Any, look: Callable[[Any], None]) -> Any:
        """The same tf.data pipeline; `look` is called with its first batch, as arrays, each time it is read from the start."""

    def compiled(
        self, model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[Any]
    ) -> Callable[..., dict[str, Any]]:
        """`function` of arrays like the symbolic `inputs`, compiled; it always sees the model's weights of the moment."""

    def accelerators(self) -> list[str]:
        """The names of the GPUs or TPUs in use."""


def backend_steps() -> Steps:
    """The steps of the backend in use, imported when a model is first trained, evaluated or asked for predictions. Raises
    `ConfigError` for a backend that kvae does not train on."""
    import keras

    backend = keras.backend.backend()
    if backend not in BACKENDS:
        raise ConfigError(
            f"KERAS_BACKEND is {backend!r}; kvae trains on {' and '.join(map(repr, BACKENDS))}"
        )
    return cast(Steps, import_module(f"kvae.training.{backend}_step"))
