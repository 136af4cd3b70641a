"""Checkpoints: all that a run needs to go on exactly where it was, in one file that is whole or not there.

A file holds the variables of model and optimizer as arrays, within an epoch those of the running metrics too, and as JSON the
step, the number of complete epochs and the state of every callback that has one: a callback with `state() -> dict` and
`restore(dict)`. No number in it is NaN or infinite.
"""

from __future__ import annotations

import io
import math
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kvae.model import TextVAE, number
from kvae.runs import numbered, parse_json, to_json
from kvae.saved_models import first_line, from_outside
from kvae.serving.errors import CheckFailed, ModelError
from kvae.writing import atomic_write

KEPT = 2
"""Checkpoints that stay in a folder, the newest ones; and the newest good one, where those are not."""

ABOUT = "about.json"

FIELDS: Mapping[str, type] = {
    "step": int,
    "epoch": int,
    "corpus": str,
    "callbacks": dict,
    "within_epoch": bool,
    "stopped": bool,
    "ended": int,
    "good": bool,
}
"""What a checkpoint may say of its run, and the kind of each value. Whole numbers are steps and epochs, from 0 on."""

LARGEST = sys.float_info.max

NEEDED = ("step", "epoch", "corpus", "callbacks")
"""What it must say where a run is to go on from it."""


class Diverged(CheckFailed):
    """Training reached numbers that are not finite: at which `step`, `what` was not, and the `last` metrics that were."""

    def __init__(self, step: int, what: str, last: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"training diverged at step {step:,} ({what})")
        self.step, self.what, self.last = step, what, dict(last or {})


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

    @property
    def good(self) -> bool:
        """Whether the model was one that learns; `Checkpoints` in `kvae.training.callbacks` says what that means."""
        return self.about.get("good", True)


def groups(model: TextVAE, within_epoch: bool = False) -> dict[str, Sequence[Any]]:
    """All variables that training changes, in the order in which Keras lists them; running metrics count within an epoch
    alone. A learning rate is a setting, which a resumed run may have otherwise, and where a schedule computes it there is no
    variable: it stays what it is."""
    optimizer = model.optimizer.variables if getattr(model, "optimizer", None) else []
    return {
        "trainable": model.trainable_variables,
        "other": model.non_trainable_variables,
        "optimizer": [variable for variable in optimizer if variable.name != "learning_rate"],
        **({"metric": model.metrics_variables} if within_epoch else {}),
    }


def values_of(model: TextVAE, within_epoch: bool = False) -> dict[str, np.ndarray]:
    """The values of all variables by group and place; raises `Diverged` where one is not finite."""
    found = {}
    for name, variables in groups(model, within_epoch).items():
        for place, variable in enumerate(variables):
            value = np.asarray(keras.ops.convert_to_numpy(variable))
            if not np.isfinite(value).all():
                raise Diverged(number(model.training_steps), f"{variable.path} is not finite")
            found[f"{name}/{place}"] = value
    return found


def write_checkpoint(path: Path, model: TextVAE, about: Mapping[str, Any]) -> None:
    """Write a file that is whole or not there; it is on the disk when this returns. Raises `Diverged` and writes nothing
    where a number is not finite."""
    arrays = values_of(model, about.get("within_epoch", False))
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path, exclusive=True) as partial, partial.open("wb") as file:
        np.savez(file, **{ABOUT: np.frombuffer(to_json(about).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, needed: Sequence[str] = ()) -> Checkpoint:
    """Read a file whole; raises `ModelError` when it is damaged, or does not say what is `needed`. It takes no more memory
    than twice the size of the file, whatever is in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy"): array for name, array in members(archive, path.stat().st_size)}
        about = parse_json(arrays.pop(ABOUT).tobytes())
        check_about(about, needed)
    except Exception as error:  # zip, npy and json raise errors without a common base
        raise ModelError(f"{path}: {from_outside(error) or f'damaged ({first_line(error)})'}") from error
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ModelError(f"{path}: training had diverged when it was written ({broken[0]} is not finite)")
    return Checkpoint(path, arrays, about)


def members(archive: zipfile.ZipFile, size: int) -> list[tuple[str, np.ndarray]]:
    """The arrays of an archive of `size` bytes, as `numpy.savez` writes them: not packed, each once, each as long as it says.
    Raises `ValueError`, and what damaged archives raise."""
    parts = archive.infolist()
    if len({part.filename for part in parts}) < len(parts) or sum(part.file_size for part in parts) > size:
        raise ValueError("its parts are not those that were written")
    return [(part.filename, array_of(archive.read(part))) for part in parts]


def array_of(content: bytes) -> np.ndarray:
    """The array in the bytes of a `.npy` file; raises `ValueError`."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array of version {version}, not (1, 0)")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
    left = len(content) - file.tell()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"an array of {left} bytes says that it is {dtype} {shape}"[:100])
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if by_column else "C")


def check_about(about: Any, needed: Sequence[str]) -> None:
    """Raise `ValueError` for what no run writes about itself."""
    if not isinstance(about, dict):
        raise ValueError(f"{ABOUT} holds a {type(about).__name__}")
    missing = [name for name in needed if name not in about]
    if missing:
        raise ValueError(f"{ABOUT} lacks {missing[0]!r}")
    for name, kind in FIELDS.items():
        value: Any = about.get(name, kind())
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**31):
            raise ValueError(f"{name} in {ABOUT} is {str(value)[:40]!r}")
    if not all(isinstance(state, dict) for state in about.get("callbacks", {}).values()):
        raise ValueError(f"callbacks in {ABOUT} are not the states of callbacks")


def restore_checkpoint(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a compiled model, its optimizer and, within an epoch, its metrics the values of a checkpoint; raises `ModelError`
    where it is that of another model."""
    model.optimizer.build(model.trainable_variables)
    assign(checkpoint, groups(model, checkpoint.about.get("within_epoch", False)))
    if number(model.training_steps) != checkpoint.step:
        raise ModelError(
            f"{checkpoint.path}: says step {checkpoint.step:,} and holds the model of step {number(model.training_steps):,}; "
            f"{moved_away(checkpoint.path)}"
        )


def restore_weights(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint and the statistics of its normalisation, but keep its counters."""
    floating = {name: values for name, values in groups(model).items() if name in ("trainable", "other")}
    assign(checkpoint, floating, only=lambda variable: "float" in str(variable.dtype))


def restore_states(callbacks: Mapping[str, Any], checkpoint: Checkpoint, new: Sequence[str] = ()) -> None:
    """Give callbacks, by name, the states that a checkpoint has of them; those named in `new` may have none. Raises
    `ModelError` where one is not such a state: the same names, numbers or nothing, counts from 0 to the step."""
    states = checkpoint.about["callbacks"]
    for name, callback in callbacks.items():
        if name in states or name not in new:
            state, now = states.get(name, {}), callback.state()
            fits = state.keys() == now.keys() and all(is_state(state[key], now[key], checkpoint.step) for key in now)
            if not fits:
                raise ModelError(f"{checkpoint.path}: damaged (the state of {name}); {moved_away(checkpoint.path)}")
            callback.restore(state)


def is_state(value: Any, now: int | float, step: int) -> bool:
    """Whether a value is one of the kind of `now`, what the callback begins with: a count is at most `step`, and a number may
    only be missing where none is there at the beginning."""
    if value is None:
        return not math.isfinite(now)
    if isinstance(now, int):
        return type(value) is int and 0 <= value <= step
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


def assign(
    checkpoint: Checkpoint,
    groups: Mapping[str, Sequence[Any]],
    only: Callable[[Any], bool] = lambda variable: True,
) -> None:
    """Give variables their values, or none of them; raises `ModelError` where they do not fit."""
    found = []
    for name, variables in groups.items():
        for place, variable in enumerate(variables):
            value = checkpoint.arrays.get(f"{name}/{place}")
            kind = np.dtype("float32" if variable.dtype == "bfloat16" else variable.dtype)
            if value is None or value.shape != tuple(variable.shape) or not np.can_cast(value.dtype, kind, "same_kind"):
                raise another_model(checkpoint, f"{name} variable {place}, {variable.path}, does not fit")
            found.append((variable, value))
        if f"{name}/{len(variables)}" in checkpoint.arrays:
            raise another_model(checkpoint, f"it has more {name} variables than the {len(variables)} of this one")
    for variable, value in found:
        if only(variable):
            variable.assign(value)


def check_run(checkpoint: Checkpoint, run: str) -> None:
    """Raise `ModelError` for a checkpoint of another run than `run`, which may have the same shapes; one of an earlier
    version of kvae names no run and passes."""
    found = checkpoint.about.get("run") or run
    if found != run:
        raise ModelError(
            f"{checkpoint.path}: belongs to another run ({found}, this one is {run}); move it out of the folder, and --resume "
            f"goes on from the newest checkpoint of this run"
        )


def another_model(checkpoint: Checkpoint, why: str) -> ModelError:
    """What is said of a checkpoint whose variables are not those of the model."""
    return ModelError(
        f"{checkpoint.path}: belongs to another model ({why}): of another run, or of another version of kvae or Keras; "
        f"{moved_away(checkpoint.path)}"
    )


def moved_away(path: Path) -> str:
    """The way out for one checkpoint that cannot be used."""
    return f"move it out of {path.parent}, and --resume takes the one before"


def latest(folder: Path, say: Callable[[str], None], good: bool = False) -> Checkpoint | None:
    """The newest checkpoint of a folder that is whole, or with `good` the newest good one if any is; `say` hears of those that
    are passed over. None where the folder has none at all. Raises `ModelError` where it has some and none can be read."""
    whole, errors = None, []
    for path in reversed(numbered(folder)):
        try:
            found = read_checkpoint(path, NEEDED)
        except ModelError as error:
            errors.append(error)
            say(f"passed over: {error}")
            continue
        if found.good or not good:
            return found
        whole = whole or found
    if errors and whole is None:
        raise ModelError(f"{folder}: none of its {len(errors)} checkpoints can be read; take one from a copy")
    return whole
