"""Callbacks of a training run.

One reports it (metrics file), the others steer it (ramp, early stopping, decoder reset,
checkpoints).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from kvae.model import NEVER, TextVAE, as_int
from kvae.runs import DIVERGED, checkpoint_step, list_checkpoints, to_json
from kvae.writing import write_text

from .checkpoints import (
    CHECKPOINTS_KEPT,
    Checkpoint,
    Diverged,
    read_checkpoint,
    restore_weights,
    write_checkpoint,
)
from .step_callbacks import StepCallback

CHECKPOINT_MINUTES = 10.0
"""Minutes between two checkpoints within an epoch, if `training.checkpoint_steps` is not set."""

MAX_RECONSTRUCTION_RATIO = 2.0
"""Largest reconstruction loss of a good model, as a multiple of that of guessing uniformly.

Guessing costs T ln V nats. An untrained model is at 1, one that is about to diverge above 2.
"""


class MetricsFile(keras.callbacks.Callback):
    """Writes a JSON object per epoch, one a line: step, seconds of training and all metrics."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.lines, self.started = path, 0, time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.lines += 1
        self.write(
            as_int(self.model.training_steps),
            {name: float(value) for name, value in (logs or {}).items()},
        )

    def diverged(self, error: Diverged) -> None:
        """Write the line of an attempt that diverged: the cause and the last finite metrics."""
        self.write(error.step, {"diverged": error.what, **error.last})

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        seconds = round(self.seconds, 2)
        record = {"epoch": self.epoch + 1, "step": step, "seconds": seconds, **metrics}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    @property
    def seconds(self) -> float:
        """Seconds of training since the start of the run, without interruptions."""
        return time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        return {"lines": self.lines, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue after the lines of the checkpoint and remove any that were written later."""
        self.lines, self.started = state["lines"], time.monotonic() - state["seconds"]
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="replace")
            lines = text.splitlines()[: self.lines]
            write_text(self.path, "".join(line + "\n" for line in lines), exclusive=True)


class RampAfterConvergence(keras.callbacks.Callback):
    """Starts the KL ramp once the model has converged without a penalty.

    This is section 3.4 of Semeniuta et al. 2017. The ramp then lasts at least a fifth of the steps
    that convergence took after the warm start. The model has converged when the held-out
    reconstruction fell by less than the fraction `min_improvement` in each of `patience` epochs in
    a row. `say` gets a sentence.
    """

    def __init__(
        self, say: Callable[[str], None], patience: int = 2, min_improvement: float = 0.01
    ) -> None:
        super().__init__()
        self.say, self.patience, self.min_improvement = say, patience, min_improvement
        self.best, self.waited = float("inf"), 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        warm_start = self.model.objective_config.warm_start_steps
        if (
            as_int(self.model.ramp_start) != NEVER
            or as_int(self.model.training_steps) <= warm_start
        ):
            return
        logs = logs or {}
        held_out = "val_reconstruction" in logs
        reconstruction = logs["val_reconstruction" if held_out else "reconstruction"]
        improved = reconstruction < (1.0 - self.min_improvement) * self.best
        self.waited = 0 if improved else self.waited + 1
        self.best = min(self.best, reconstruction)
        if self.waited >= self.patience:
            step = as_int(self.model.training_steps) - warm_start
            steps = max(self.model.objective_config.ramp_steps, step // 5)
            self.model.ramp_start.assign(step)
            self.model.ramp_steps.assign(steps)
            self.say(
                f"converged without a penalty: the ramp starts at step {step:,} "
                f"and lasts {steps:,} steps"
            )

    def conclude(self) -> None:
        """Say at the end of a run that the ramp never started, if that is so."""
        if as_int(self.model.ramp_start) == NEVER:
            self.say(
                "the ramp never started, because the model was still improving without a penalty: "
                "train longer for a usable prior"
            )

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = best_from_state(state["best"], float("inf")), state["waited"]


class EarlyStop(keras.callbacks.Callback):
    """Stops training after `patience` epochs in which the held-out bound did not fall.

    The bound is the importance-weighted one if training minimises that. Only epochs after the end
    of the ramp count: before that, the bound is not what training minimises. `file` keeps the
    weights of the best epoch, with `about` as its description. `conclude` restores them. The file
    stays after the run, because a run that is made longer may not improve on it.
    """

    def __init__(
        self,
        patience: int,
        file: Path,
        say: Callable[[str], None],
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.patience, self.file, self.say, self.about = patience, file, say, about or {}
        self.best, self.waited, self.best_step = float("inf"), 0, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if float(keras.ops.convert_to_numpy(self.model.ramp)) < 1.0:
            return
        logs = logs or {}
        minimised = "val_importance_weighted_nll"
        bound = logs[minimised if minimised in logs else "val_elbo"]
        if bound < self.best:
            self.best, self.waited, self.best_step = bound, 0, as_int(self.model.training_steps)
            write_checkpoint(self.file, self.model, self.about)
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.model.stop_training = True

    def conclude(self) -> None:
        """Give the model the weights of the best epoch."""
        if self.best_step and self.best_step != as_int(self.model.training_steps):
            self.say(
                f"the held-out bound was lowest at step {self.best_step:,} ({self.best:.2f} nats): "
                f"its weights are kept"
            )
            restore_weights(self.model, read_checkpoint(self.file))
        self.waited = 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "best_step": self.best_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = best_from_state(state["best"], float("inf"))
        self.waited, self.best_step = state["waited"], state["best_step"]


class DecoderReset(StepCallback):
    """Draws new weights of p(x, z) at the end of the warm start (Li et al. 2019).

    The weights of q(z|x) are kept. Adam's moments are kept as well. For some steps they belong to
    the old decoder. Moments reset to zero would be worse: Adam's bias correction follows the step
    count of the run, so the steps would be too large.
    """

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.warm_start = self.model.objective_config.warm_start_steps
        self.pending = as_int(self.model.training_steps) < self.warm_start

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.pending and self.has_reached(self.warm_start, batch):
            self.model.reset_decoder()
            self.pending = False


class EncoderAhead(keras.callbacks.Callback):
    """Ends aggressive training (He et al. 2019, algorithm 1).

    Aggressive training gives the encoder more updates than the decoder. It ends when the mutual
    information of latent codes and held-out texts stops rising. `LatentReport` measures it and must
    come earlier in the list of callbacks.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say, self.best = say, -float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if not as_int(self.model.encoder_updates) or "val_mutual_information" not in (logs or {}):
            return  # not measured: the held-out texts are all equal
        information = (logs or {})["val_mutual_information"]
        if not math.isfinite(information):
            return  # every comparison with a best of NaN would be false
        if information < self.best:
            self.model.encoder_updates.assign(0)
            self.say(
                f"mutual information fell from {self.best:.2f} to {information:.2f} nats: "
                f"encoder and decoder learn together now"
            )
        self.best = information

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = best_from_state(state["best"], -float("inf"))


class Checkpoints(StepCallback):
    """Writes `folder`/step-N.npz at the end of each epoch and within it.

    Within an epoch it writes every `steps` steps, or every ten minutes if `steps` is None. Once
    `stop` is set, the current step is the last one: it is written and `KeyboardInterrupt` is
    raised. Every checkpoint contains `about` and the states of the callbacks in `stateful`, by
    name. The newest `CHECKPOINTS_KEPT` files stay, and the newest good one (`is_good`); `good` is
    that file at the start of training. Before a checkpoint within an epoch it calls `check`. It
    must be the last callback. Raises `Diverged` if a variable is not finite.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        stateful: Mapping[str, Any] | None = None,
        steps: int | None = None,
        stop: threading.Event | None = None,
        good: Path | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.folder, self.about, self.stateful, self.steps = folder, about, stateful or {}, steps
        self.stop, self.good, self.check = stop or threading.Event(), good, check
        self.model_is_good = True
        self.last_write = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.epoch = epoch
        self.next_step = self.steps_before_epoch + (self.steps or 0)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if batch + 1 == self.params["steps"]:
            return  # the last batch: `on_epoch_end` writes the checkpoint, after the validation
        step = self.steps_before_epoch + batch + 1
        seconds = time.monotonic() - self.last_write
        due = step >= self.next_step if self.steps else seconds > 60 * CHECKPOINT_MINUTES
        if due or self.stop.is_set():
            self.check()
            self.model_is_good = is_good(self.model, logs or {})
            self.write(self.epoch, within_epoch=True)
            self.next_step = step + (self.steps or 0)
        if self.stop.is_set():
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.model_is_good = is_good(self.model, logs or {})
        self.write(epoch + 1, stopped=bool(self.model.stop_training))
        if self.stop.is_set():
            raise KeyboardInterrupt

    def write(self, epochs: int, **more: Any) -> None:
        """Write a checkpoint after `epochs` complete epochs and remove unneeded older ones.

        `more` are further entries of its description.
        """
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        step = as_int(self.model.training_steps)
        states = {name: callback.state() for name, callback in self.stateful.items()}
        about = {
            **self.about,
            "step": step,
            "epoch": epochs,
            "callbacks": states,
            "good": self.model_is_good,
            **more,
        }
        path = self.folder / f"step-{step:09d}.npz"
        write_checkpoint(path, self.model, about)
        self.good = path if self.model_is_good else self.good
        for unneeded in unneeded_checkpoints(list_checkpoints(self.folder), path, self.good):
            unneeded.unlink()
        (self.folder.parent / DIVERGED).unlink(missing_ok=True)
        self.last_write = time.monotonic()


def unneeded_checkpoints(
    checkpoints: Sequence[Path], newest: Path, good: Path | None
) -> list[Path]:
    """The checkpoints of a folder that are no longer needed.

    These are the checkpoints after `newest`, which an abandoned attempt left, and all earlier ones
    except the last `CHECKPOINTS_KEPT` and the last good one.
    """
    valid = [path for path in checkpoints if checkpoint_step(path) <= checkpoint_step(newest)]
    kept = {*valid[-CHECKPOINTS_KEPT:], good}
    return [path for path in checkpoints if path not in kept]


def is_good(model: TextVAE, logs: Mapping[str, Any]) -> bool:
    """Whether training can continue from a model with the metrics `logs`.

    Its bounds are finite, and its reconstruction loss is at most `MAX_RECONSTRUCTION_RATIO` times
    that of guessing uniformly.
    """
    config = model.model_config
    guessing = config.length * math.log(config.vocabulary_size)
    bounds = [
        float(logs[name]) for name in ("loss", "elbo", "val_loss", "val_elbo") if name in logs
    ]
    reconstruction = float(logs.get("reconstruction", 0.0))
    return all(map(math.isfinite, bounds)) and reconstruction <= MAX_RECONSTRUCTION_RATIO * guessing


class RunningMetrics(keras.callbacks.Callback):
    """Restores the running means of an interrupted epoch after Keras has reset them."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.checkpoint.about.get("within_epoch") and epoch == self.checkpoint.epoch:
            for place, variable in enumerate(self.model.metrics_variables):
                variable.assign(self.checkpoint.arrays[f"metric/{place}"])


def best_from_state(value: float | None, default: float) -> float:
    """The best value in a callback's state, or `default` for None.

    JSON has no infinity, so None stands for an infinite best, before the first measurement.
    """
    return default if value is None else value
