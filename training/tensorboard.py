"""TensorBoard's view of a run: what is learned, what the code carries, what the model writes, and under which settings."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hyperparameters

from kvae.configuration import Config, dotted_value
from kvae.decoding import Chooser, decode
from kvae.misfits import dependent_settings
from kvae.model import TextVAE, number
from kvae.objectives import begun, beta_at
from kvae.serving.alphabet import Alphabet, one_line

from .callbacks import StepCallback
from .checkpoints import Diverged
from .evaluation import UNITS, spread
from .latent_report import LatentReport

HYPERPARAMETERS = (
    "data.source",
    *(f"model.{name}" for name in ("encoder", "encoder_units", "latent", "latent_size", "posterior", "prior")),
    *(f"model.{name}" for name in ("expander", "head", "head_units", "head_reads", "auxiliary")),
    *(f"objective.{name}" for name in ("penalty", "schedule", "beta_max", "ramp_start", "ramp_steps", "kl_target")),
    *(f"objective.{name}" for name in ("free_bits", "free_bits_over", "alpha", "mmd", "input_dropout")),
    *(f"objective.{name}" for name in ("warm_start_steps", "encoder_updates", "semi_supervised")),
    *(f"training.{name}" for name in ("batch_size", "learning_rate", "learning_rate_schedule", "weight_decay", "seed")),
)
"""Settings that TensorBoard compares runs by; the configuration as text has them all."""

COMPARED = ("elbo", "reconstruction", "kl", "bits_per_character", "active_units", "mutual_information")
"""Held-out metrics beside them, each as it was after the last epoch."""

SETTINGS = "settings"
"""The run of a log folder that holds both, and nothing else: TensorBoard takes every metric beside settings for a column."""

MOST_NUMBERS = 200_000
"""Numbers that a level's embedding holds at most; codes with many dimensions show fewer texts."""


class TensorBoardMonitor(StepCallback):
    """Every metric of training and validation on the same axes, over training steps. The metrics of training come every
    `every` steps, as means since the epoch began, with beta, learning rate and examples per second; after each epoch follow
    those of validation, what `report` found about the code, samples, reconstructions and an interpolation of `texts` texts
    each, and the means of held-out texts for the projector.

    `folder` gets the runs `train`, `validation` and `settings`; configuration and hyper-parameters are written once, when the
    folder is new, and a resumed run goes on behind what is there. `batch_size` texts make a step.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        alphabet: Alphabet,
        report: LatentReport,
        batch_size: int,
        texts: int = 8,
        every: int = 50,
    ) -> None:
        super().__init__()
        self.folder, self.config, self.alphabet, self.report = folder, config, alphabet, report
        self.batch_size, self.texts, self.every = batch_size, texts, every

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        new = not any(self.folder.glob("**/events.*"))
        self.writers = {
            part: tf.summary.create_file_writer(str(self.folder / part)) for part in ("train", "validation", SETTINGS)
        }
        self.written, self.trained = number(self.model.training_steps), 0.0
        self.mark: tuple[int, float] | None = None
        self.author = Author(self.model, self.texts)
        if new:
            with self.writers[SETTINGS].as_default():
                hyperparameters.hparams(compared(self.config), trial_id=trial(self.folder.absolute()))
            with self.writers["train"].as_default(step=self.written):
                tf.summary.text("configuration", fenced(json.dumps(self.config.to_dict(), indent=1)))
        self.flush()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.mark = None  # what happens between epochs is no training

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step, self.trained = self.before + batch + 1, time.monotonic()
        if self.mark is None:  # the first steps of an epoch may compile
            self.mark = (step, self.trained)
        if step // self.every > self.written // self.every:
            self.write_training(step, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        step = number(self.model.training_steps)
        if step > self.written:
            self.write_training(step, {name: value for name, value in logs.items() if not name.startswith("val_")})
        with self.writers["validation"].as_default(step=step):
            for name, value in logs.items():
                if name.startswith("val_"):
                    self.write_scalar(name.removeprefix("val_"), value)
            self.write_dimensions()
            self.write_texts()
        with self.writers[SETTINGS].as_default(step=step):
            for name in COMPARED:
                if np.isfinite(logs.get(f"val_{name}", np.nan)):
                    tf.summary.scalar(f"final/val_{name}", float(logs[f"val_{name}"]))
        self.write_embeddings()
        self.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for writer in self.writers.values():
            writer.close()

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()

    def note(self, text: str, step: int | None = None) -> None:
        """A remark about the run, at the present step if no other is given."""
        step = number(self.model.training_steps) if step is None else step
        with self.writers["validation"].as_default(step=step):
            tf.summary.text("notes", fenced(text))

    def diverged(self, error: Diverged) -> None:
        """A remark instead of the points of that step; what was written before is kept."""
        self.note(str(error), error.step)
        self.flush()

    def write_scalar(self, name: str, value: Any) -> None:
        """A number with what it counts. One that is not finite is no point of a curve: it would stay there when training has
        gone on from before."""
        if not np.isfinite(value):
            return
        description = UNITS.get(name)
        if name == "mutual_information":
            texts = len(self.report.rows)
            description = f"{description}, on N = {texts:,} held-out texts: at most ln N = {np.log(texts):.2f}"
        tf.summary.scalar(name, float(value), description=description)

    def write_training(self, step: int, logs: Mapping[str, Any]) -> None:
        """The metrics of training, beta and learning rate at this step, and the speed since it was last written."""
        objective = self.config.objective
        beta = begun(objective, step) * beta_at(objective, self.model.ramp)
        with self.writers["train"].as_default(step=step):
            for name, value in {**logs, "beta": ops.convert_to_numpy(beta)}.items():
                self.write_scalar(name, value)
            self.write_scalar("learning_rate", ops.convert_to_numpy(self.model.optimizer.learning_rate))
            steps, seconds = (step - self.mark[0], self.trained - self.mark[1]) if self.mark else (0, 0.0)
            if seconds > 0:
                self.write_scalar("examples_per_second", steps * self.batch_size / seconds)
        self.written, self.mark = step, (step, self.trained)

    def write_dimensions(self) -> None:
        """The KL of each dimension, where there is one, level by level."""
        if "kl_per_dimension" in self.report.found:
            for name, part in self.levels("kl_per_dimension", "kl_per_dimension"):
                mean = part.mean(axis=0)
                tf.summary.histogram(name, mean[np.isfinite(mean)])

    def write_texts(self) -> None:
        """What the model writes, beside what it read."""
        values = self.config.model.attributes
        rows = spread_evenly(self.report.rows, self.texts).astype(np.int32)
        labels = self.report.attribute
        labels = np.full(len(rows), -1) if labels is None else spread_evenly(labels, self.texts)
        written = {name: self.lines(tokens) for name, tokens in self.author.write(rows, labels).items()}
        if values:
            written["samples"] = [f"{label_of(values, i)}: {text}" for i, text in enumerate(written["samples"])]
        if "reconstructions" in written:
            pairs = zip(self.lines(rows), written["reconstructions"], strict=True)
            written["reconstructions"] = list(dict.fromkeys(f"{text}\n-> {other}\n" for text, other in pairs))
        for name, texts in written.items():
            tf.summary.text(name, fenced("\n".join(texts).rstrip("\n")))

    def write_embeddings(self) -> None:
        """The posterior means of held-out texts as files that the projector reads, one table for each level."""
        if "mean" not in self.report.found:
            return
        folder, shown = self.folder / "validation", projector.ProjectorConfig()
        for name, means in self.levels("latent_means", "mean"):
            if not np.isfinite(means).all():
                continue
            count = max(1, MOST_NUMBERS // means.shape[1])
            metadata, tensors = folder / f"{name}_texts.tsv", folder / f"{name}.tsv"
            if not metadata.exists():
                write_whole(metadata, self.metadata(count))
            write_whole(
                tensors, ["\t".join(f"{number:.5g}" for number in row) for row in spread(means, count).tolist()]
            )
            shown.embeddings.add(tensor_name=name, tensor_path=tensors.name, metadata_path=metadata.name)
        if not (folder / "projector_config.pbtxt").exists():
            projector.visualize_embeddings(str(folder), shown)

    def metadata(self, count: int) -> list[str]:
        """A line for each of `count` texts at most, behind a line of headings: text, characters, label."""
        texts = self.alphabet.decode(spread(self.report.rows, count))
        columns = {"text": [one_line(text) for text in texts], "characters": [str(len(text)) for text in texts]}
        if self.report.attribute is not None:
            values = self.config.model.attributes
            columns["label"] = [one_line(label_of(values, i)) for i in spread(self.report.attribute, count)]
        return ["\t".join(columns), *("\t".join(line) for line in zip(*columns.values(), strict=True))]

    def levels(self, name: str, found: str) -> list[tuple[str, np.ndarray]]:
        """An array (N, d) of the report, cut into the levels of the code, with a name for each."""
        parts = self.model.hierarchy.split(self.report.found[found])
        names = [name] if len(parts) == 1 else [f"{name}_level_{number}" for number in range(len(parts))]
        return list(zip(names, parts, strict=True))

    def lines(self, tokens: np.ndarray) -> list[str]:
        """Tokens (B, T) as texts of one line each."""
        return [one_line(text) for text in self.alphabet.decode(tokens)]


class Author(keras.Model):
    """What a TextVAE writes for TensorBoard, `texts` of everything, compiled as one function.

    A model with a code writes greedily, always from the same codes of the prior, and each label in turn; a language model,
    which would greedily say one thing, draws from its distribution with the same random numbers each time.
    """

    def __init__(self, model: TextVAE, texts: int) -> None:
        super().__init__()
        generator = np.random.default_rng(0)
        self.text_model, self.texts = model, texts
        self.noise = generator.standard_normal((texts, model.parts.noise_size), dtype=np.float32)
        self.uniform = generator.random((texts, model.model_config.length), dtype=np.float32)
        self.built = True
        # TensorFlow's graph of a whole decoding loop is ready in a second, XLA's takes many; JAX has nothing but XLA.
        self.compile(jit_compile=keras.backend.backend() == "jax")

    def write(self, tokens: np.ndarray, attribute: np.ndarray) -> dict[str, np.ndarray]:
        """Samples, and of tokens (texts, T) with attributes (texts,) the reconstructions and the way from the first to the
        last, in equal paces: (texts, T) each."""
        inputs = {"tokens": tokens, "attribute": attribute, "noise": self.noise, "uniform": self.uniform}
        # TensorFlow's replicas all write all of it, one after the other.
        return {name: rows[: self.texts] for name, rows in self.predict_on_batch(inputs).items()}

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        model, size = self.text_model, self.text_model.hierarchy.size
        codes = model.codes(inputs["noise"])
        if values := len(model.model_config.attributes):
            in_turn = ops.one_hot(np.arange(self.texts) % values, values)
            codes = ops.concatenate([codes[:, :size], in_turn], axis=-1)
        if not size:
            return {"samples": decode(model, codes, drawing(inputs["uniform"]))}
        means = model.encode(inputs["tokens"], inputs["attribute"])["mean"]
        along = np.linspace(0.0, 1.0, self.texts, dtype=np.float32)[:, None]
        path = means[:1] + along * (means[-1:] - means[:1])
        written = ops.split(decode(model, ops.concatenate([codes, means, path], axis=0)), 3, axis=0)
        return dict(zip(("samples", "reconstructions", "interpolation"), written, strict=True))


def drawing(uniform: Any) -> Chooser:
    """Draws each position's symbol by inverting the distribution function at the numbers (B, T) in [0, 1)."""
    positions = iter(ops.unstack(uniform, axis=1))

    def choose(logits: Any) -> Any:
        below = ops.cumsum(ops.softmax(logits, axis=-1), axis=-1) <= next(positions)[:, None]
        return ops.minimum(ops.sum(ops.cast(below, "int32"), axis=-1), logits.shape[-1] - 1)

    return choose


def trial(folder: Path) -> str:
    """A name for the run of an absolute log folder: runs of the same settings and the same name stay apart."""
    return f"{folder.parent.name} {zlib.crc32(str(folder).encode()):08x}"


def compared(config: Config) -> dict[str, Any]:
    """The `HYPERPARAMETERS` that something reads in this configuration."""
    unread = {name for _, name, _, is_read in dependent_settings(config.model, config.objective) if not is_read}
    read = [key for key in HYPERPARAMETERS if key.partition(".")[2] not in unread]
    return {key: plain(dotted_value(config, key)) for key in read}


def plain(value: Any) -> Any:
    """A setting as the HParams table takes it."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def label_of(values: Sequence[str], index: int) -> str:
    """The label with that index among the values in turn, "unknown" for -1."""
    return "unknown" if index < 0 else values[index % len(values)]


def spread_evenly(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows at equal distances; some come again where there are fewer."""
    return rows[np.linspace(0, len(rows) - 1, count).astype(int)]


def write_whole(path: Path, lines: Sequence[str]) -> None:
    """Lines of a file that is complete or not there."""
    partial = path.with_name("partial-" + path.name)
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def fenced(text: str) -> str:
    """Text as TensorBoard's Markdown shows it, unchanged."""
    return "\n".join("    " + line for line in text.split("\n"))
