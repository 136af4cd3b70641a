"""Callbacks of a training run: the progress bar, the metrics file, and TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.decoding import decode, sample
from kvae.serving.alphabet import Alphabet

from .evaluation import active_units, collect, mutual_information, spread

SHOWN = ("loss", "elbo", "kl", "val_elbo", "val_kl")
"""Metrics with a place in the progress bar; TensorBoard and the metrics file have them all."""


MOST_ROWS = 2000
"""Held-out rows that TensorBoard's view of the code is computed on after each epoch."""


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


class TensorBoardMonitor(keras.callbacks.Callback):
    """After each epoch: every metric of training and validation on the same axes, over training steps, and on held-out
    rows (N, T) the KL of each dimension as a histogram, active units, mutual information, samples and reconstructions.
    The metrics of training also come every `every` steps, as means since the epoch began.
    """

    def __init__(self, folder: Path, alphabet: Alphabet, rows: np.ndarray, texts: int = 8, every: int = 50) -> None:
        super().__init__()
        self.folder, self.alphabet, self.every = folder, alphabet, every
        self.rows, self.texts = spread(rows, MOST_ROWS), texts

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
        found = collect(self.model, self.rows)
        tf.summary.histogram("kl_per_dimension", found["kl_per_dimension"].mean(axis=0))
        tf.summary.scalar("active_units", active_units(found["mean"]))
        tf.summary.scalar("mutual_information", mutual_information(found["mean"], found["log_variance"], found["z"]))

    def write_texts(self) -> None:
        """Greedy samples, always from the same codes, and greedy reconstructions beside their originals."""
        rows = spread(self.rows, self.texts).astype(np.int32)
        samples = self.alphabet.decode(np.array(sample(self.model, self.texts, seed=0)))
        again = self.alphabet.decode(np.array(decode(self.model, self.model.encoder(rows, training=False)["mean"])))
        pairs = [f"{text}\n-> {other}" for text, other in zip(self.alphabet.decode(rows), again, strict=True)]
        tf.summary.text("samples", fenced("\n".join(samples)))
        tf.summary.text("reconstructions", fenced("\n\n".join(pairs)))


def shown(logs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metrics of `SHOWN` that are there, in that order."""
    return {name: logs[name] for name in SHOWN if logs and name in logs}


def fenced(text: str) -> str:
    """Text as TensorBoard's Markdown shows it, unchanged."""
    return "\n".join("    " + line for line in text.split("\n"))
