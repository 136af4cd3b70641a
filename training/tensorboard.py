"""What a run writes for TensorBoard: metrics, statistics of the latent code, texts and settings."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from kvae.configuration import Config, dotted_value
from kvae.decoding import Chooser, decode, greedy
from kvae.misfits import dependent_settings
from kvae.model import TextVAE, as_int
from kvae.objectives import beta_at, warm_start_over
from kvae.serving.alphabet import Alphabet, one_line
from kvae.tensors import Tensor
from kvae.writing import write_text

from .checkpoints import Diverged
from .evaluation import UNITS, evenly_spaced
from .events import EventWriter
from .generation import compiled_step
from .latent_report import LatentReport
from .step_callbacks import StepCallback, as_floats

HYPERPARAMETERS = (
    "data.source",
    *(
        f"model.{name}"
        for name in ("encoder", "encoder_units", "latent", "latent_size", "posterior", "prior")
    ),
    *(f"model.{name}" for name in ("expander", "head", "head_units", "head_reads", "auxiliary")),
    *(
        f"objective.{name}"
        for name in (
            "penalty",
            "schedule",
            "beta_max",
            "importance_samples",
            "ramp_start",
            "ramp_steps",
            "kl_target",
        )
    ),
    *(
        f"objective.{name}"
        for name in ("free_bits", "free_bits_over", "alpha", "mmd", "input_dropout")
    ),
    *(f"objective.{name}" for name in ("warm_start_steps", "encoder_updates", "semi_supervised")),
    *(
        f"training.{name}"
        for name in (
            "batch_size",
            "learning_rate",
            "learning_rate_schedule",
            "weight_decay",
            "seed",
        )
    ),
)
"""Settings in TensorBoard's HParams table. The text `configuration` contains all settings."""

FINAL_METRICS = (
    "elbo",
    "reconstruction",
    "kl",
    "bits_per_character",
    "active_units",
    "mutual_information",
)
"""Held-out metrics in that table, each with its value after the last epoch."""

SETTINGS = "settings"
"""The run of a log folder that contains only these settings and metrics.

TensorBoard makes every metric of a run with settings a column of the table.
"""

MAX_EMBEDDING_VALUES = 200_000
"""Largest number of values in the embedding of a level.

Codes with more dimensions therefore show fewer texts.
"""


class TensorBoardMonitor(StepCallback):
    """Writes metrics, texts and embeddings of a run for TensorBoard, over training steps.

    Every `every` steps it writes the training metrics, as means since the start of the epoch, with
    beta, learning rate and examples per second. After each epoch it writes the validation metrics,
    the statistics of `report` about the latent code, `texts` samples, reconstructions and
    interpolated texts each, and the posterior means of held-out texts for the projector.

    `folder` gets the runs `train`, `validation` and `settings`. Configuration and hyper-parameters
    are written once, into a new folder; a resumed run appends to the files that are there.
    `batch_size` is the number of texts per step.
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
            part: EventWriter(self.folder / part) for part in ("train", "validation", SETTINGS)
        }
        self.last_step_written, self.last_step_time = as_int(self.model.training_steps), 0.0
        self.speed_start: tuple[int, float] | None = None
        self.preview = TextPreview(self.model, self.texts)
        if new:
            trial = trial_name(self.folder.absolute())
            self.writers[SETTINGS].settings(hyperparameter_values(self.config), trial)
            configuration = as_code_block(json.dumps(self.config.to_dict(), indent=1))
            self.writers["train"].text("configuration", self.last_step_written, configuration)
        self.flush()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self.speed_start = None  # the time between epochs does not count

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        step, is_first = self.steps_before_epoch + batch + 1, self.speed_start is None
        is_due = step // self.every > self.last_step_written // self.every
        if is_first or is_due:
            logs = as_floats(logs or {})  # waits for the device, so that the time is right
        self.last_step_time = time.monotonic()
        if is_first:  # the first step of an epoch may compile
            self.speed_start = (step, self.last_step_time)
        if is_due:
            self.write_training(step, logs or {})

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        logs = logs or {}
        step = as_int(self.model.training_steps)
        if step > self.last_step_written:
            self.write_training(
                step, {name: value for name, value in logs.items() if not name.startswith("val_")}
            )
        for name, value in logs.items():
            if name.startswith("val_"):
                self.write_scalar("validation", name.removeprefix("val_"), step, value)
        self.write_dimensions(step)
        self.write_texts(step)
        for name in FINAL_METRICS:
            if np.isfinite(value := logs.get(f"val_{name}", np.nan)):
                self.writers[SETTINGS].scalar(f"final/val_{name}", step, float(value))
        self.write_embeddings()
        self.flush()

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        for writer in self.writers.values():
            writer.close()

    def flush(self) -> None:
        for writer in self.writers.values():
            writer.flush()

    def note(self, text: str, step: int | None = None) -> None:
        """Write a remark about the run at `step`, or at the current step."""
        step = as_int(self.model.training_steps) if step is None else step
        self.writers["validation"].text("notes", step, as_code_block(text))

    def diverged(self, error: Diverged) -> None:
        """Write a remark about the divergence; that step gets no metrics."""
        self.note(str(error), error.step)
        self.flush()

    def write_scalar(self, part: str, name: str, step: int, value: Any) -> None:
        """Write a metric with a description of its unit, if it is finite.

        A value that is not finite would stay in the curve after training has resumed from an
        earlier step.
        """
        if not np.isfinite(value):
            return
        description = UNITS.get(name)
        if name == "mutual_information":
            texts = len(self.report.rows)
            description = (
                f"{description}, on N = {texts:,} held-out texts: "
                f"at most ln N = {np.log(texts):.2f}"
            )
        self.writers[part].scalar(name, step, float(value), description)

    def write_training(self, step: int, logs: Mapping[str, Any]) -> None:
        """Write the training metrics of a step with beta, learning rate and throughput.

        The throughput is the examples per second since the last call.
        """
        objective = self.config.objective
        beta = warm_start_over(objective, step) * beta_at(objective, self.model.ramp)
        learning_rate = self.model.optimizer.learning_rate
        values = {**logs, "beta": beta, "learning_rate": learning_rate}
        first_step, start = self.speed_start or (step, self.last_step_time)
        if self.last_step_time > start:
            examples = (step - first_step) * self.batch_size
            values["examples_per_second"] = examples / (self.last_step_time - start)
        for name, value in values.items():
            self.write_scalar("train", name, step, ops.convert_to_numpy(value))
        self.last_step_written, self.speed_start = step, (step, self.last_step_time)

    def write_dimensions(self, step: int) -> None:
        """Write a histogram of the KL of the dimensions of each level, if the model has them."""
        if "kl_per_dimension" in self.report.collected:
            for name, part in self.levels("kl_per_dimension", "kl_per_dimension"):
                mean = part.mean(axis=0)
                self.writers["validation"].histogram(name, step, mean[np.isfinite(mean)])

    def write_texts(self, step: int) -> None:
        """Write samples, reconstructions beside their texts, and an interpolation."""
        values = self.config.model.attributes
        rows = evenly_spaced_repeating(self.report.rows, self.texts).astype(np.int32)
        labels = np.full(len(rows), -1)
        if self.report.attribute is not None:
            labels = evenly_spaced_repeating(self.report.attribute, self.texts)
        generated = self.preview.generate(rows, labels)
        texts = {name: self.lines(tokens) for name, tokens in generated.items()}
        if values:
            texts["samples"] = [
                f"{label_of(values, i)}: {text}" for i, text in enumerate(texts["samples"])
            ]
        if "reconstructions" in texts:
            pairs = zip(self.lines(rows), texts["reconstructions"], strict=True)
            texts["reconstructions"] = list(
                dict.fromkeys(f"{text}\n-> {reconstruction}\n" for text, reconstruction in pairs)
            )
        for name, lines in texts.items():
            text = as_code_block("\n".join(lines).rstrip("\n"))
            self.writers["validation"].text(name, step, text)

    def write_embeddings(self) -> None:
        """Write the posterior means of held-out texts for the projector, one table per level."""
        if "mean" not in self.report.collected:
            return
        folder, tables = self.folder / "validation", []
        for name, means in self.levels("latent_means", "mean"):
            if not np.isfinite(means).all():
                continue
            count = max(1, MAX_EMBEDDING_VALUES // means.shape[1])
            metadata, tensors = folder / f"{name}_texts.tsv", folder / f"{name}.tsv"
            if not metadata.exists():
                write_text(metadata, "\n".join(self.metadata(count)) + "\n")
            rows = [
                "\t".join(f"{value:.5g}" for value in row)
                for row in evenly_spaced(means, count).tolist()
            ]
            write_text(tensors, "\n".join(rows) + "\n", exclusive=True)
            files = f'tensor_path: "{tensors.name}"\n  metadata_path: "{metadata.name}"'
            tables.append(f'embeddings {{\n  tensor_name: "{name}"\n  {files}\n}}\n')
        projector = folder / "projector_config.pbtxt"
        if tables and not projector.exists():
            write_text(projector, "".join(tables), exclusive=True)

    def metadata(self, count: int) -> list[str]:
        """Headings, and one line for each of at most `count` texts: text, characters and label."""
        texts = self.alphabet.decode(evenly_spaced(self.report.rows, count))
        columns = {
            "text": [one_line(text) for text in texts],
            "characters": [str(len(text)) for text in texts],
        }
        if self.report.attribute is not None:
            values = self.config.model.attributes
            labels = evenly_spaced(self.report.attribute, count)
            columns["label"] = [one_line(label_of(values, i)) for i in labels]
        return [
            "\t".join(columns),
            *("\t".join(line) for line in zip(*columns.values(), strict=True)),
        ]

    def levels(self, name: str, key: str) -> list[tuple[str, np.ndarray]]:
        """The array (N, d) that the report has under `key`, split into levels, each with a name."""
        parts = self.model.hierarchy.split(self.report.collected[key])
        if len(parts) == 1:
            return [(name, parts[0])]
        return [(f"{name}_level_{level}", part) for level, part in enumerate(parts)]

    def lines(self, tokens: np.ndarray) -> list[str]:
        """Tokens (B, T) as texts of one line each."""
        return [one_line(text) for text in self.alphabet.decode(tokens)]


class TextPreview:
    """Generates the texts that TensorBoard shows, `texts` of each kind.

    A model with a latent code decodes greedily, always from the same codes of the prior and with
    each label in turn. A language model, whose greedy samples would all be equal, samples with the
    same random numbers each time.
    """

    def __init__(self, model: TextVAE, texts: int) -> None:
        generator = np.random.default_rng(0)
        self.model, self.texts = model, texts
        self.noise = generator.standard_normal((texts, model.parts.noise_size), dtype=np.float32)
        self.uniform = generator.random((texts, model.model_config.length), dtype=np.float32)
        self.step = compiled_step(model.head)

    def generate(self, tokens: np.ndarray, attribute: np.ndarray) -> dict[str, np.ndarray]:
        """Samples, reconstructions and an interpolation as tokens, (texts, T) each.

        The reconstructions are those of `tokens` (texts, T) with the attributes (texts,). The
        interpolation leads in equal steps from the first of these texts to the last.
        """
        model, size = self.model, self.model.hierarchy.size
        codes = model.codes(self.noise)
        if values := len(model.model_config.attributes):
            labels = ops.one_hot(np.arange(self.texts) % values, values)
            codes = ops.concatenate([codes[:, :size], labels], axis=-1)
        if not size:
            return {"samples": self.decode(codes, inverse_cdf_chooser(self.uniform))}
        means = model.encode(tokens, attribute)["mean"]
        fractions = np.linspace(0.0, 1.0, self.texts, dtype=np.float32)[:, None]
        path = means[:1] + fractions * (means[-1:] - means[:1])
        decoded = self.decode(ops.concatenate([codes, means, path], axis=0), greedy)
        names = ("samples", "reconstructions", "interpolation")
        return dict(zip(names, np.split(decoded, 3), strict=True))

    def decode(self, codes: Tensor, choose: Chooser) -> np.ndarray:
        """Codes (B, code_size) as tokens (B, T)."""
        return np.asarray(ops.convert_to_numpy(decode(self.model, codes, choose, self.step)))


def inverse_cdf_chooser(uniform: Tensor) -> Chooser:
    """A chooser that samples the token of each position by inverting the cumulative distribution.

    `uniform` (B, T) are the random numbers in [0, 1), one for each position.
    """
    positions = iter(ops.unstack(uniform, axis=1))

    def choose(logits: Tensor) -> Tensor:
        below = ops.cumsum(ops.softmax(logits, axis=-1), axis=-1) <= next(positions)[:, None]
        return ops.minimum(ops.sum(ops.cast(below, "int32"), axis=-1), logits.shape[-1] - 1)

    return choose


def trial_name(folder: Path) -> str:
    """A unique name for the run of an absolute log folder.

    It keeps runs with equal names and settings apart.
    """
    return f"{folder.parent.name} {zlib.crc32(str(folder).encode()):08x}"


def hyperparameter_values(config: Config) -> dict[str, str | int | float | bool | None]:
    """The values of those `HYPERPARAMETERS` that have an effect in this configuration."""
    unread = {
        name
        for _, name, _, is_read in dependent_settings(config.model, config.objective)
        if not is_read
    }
    keys = [key for key in HYPERPARAMETERS if key.partition(".")[2] not in unread]
    return {key: hparam_value(dotted_value(config, key)) for key in keys}


def hparam_value(value: Any) -> Any:
    """A setting in a type that the HParams table accepts."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def label_of(values: Sequence[str], index: int) -> str:
    """The label at `index` modulo the number of labels, "unknown" for -1."""
    return "unknown" if index < 0 else values[index % len(values)]


def evenly_spaced_repeating(rows: np.ndarray, count: int) -> np.ndarray:
    """Exactly `count` rows at equal distances; rows are repeated if there are fewer."""
    return np.asarray(rows[np.linspace(0, len(rows) - 1, count).astype(int)])


def as_code_block(text: str) -> str:
    """Text as a Markdown code block, which TensorBoard shows unchanged."""
    return "\n".join("    " + line for line in text.split("\n"))
