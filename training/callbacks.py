"""Callbacks of a training run: those that show it (progress bar, metrics file), and those that steer it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kvae.model import NEVER, TextVAE, number
from kvae.runs import DIVERGED, numbered, step_of, to_json
from kvae.writing import write_text

from .checkpoints import KEPT, Checkpoint, Diverged, read_checkpoint, restore_weights, write_checkpoint

SHOWN = ("loss", "elbo", "kl", "val_elbo", "val_kl", "val_active_units", "val_mutual_information")
"""Metrics with a place in the progress bar; TensorBoard and the metrics file have them all."""

MINUTES = 10.0
"""Between two checkpoints of an epoch, where no number of steps is set."""

LOST = 2.0
"""A model whose reconstruction costs more than this many times what guessing costs, T ln V nats, is not a good one: a model
that has learned nothing costs 1 times as much, one on its way to numbers that are not finite more than twice."""


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with the few metrics that fit on a line."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, shown(logs))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, shown(logs))


class MetricsFile(keras.callbacks.Callback):
    """One JSON object a line for every epoch: step, seconds of training, and every metric."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.lines, self.started = path, 0, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.lines += 1
        self.write(number(self.model.training_steps), {name: float(value) for name, value in (logs or {}).items()})

    def diverged(self, error: Diverged) -> None:
        """The last line of an attempt that diverged: why, and the last training metrics that were numbers."""
        self.write(error.step, {"diverged": error.what, **error.last})

    def write(self, step: int, found: Mapping[str, Any]) -> None:
        record = {"epoch": self.epoch + 1, "step": step, "seconds": round(self.seconds, 2), **found}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    @property
    def seconds(self) -> float:
        """Since the start, interruptions left out."""
        return time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        return {"lines": self.lines, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind the lines that were there; what was written after the checkpoint is dropped."""
        self.lines, self.started = state["lines"], time.monotonic() - state["seconds"]
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()[: self.lines]
            write_text(self.path, "".join(line + "\n" for line in lines), alone=True)


class StepCallback(keras.callbacks.Callback):
    """Knows how far training may be without asking the model at each batch, which on JAX would stop the device to read it."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.before = number(self.model.training_steps)

    def reached(self, step: int, batch: int) -> bool:
        """Whether training is at `step` or past it after `batch` of the epoch; with several steps per execution the last
        call of an epoch may have counted batches that the data did not have."""
        return self.before + batch + 1 >= step and number(self.model.training_steps) >= step


class Divergence(StepCallback):
    """Ends training with `Diverged` at the first step after which the loss is no finite number: the epoch does not end, so
    nothing else sees the numbers of that model."""

    last: Mapping[str, Any] = {}

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        if not math.isfinite(logs.get("loss", 0.0)):
            last = {name: float(value) for name, value in self.last.items()}
            raise Diverged(self.before + batch + 1, f"the loss is {float(logs['loss'])}", last)
        self.last = logs


class RampAfterConvergence(keras.callbacks.Callback):
    """Starts the ramp when the model without a penalty has converged, and lets it last at least a fifth of the steps that
    took since the warm start (Semeniuta et al. 2017, 3.4).

    Converged means: `patience` epochs in which the held-out reconstruction fell by less than `least` of itself. `say` gets a
    sentence.
    """

    def __init__(self, say: Callable[[str], None], patience: int = 2, least: float = 0.01) -> None:
        super().__init__()
        self.say, self.patience, self.least = say, patience, least
        self.best, self.waited = float("inf"), 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        warm = self.model.objective_config.warm_start_steps
        if number(self.model.ramp_start) != NEVER or number(self.model.training_steps) <= warm:
            return
        found = (logs or {})["val_reconstruction" if "val_reconstruction" in (logs or {}) else "reconstruction"]
        better = found < (1.0 - self.least) * self.best
        self.waited = 0 if better else self.waited + 1
        self.best = min(self.best, found)
        if self.waited >= self.patience:
            step = number(self.model.training_steps) - warm
            steps = max(self.model.objective_config.ramp_steps, step // 5)
            self.model.ramp_start.assign(step)
            self.model.ramp_steps.assign(steps)
            self.say(f"converged without a penalty: the ramp starts at step {step:,} and lasts {steps:,}")

    def conclude(self) -> None:
        """Say at the end of a run if it never came to that."""
        if number(self.model.ramp_start) == NEVER:
            self.say(
                "the ramp never began, the model still improved without a penalty: train longer for a usable prior"
            )

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = found_so_far(state["best"], float("inf")), state["waited"]


class EarlyStop(keras.callbacks.Callback):
    """Stops when `patience` epochs in which the ramp had reached its height have not lowered the held-out bound.

    While the ramp rises the bound is not what is learned, so those epochs do not count. `conclude` gives the model the
    weights of the best epoch, which are kept in the file `best` with `about`: a run that is made longer may still find none
    better.
    """

    def __init__(
        self, patience: int, best: Path, say: Callable[[str], None], about: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.patience, self.file, self.say, self.about = patience, best, say, about or {}
        self.best, self.waited, self.best_step = float("inf"), 0, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if float(keras.ops.convert_to_numpy(self.model.ramp)) < 1.0:
            return
        found = (logs or {})["val_elbo"]
        if found < self.best:
            self.best, self.waited, self.best_step = found, 0, number(self.model.training_steps)
            write_checkpoint(self.file, self.model, self.about)
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.model.stop_training = True

    def conclude(self) -> None:
        """Back to the weights of the best epoch."""
        if self.best_step and self.best_step != number(self.model.training_steps):
            self.say(
                f"the held-out bound was lowest at step {self.best_step:,} ({self.best:.2f} nats): its weights are kept"
            )
            restore_weights(self.model, read_checkpoint(self.file))
        self.waited = 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "best_step": self.best_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = found_so_far(state["best"], float("inf"))
        self.waited, self.best_step = state["waited"], state["best_step"]


class DecoderReset(StepCallback):
    """At the end of the warm start: p(x, z) drawn anew, q(z|x) kept (Li et al. 2019). Adam's moments stay: they are those of
    the old decoder for some steps, but without their bias correction new ones would multiply the rate."""

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.steps = self.model.objective_config.warm_start_steps
        self.ahead = number(self.model.training_steps) < self.steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.ahead and self.reached(self.steps, batch):
            self.model.reset_decoder()
            self.ahead = False


class EncoderAhead(keras.callbacks.Callback):
    """Ends aggressive training, in which the encoder gets more updates, when the mutual information of codes and held-out
    texts, as `LatentReport` before it found it, stops rising (He et al. 2019, algorithm 1)."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say, self.best = say, -float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if not number(self.model.encoder_updates) or "val_mutual_information" not in (logs or {}):
            return  # without different texts held out there is none
        found = (logs or {})["val_mutual_information"]
        if not math.isfinite(found):
            return  # a best that is NaN would never fall
        if found < self.best:
            self.model.encoder_updates.assign(0)
            self.say(
                f"mutual information fell from {self.best:.2f} to {found:.2f} nats: encoder and decoder learn together now"
            )
        self.best = found

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = found_so_far(state["best"], -float("inf"))


class Checkpoints(StepCallback):
    """Writes `folder`/step-N.npz at the end of each epoch and within it, every `steps` steps or else every ten minutes.

    When `stop` is set the step that is under way is the last one: it is written and `KeyboardInterrupt` raised. `about` is
    remembered in every checkpoint, `stateful` the callbacks, by name, whose state belongs to it. `KEPT` of them stay, and the
    newest good one (`learns`), at the start `good`. Must be the last callback. Raises `Diverged` where a variable is not
    finite.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        stateful: Mapping[str, Any] | None = None,
        steps: int | None = None,
        stop: threading.Event | None = None,
        good: Path | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.about, self.stateful, self.steps = folder, about, stateful or {}, steps
        self.stop, self.good = stop or threading.Event(), good
        self.learns = True
        self.written = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch
        self.next_step = self.before + (self.steps or 0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if batch + 1 == self.params["steps"]:
            return  # the epoch ends here and is written then, with its validation
        step = self.before + batch + 1
        due = step >= self.next_step if self.steps else time.monotonic() - self.written > 60 * MINUTES
        if due or self.stop.is_set():
            self.learns = learns(self.model, logs or {})
            self.write(self.epoch, within_epoch=True)
            self.next_step = step + (self.steps or 0)
        if self.stop.is_set():
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.learns = learns(self.model, logs or {})
        self.write(epoch + 1, stopped=bool(self.model.stop_training))
        if self.stop.is_set():
            raise KeyboardInterrupt

    def write(self, epochs: int, **more: Any) -> None:
        """Write the present moment, after `epochs` complete ones, and remove what it makes superfluous."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        step = number(self.model.training_steps)
        states = {name: callback.state() for name, callback in self.stateful.items()}
        about = {**self.about, "step": step, "epoch": epochs, "callbacks": states, "good": self.learns, **more}
        path = self.folder / f"step-{step:09d}.npz"
        write_checkpoint(path, self.model, about)
        self.good = path if self.learns else self.good
        for old in superfluous(numbered(self.folder), path, self.good):
            old.unlink()
        (self.folder.parent / DIVERGED).unlink(missing_ok=True)
        self.written = time.monotonic()


def superfluous(found: Sequence[Path], newest: Path, good: Path | None) -> list[Path]:
    """Of the checkpoints of a folder those of steps behind `newest`, which an attempt left that was given up, and all before
    but the last `KEPT` and the last good one."""
    before = [path for path in found if step_of(path) <= step_of(newest)]
    return [path for path in found if path not in before[-KEPT:] and path != good]


def learns(model: TextVAE, logs: Mapping[str, Any]) -> bool:
    """Whether an epoch's numbers are those of a model that can be trained on: its bounds are finite, and it reconstructs not
    much worse than by guessing (`LOST`)."""
    shape = model.model_config
    guessing = shape.length * math.log(shape.vocabulary_size)
    bounds = [float(logs[name]) for name in ("loss", "elbo", "val_loss", "val_elbo") if name in logs]
    return all(map(math.isfinite, bounds)) and float(logs.get("reconstruction", 0.0)) <= LOST * guessing


class RunningMetrics(keras.callbacks.Callback):
    """Goes on with the running means of an epoch that was interrupted, which Keras resets when it begins."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.checkpoint.about.get("within_epoch") and epoch == self.checkpoint.epoch:
            for place, variable in enumerate(self.model.metrics_variables):
                variable.assign(self.checkpoint.arrays[f"metric/{place}"])


def found_so_far(value: float | None, nothing: float) -> float:
    """A number of a state; JSON has no infinity, so None stands for the one that says that `nothing` was found yet."""
    return nothing if value is None else value


def shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of `SHOWN` that are there, in that order."""
    return {name: logs[name] for name in SHOWN if logs and name in logs}
