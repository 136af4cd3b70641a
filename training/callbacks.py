"""Callbacks of a training run: those that show it (progress bar, metrics file, TensorBoard), and those that steer it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.decoding import decode, sample
from kvae.model import NEVER
from kvae.serving.alphabet import Alphabet

from .checkpoints import KEPT, Checkpoint, numbered, read_checkpoint, restore_weights, write_checkpoint
from .evaluation import active_units, collect, information, spread

SHOWN = ("loss", "elbo", "kl", "val_elbo", "val_kl")
"""Metrics with a place in the progress bar; TensorBoard and the metrics file have them all."""


MINUTES = 10.0
"""Between two checkpoints of an epoch, where no number of steps is set."""

MOST_ROWS = 2000
"""Held-out rows that TensorBoard's view of the code is computed on after each epoch."""


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
        self.path, self.epochs, self.started = path, 0, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.epochs = epoch + 1
        record = {"epoch": self.epochs, "step": int(self.model.training_steps), "seconds": round(self.seconds, 2)}
        record |= {name: float(value) for name, value in (logs or {}).items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    @property
    def seconds(self) -> float:
        """Since the start, interruptions left out."""
        return time.monotonic() - self.started

    def state(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "seconds": self.seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on behind the lines of complete epochs; what was written after the checkpoint is dropped."""
        self.epochs, self.started = state["epochs"], time.monotonic() - state["seconds"]
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()[: self.epochs]
            partial = self.path.with_name(self.path.name + ".partial")
            partial.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
            partial.replace(self.path)


class StepCallback(keras.callbacks.Callback):
    """Knows how far training may be without asking the model at each batch, which on JAX would stop the device to read it."""

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.before = int(self.model.training_steps)

    def reached(self, step: int, batch: int) -> bool:
        """Whether training is at `step` or past it after `batch` of the epoch; with several steps per execution the last
        call of an epoch may have counted batches that the data did not have."""
        return self.before + batch + 1 >= step and int(self.model.training_steps) >= step


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
        if int(self.model.ramp_start) != NEVER or int(self.model.training_steps) <= warm:
            return
        found = (logs or {})["val_reconstruction" if "val_reconstruction" in (logs or {}) else "reconstruction"]
        better = found < (1.0 - self.least) * self.best
        self.waited = 0 if better else self.waited + 1
        self.best = min(self.best, found)
        if self.waited >= self.patience:
            step = int(self.model.training_steps) - warm
            steps = max(self.model.objective_config.ramp_steps, step // 5)
            self.model.ramp_start.assign(step)
            self.model.ramp_steps.assign(steps)
            self.say(f"converged without a penalty: the ramp starts at step {step:,} and lasts {steps:,}")

    def conclude(self) -> None:
        """Say at the end of a run if it never came to that."""
        if int(self.model.ramp_start) == NEVER:
            self.say(
                "the ramp never began, the model still improved without a penalty: train longer for a usable prior"
            )

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited = state["best"], state["waited"]


class EarlyStop(keras.callbacks.Callback):
    """Stops when `patience` epochs in which the ramp had reached its height have not lowered the held-out bound.

    While the ramp rises the bound is not what is learned, so those epochs do not count. `conclude` gives the model the
    weights of the best epoch, which are kept in the file `best` until then.
    """

    def __init__(self, patience: int, best: Path, say: Callable[[str], None]) -> None:
        super().__init__()
        self.patience, self.file, self.say = patience, best, say
        self.best, self.waited, self.best_step = float("inf"), 0, 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if float(keras.ops.convert_to_numpy(self.model.ramp)) < 1.0:
            return
        found = (logs or {})["val_elbo"]
        if found < self.best:
            self.best, self.waited, self.best_step = found, 0, int(self.model.training_steps)
            write_checkpoint(self.file, self.model, {})
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self.model.stop_training = True

    def conclude(self) -> None:
        """Back to the weights of the best epoch."""
        if self.best_step and self.best_step != int(self.model.training_steps):
            self.say(
                f"the held-out bound was lowest at step {self.best_step:,} ({self.best:.2f} nats): its weights are kept"
            )
            restore_weights(self.model, read_checkpoint(self.file))
        self.file.unlink(missing_ok=True)

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "best_step": self.best_step}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best, self.waited, self.best_step = state["best"], state["waited"], state["best_step"]


class DecoderReset(StepCallback):
    """At the end of the warm start: p(x, z) drawn anew, q(z|x) kept (Li et al. 2019). Adam's moments stay: they are those of
    the old decoder for some steps, but without their bias correction new ones would multiply the rate."""

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.steps = self.model.objective_config.warm_start_steps
        self.ahead = int(self.model.training_steps) < self.steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.ahead and self.reached(self.steps, batch):
            self.model.reset_decoder()
            self.ahead = False


class EncoderAhead(keras.callbacks.Callback):
    """Ends aggressive training, in which the encoder gets more updates, when the mutual information of codes and held-out
    texts stops rising (He et al. 2019, algorithm 1)."""

    def __init__(self, rows: np.ndarray, say: Callable[[str], None], attribute: np.ndarray | None = None) -> None:
        super().__init__()
        self.rows, self.say, self.best = spread(rows, MOST_ROWS), say, -float("inf")
        self.attribute = None if attribute is None else spread(attribute, MOST_ROWS)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if not int(self.model.encoder_updates):
            return
        found = information(self.model, collect(self.model, self.rows, attribute=self.attribute))
        if found < self.best:
            self.model.encoder_updates.assign(0)
            self.say(
                f"mutual information fell from {self.best:.2f} to {found:.2f} nats: encoder and decoder learn together now"
            )
        self.best = found

    def state(self) -> dict[str, Any]:
        return {"best": self.best}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]


class Checkpoints(StepCallback):
    """Writes `folder`/step-N.npz at the end of each epoch and within it, every `steps` steps or else every ten minutes.

    When `stop` is set the step that is under way is the last one: it is written and `KeyboardInterrupt` raised. `about` is
    remembered in every checkpoint, `stateful` are the callbacks whose state belongs to it. Must be the last callback.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        stateful: Sequence[Any] = (),
        steps: int | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self.folder, self.about, self.stateful, self.steps = folder, about, stateful, steps
        self.stop = stop or threading.Event()
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
            self.write(self.epoch, within_epoch=True)
            self.next_step = step + (self.steps or 0)
        if self.stop.is_set():
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.write(epoch + 1)
        if self.stop.is_set():
            raise KeyboardInterrupt

    def write(self, epochs: int, **more: Any) -> None:
        """Write the present moment, after `epochs` complete ones; weights that are no numbers are not kept."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        if not all(np.isfinite(keras.ops.convert_to_numpy(weight)).all() for weight in self.model.trainable_variables):
            return
        step = int(self.model.training_steps)
        states = {type(callback).__name__: callback.state() for callback in self.stateful}
        about = {**self.about, "step": step, "epoch": epochs, "callbacks": states, **more}
        write_checkpoint(self.folder / f"step-{step:09d}.npz", self.model, about)
        for old in numbered(self.folder)[:-KEPT]:
            old.unlink()
        self.written = time.monotonic()


class RunningMetrics(keras.callbacks.Callback):
    """Goes on with the running means of an epoch that was interrupted, which Keras resets when it begins."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self.checkpoint.about.get("within_epoch") and epoch == self.checkpoint.epoch:
            for place, variable in enumerate(self.model.metrics_variables):
                variable.assign(self.checkpoint.arrays[f"metric/{place}"])


class TensorBoardMonitor(keras.callbacks.Callback):
    """After each epoch: every metric of training and validation on the same axes, over training steps, and on held-out
    rows (N, T) the KL of each dimension as a histogram, active units, mutual information, samples and reconstructions.
    The metrics of training also come every `every` steps, as means since the epoch began.
    """

    def __init__(
        self,
        folder: Path,
        alphabet: Alphabet,
        rows: np.ndarray,
        attribute: np.ndarray | None = None,
        texts: int = 8,
        every: int = 50,
    ) -> None:
        super().__init__()
        self.folder, self.alphabet, self.every = folder, alphabet, every
        self.rows, self.texts = spread(rows, MOST_ROWS), texts
        self.attribute = None if attribute is None else spread(attribute, MOST_ROWS)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.writers = {
            part: tf.summary.create_file_writer(str(self.folder / part)) for part in ("train", "validation")
        }
        with self.writers["train"].as_default(step=0):
            configuration = {
                "model": self.model.model_config.to_dict(),
                "objective": self.model.objective_config.to_dict(),
            }
            tf.summary.text("configuration", fenced(json.dumps(configuration, indent=1)))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step = int(self.model.training_steps)
        if step % self.every == 0:
            self.write_training(step, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        step = int(self.model.training_steps)
        if step % self.every:  # else it stands there since the last batch
            self.write_training(step, {name: value for name, value in logs.items() if not name.startswith("val_")})
        with self.writers["validation"].as_default(step=step):
            for name, value in logs.items():
                if name.startswith("val_"):
                    tf.summary.scalar(name.removeprefix("val_"), value)
            self.write_latents()
            self.write_texts()
        for writer in self.writers.values():
            writer.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for writer in self.writers.values():
            writer.close()

    def write_training(self, step: int, logs: Mapping[str, Any]) -> None:
        """The metrics of training, and the learning rate."""
        with self.writers["train"].as_default(step=step):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
            tf.summary.scalar("learning_rate", self.model.optimizer.learning_rate)

    def write_latents(self) -> None:
        """What the code carries, on the held-out rows."""
        if not self.model.hierarchy.shapes:
            return
        found = collect(self.model, self.rows, attribute=self.attribute)
        if "kl_per_dimension" in found:
            for number, part in enumerate(self.model.hierarchy.split(found["kl_per_dimension"])):
                name = (
                    "kl_per_dimension" if len(self.model.hierarchy.shapes) == 1 else f"kl_per_dimension_level_{number}"
                )
                tf.summary.histogram(name, part.mean(axis=0))
        tf.summary.scalar("active_units", active_units(found["shift"]))
        tf.summary.scalar("mutual_information", information(self.model, found))

    def write_texts(self) -> None:
        """Greedy samples, always from the same codes, and greedy reconstructions beside their originals."""
        rows = spread(self.rows, self.texts).astype(np.int32)
        samples = self.alphabet.decode(np.array(sample(self.model, self.texts, seed=0)))
        again = self.alphabet.decode(np.array(decode(self.model, self.model.encode(rows)["mean"])))
        pairs = [f"{text}\n-> {other}" for text, other in zip(self.alphabet.decode(rows), again, strict=True)]
        tf.summary.text("samples", fenced("\n".join(samples)))
        tf.summary.text("reconstructions", fenced("\n\n".join(pairs)))


def shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of `SHOWN` that are there, in that order."""
    return {name: logs[name] for name in SHOWN if logs and name in logs}


def fenced(text: str) -> str:
    """Text as TensorBoard's Markdown shows it, unchanged."""
    return "\n".join("    " + line for line in text.split("\n"))
