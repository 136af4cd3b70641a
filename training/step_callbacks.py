"""Callbacks at each training step, which leave its metrics on the device until they need them.

Reading a metric makes the program wait until the device has computed the step. A program that does
not wait prepares the next steps meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kvae.model import as_int

from .checkpoints import Diverged
from .messages import LINE_SECONDS

PROGRESS_METRICS = (
    "loss",
    "importance_weighted_nll",
    "elbo",
    "reconstruction",
    "kl",
    "beta",
    "val_importance_weighted_nll",
    "val_elbo",
    "val_reconstruction",
    "val_kl",
    "val_active_units",
    "val_mutual_information",
)
"""Metrics that the progress bar shows. TensorBoard and the metrics file have all of them."""

LINE_METRICS = {
    "importance_weighted_nll": "importance-weighted bound",
    "elbo": "bound",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "beta": "beta",
}
"""Metrics of a line of progress, with their names there; all but beta are in nats."""

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


class ProgressLines(StepCallback):
    """Tells `say` every half minute where training is: for output that is no terminal.

    The metrics are means over the steps since the last line.
    """

    def __init__(self, say: Callable[[str], None], total_steps: int) -> None:
        super().__init__()
        self.say, self.total_steps = say, total_steps

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.started = self.shown = time.monotonic()
        self.first_step = as_int(self.model.training_steps)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.before: tuple[int, dict[str, float]] = (0, {})

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        now, step = time.monotonic(), self.steps_before_epoch + batch + 1
        if now - self.shown < LINE_SECONDS or not logs:
            return
        self.shown = now
        means = {name: float(logs[name]) for name in LINE_METRICS if name in logs}
        recent = since(self.before, (batch + 1, means))
        self.before = (batch + 1, means)
        left = (now - self.started) * (self.total_steps - step) / max(step - self.first_step, 1)
        self.say(
            f"step {step:,} of {self.total_steps:,}, {left / 60:.1f} minutes left: "
            + ", ".join(
                f"{words} {recent[name]:.2f}"
                for name, words in LINE_METRICS.items()
                if name in recent
            )
        )


def since(
    before: tuple[int, Mapping[str, float]], now: tuple[int, Mapping[str, float]]
) -> dict[str, float]:
    """The means over the steps between two counts of steps, from the means up to each count."""
    (old_count, old), (count, means) = before, now
    return {
        name: (count * mean - old_count * old.get(name, 0.0)) / max(count - old_count, 1)
        for name, mean in means.items()
    }


class TimeLimit(StepCallback):
    """Sets `stop` after so many minutes of training, so that the current step is the last one."""

    def __init__(
        self, minutes: float, stop: threading.Event, say: Callable[[str], None], total_steps: int
    ) -> None:
        super().__init__()
        self.minutes, self.stop, self.say, self.total_steps = minutes, stop, say, total_steps
        self.started = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = self.steps_before_epoch + batch + 1
        is_over = time.monotonic() - self.started > 60 * self.minutes
        if is_over and step < self.total_steps and not self.stop.is_set():
            self.stop.set()
            self.say(
                f"the time is over after {step:,} of {self.total_steps:,} steps "
                f"(training.minutes={self.minutes:g})"
            )


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
