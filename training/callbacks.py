"""Callbacks of a training run: those that show it (progress bar, metrics file), and those that steer it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kvae.model import NEVER

SHOWN = ("loss", "elbo", "kl", "val_elbo", "val_kl", "val_active_units", "val_mutual_information")
"""Metrics with a place in the progress bar; TensorBoard and the metrics file have them all."""


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with the few metrics that fit on a line."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, shown(logs))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, shown(logs))


class MetricsFile(keras.callbacks.Callback):
    """One JSON object a line for every epoch: step, seconds since the start, and every metric."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        record = {
            "epoch": epoch + 1,
            "step": int(self.model.training_steps),
            "seconds": round(time.monotonic() - self.started, 2),
        }
        record |= {name: float(value) for name, value in (logs or {}).items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


class StopAtStep(keras.callbacks.Callback):
    """End training after a number of steps, within an epoch if need be."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if int(self.model.training_steps) >= self.steps:
            self.model.stop_training = True


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

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        if int(self.model.ramp_start) == NEVER:
            self.say(
                "the ramp never began, the model still improved without a penalty: train longer for a usable prior"
            )


class DecoderReset(keras.callbacks.Callback):
    """At the end of the warm start: p(x, z) drawn anew, q(z|x) kept (Li et al. 2019). Adam's moments stay: they are those of
    the old decoder for some steps, but without their bias correction new ones would multiply the rate."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if int(self.model.training_steps) == self.model.objective_config.warm_start_steps:
            self.model.reset_decoder()


class EncoderAhead(keras.callbacks.Callback):
    """Ends aggressive training, in which the encoder gets more updates, when the mutual information of codes and held-out
    texts, as `LatentReport` before it found it, stops rising (He et al. 2019, algorithm 1)."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self.say, self.best = say, -float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        if not int(self.model.encoder_updates):
            return
        found = (logs or {})["val_mutual_information"]
        if found < self.best:
            self.model.encoder_updates.assign(0)
            self.say(
                f"mutual information fell from {self.best:.2f} to {found:.2f} nats: encoder and decoder learn together now"
            )
        self.best = found


def shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of `SHOWN` that are there, in that order."""
    return {name: logs[name] for name in SHOWN if logs and name in logs}
