"""Checkpoints: all that a run needs to go on exactly where it was, in one file that is whole or not there.

A file holds the variables of model, optimizer and running metrics as arrays, and as JSON the step, the number of complete
epochs and the state of every callback that has one: a callback with `state() -> dict` and `restore(dict)`.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.disk import writing
from kvae.model import TextVAE
from kvae.serving.errors import ModelError

KEPT = 2
"""Checkpoints that stay in a folder, the newest ones."""

ABOUT = "about.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds: `arrays` by group and place, and what `about` says of the run."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Training steps that were taken."""
        return self.about["step"]

    @property
    def epoch(self) -> int:
        """Epochs that were completed."""
        return self.about["epoch"]


def groups(model: TextVAE) -> dict[str, Sequence[Any]]:
    """All variables that training changes, in the order in which Keras lists them. A learning rate is a setting, which a
    resumed run may have otherwise, and where a schedule computes it there is no variable: it stays what it is."""
    optimizer = model.optimizer.variables if model.optimizer else []
    return {
        "trainable": model.trainable_variables,
        "other": model.non_trainable_variables,
        "optimizer": [variable for variable in optimizer if variable.name != "learning_rate"],
        "metric": model.metrics_variables,
    }


def write_checkpoint(path: Path, model: TextVAE, about: Mapping[str, Any]) -> None:
    """Write a file that is whole or not there; it is on the disk when this returns."""
    arrays = {
        f"{name}/{place}": keras.ops.convert_to_numpy(variable)
        for name, variables in groups(model).items()
        for place, variable in enumerate(variables)
    }
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with writing(path), partial.open("wb") as file:
            np.savez(file, **{ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file whole; raises `ModelError` when it is damaged."""
    try:
        with path.open("rb") as content, np.load(content) as file:
            arrays = {name: file[name] for name in file.files}
        return Checkpoint(path, arrays, json.loads(arrays.pop(ABOUT).tobytes()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged ({error}); remove it, or train the run again") from error


def restore_checkpoint(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a compiled model, its optimizer and its metrics the values of a checkpoint."""
    model.optimizer.build(model.trainable_variables)
    assign(checkpoint, groups(model))


def restore_weights(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint and the statistics of its normalisation, but keep its counters."""
    floating = {name: values for name, values in groups(model).items() if name in ("trainable", "other")}
    assign(checkpoint, floating, only=lambda variable: "float" in str(variable.dtype))


def assign(
    checkpoint: Checkpoint,
    groups: Mapping[str, Sequence[Any]],
    only: Callable[[Any], bool] = lambda variable: True,
) -> None:
    """Give variables their values; raises `ModelError` where they do not fit."""
    for name, variables in groups.items():
        for place, variable in enumerate(variables):
            value = checkpoint.arrays.get(f"{name}/{place}")
            if value is None or value.shape != tuple(variable.shape):
                raise ModelError(
                    f"{checkpoint.path}: belongs to another model ({name} variable {place}, {variable.path}, does not fit); "
                    f"train the run again"
                )
            if only(variable):
                variable.assign(value)


def latest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint of a folder that is whole; `say` hears of damaged ones."""
    for path in reversed(numbered(folder)):
        try:
            return read_checkpoint(path)
        except ModelError as error:
            say(f"passed over: {error}")
    return None


def numbered(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first."""
    return sorted(folder.glob("step-*.npz"))
