"""Callbacks at each training step, which leave its metrics on the device until they need them.

Reading a metric makes the program wait until the device has computed the step. A program that does
not wait prepares the next steps meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import keras

from kvae.model import as_int

from .checkpoints import Diverged

PROGRESS_METRICS = (
    "loss",
    "elbo",
    "kl",
    "val_elbo",
    "val_kl",
    "val_active_units",
    "val_mutual_information",
)
"""Metrics that the progress bar shows. TensorBoard and the metrics file have all of them."""

PROGRESS_SECONDS = 0.1
"""Seconds between two updates of the metrics in the progress bar."""

STEPS_UNREAD = 32
"""Largest number of steps whose losses have not been looked at."""


class StepCallbacks(keras.callbacks.CallbackList):
    """Keras' list of callbacks, which hands over the metrics of a step as they are.

    Keras' own list turns all of them into numbers after each step.
    """

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        for callback in self.callbacks:
            callback.on_test_batch_end(batch, logs)


class StepCallback(keras.callbacks.Callback):
    """Base of callbacks that act at a training step.

    It counts batches itself. On JAX, reading the model's step counter after each batch would make
    the program wait for the device.
    """

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.steps_before_epoch = as_int(self.model.training_steps)

    def has_reached(self, step: int, batch: int) -> bool:
        """Whether training has reached `step` after batch number `batch` of the epoch.

        The model's own counter confirms it: with several steps per execution, the last call of an
        epoch may count batches that the data did not have.
        """
        return (
            self.steps_before_epoch + batch + 1 >= step
            and as_int(self.model.training_steps) >= step
        )


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar, limited to the metrics that fit on a line."""

    shown = 0.0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        due = self.verbose == 1 and time.monotonic() - self.shown >= PROGRESS_SECONDS
        super().on_train_batch_end(batch, as_floats(progress_metrics(logs)) if due else None)
        self.shown = time.monotonic() if due else self.shown

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, progress_metrics(logs))


class Divergence(StepCallback):
    """Raises `Diverged` for the first step of an epoch whose loss is not finite.

    It looks every `STEPS_UNREAD` steps and at the end of the epoch, so no other callback sees the
    epoch's metrics of that model.
    """

    last: Mapping[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.unread: list[tuple[int, Mapping[str, Any]]] = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.unread.append((self.steps_before_epoch + batch + 1, logs or {}))
        if len(self.unread) == STEPS_UNREAD or batch + 1 == self.params["steps"]:
            self.check()

    def check(self) -> None:
        """Look at the losses of the steps since the last call."""
        for step, logs in self.unread:
            loss = float(logs.get("loss", 0.0))
            if not math.isfinite(loss):
                raise Diverged(step, f"the loss is {loss}", as_floats(self.last))
            self.last = logs
        self.unread.clear()


def as_floats(logs: Mapping[str, Any]) -> dict[str, float]:
    """The metrics as numbers; waits until they are computed."""
    return {name: float(value) for name, value in logs.items()}


def progress_metrics(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of `PROGRESS_METRICS` that `logs` contains, in that order."""
    return {name: logs[name] for name in PROGRESS_METRICS if logs and name in logs}
