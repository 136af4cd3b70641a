"""Checkpoints: everything that a run needs to continue exactly where it stopped, in one file.

A file appears whole or not at all. It contains the variables of model and optimizer as arrays;
within an epoch also those of the running metrics. Its JSON part contains the step, the number of
complete epochs and the state of every callback that has the methods `state() -> dict` and
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

from kvae.model import TextVAE, as_int
from kvae.runs import list_checkpoints, parse_json, to_json
from kvae.saved_models import describe_system_error
from kvae.serving.errors import CheckFailed, ModelError, first_line
from kvae.writing import atomic_write

CHECKPOINTS_KEPT = 2
"""How many of the newest checkpoints stay in a folder. The newest good one stays as well."""

ABOUT = "about.json"

ABOUT_TYPES: Mapping[str, type] = {
    "step": int,
    "epoch": int,
    "corpus": str,
    "callbacks": dict,
    "within_epoch": bool,
    "stopped": bool,
    "ended": int,
    "good": bool,
}
"""Entries of a checkpoint's description with their types. Integers count steps or epochs from 0."""

REQUIRED_TO_RESUME = ("step", "epoch", "corpus", "callbacks")
"""Entries without which a run cannot resume from a checkpoint."""


class Diverged(CheckFailed):
    """Training was no longer finite: at `step`, in `what`. `last` are the last finite metrics."""

    def __init__(self, step: int, what: str, last: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"training diverged at step {step:,} ({what})")
        self.step, self.what, self.last = step, what, dict(last or {})


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file: `arrays` by "group/index", and `about`, the description of the run."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Number of training steps taken."""
        return int(self.about["step"])

    @property
    def epoch(self) -> int:
        """Number of complete epochs."""
        return int(self.about["epoch"])

    @property
    def good(self) -> bool:
        """Whether training can continue from its model: `is_good` in `kvae.training.callbacks`.

        True for files of earlier versions, which do not say.
        """
        return bool(self.about.get("good", True))


def variable_groups(
    model: TextVAE, within_epoch: bool = False
) -> dict[str, Sequence[keras.Variable]]:
    """The variables that training changes, by group, in Keras' order.

    The running metrics are included only within an epoch. The learning rate is left out: it is a
    setting that a resumed run may change, and with a schedule there is no such variable.
    """
    optimizer = model.optimizer.variables if getattr(model, "optimizer", None) else []
    return {
        "trainable": model.trainable_variables,
        "other": model.non_trainable_variables,
        "optimizer": [variable for variable in optimizer if variable.name != "learning_rate"],
        **({"metric": model.metrics_variables} if within_epoch else {}),
    }


def values_of(model: TextVAE, within_epoch: bool = False) -> dict[str, np.ndarray]:
    """The values of all variables by "group/index". Raises `Diverged` if one is not finite."""
    values = {}
    for name, variables in variable_groups(model, within_epoch).items():
        for place, variable in enumerate(variables):
            value = np.asarray(keras.ops.convert_to_numpy(variable))
            if not np.isfinite(value).all():
                raise Diverged(as_int(model.training_steps), f"{variable.path} is not finite")
            values[f"{name}/{place}"] = value
    return values


def write_checkpoint(path: Path, model: TextVAE, about: Mapping[str, Any]) -> None:
    """Write a file that appears whole or not at all; on return it is on disk.

    Raises `Diverged`, and writes nothing, if a variable is not finite.
    """
    arrays = values_of(model, about.get("within_epoch", False))
    path.parent.mkdir(exist_ok=True)
    with atomic_write(path, exclusive=True) as partial, partial.open("wb") as file:
        np.savez(file, **{ABOUT: np.frombuffer(to_json(about).encode(), np.uint8)}, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path, required: Sequence[str] = ()) -> Checkpoint:
    """Read a whole file.

    Raises `ModelError` if it is damaged or if its description lacks one of the entries in
    `required`. Memory stays below twice the size of the file, whatever the file contains.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                name.removesuffix(".npy"): array
                for name, array in members(archive, path.stat().st_size)
            }
        about = parse_json(arrays.pop(ABOUT).tobytes())
        check_about(about, required)
    except Exception as error:  # zip, npy and json raise errors without a common base
        raise ModelError(
            f"{path}: {describe_system_error(error) or f'damaged ({first_line(error)})'}"
        ) from error
    broken = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise ModelError(
            f"{path}: training had diverged when it was written ({broken[0]} is not finite)"
        )
    return Checkpoint(path, arrays, about)


def members(archive: zipfile.ZipFile, size: int) -> list[tuple[str, np.ndarray]]:
    """Names and arrays of an archive of `size` bytes that `numpy.savez` wrote.

    Such an archive is uncompressed, has every name once, and has the length that each array
    declares. Raises `ValueError` otherwise, and the errors of `zipfile` for a damaged archive.
    """
    parts = archive.infolist()
    if (
        len({part.filename for part in parts}) < len(parts)
        or sum(part.file_size for part in parts) > size
    ):
        raise ValueError("its parts are not those that were written")
    return [(part.filename, array_of(archive.read(part))) for part in parts]


def array_of(content: bytes) -> np.ndarray:
    """The array in the bytes of a `.npy` file. Raises `ValueError` if they are not one."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"an array of version {version}, not (1, 0)")
    shape, column_major, dtype = np.lib.format.read_array_header_1_0(file)
    size = len(content) - file.tell()
    if dtype.kind not in "biuf" or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of {size} bytes says that it is {dtype} {shape}"[:100])
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(
        shape, order="F" if column_major else "C"
    )


def check_about(about: Any, required: Sequence[str]) -> None:
    """Raise `ValueError` for a description that no run writes."""
    if not isinstance(about, dict):
        raise ValueError(f"{ABOUT} holds a {type(about).__name__}")
    missing = [name for name in required if name not in about]
    if missing:
        raise ValueError(f"{ABOUT} lacks {missing[0]!r}")
    for name, expected in ABOUT_TYPES.items():
        value: Any = about.get(name, expected())
        if type(value) is not expected or (isinstance(value, int) and not 0 <= value < 2**31):
            raise ValueError(f"{name} in {ABOUT} is {str(value)[:40]!r}")
    if not all(isinstance(state, dict) for state in about.get("callbacks", {}).values()):
        raise ValueError(f"callbacks in {ABOUT} are not the states of callbacks")


def restore_checkpoint(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a compiled model and its optimizer the values of a checkpoint.

    Within an epoch its running metrics get theirs as well. Raises `ModelError` for a checkpoint of
    another model.
    """
    model.optimizer.build(model.trainable_variables)
    assign(checkpoint, variable_groups(model, checkpoint.about.get("within_epoch", False)))
    if as_int(model.training_steps) != checkpoint.step:
        raise ModelError(
            f"{checkpoint.path}: says step {checkpoint.step:,} and holds the model of step "
            f"{as_int(model.training_steps):,}; {skip_hint(checkpoint.path)}"
        )


def restore_weights(model: TextVAE, checkpoint: Checkpoint) -> None:
    """Give a model the weights and normalisation statistics of a checkpoint; its counters stay."""
    groups = variable_groups(model)
    weights = {name: groups[name] for name in ("trainable", "other")}
    assign(checkpoint, weights, only=lambda variable: "float" in str(variable.dtype))


def restore_states(
    callbacks: Mapping[str, Any], checkpoint: Checkpoint, new: Sequence[str] = ()
) -> None:
    """Give callbacks, by name, their states in a checkpoint; those named in `new` may have none.

    Raises `ModelError` for an invalid state. A valid one has the keys of the callback's current
    state, its values are numbers or None, and its counts lie between 0 and the step.
    """
    states = checkpoint.about["callbacks"]
    for name, callback in callbacks.items():
        if name in states or name not in new:
            state, current = states.get(name, {}), callback.state()
            valid = state.keys() == current.keys() and all(
                is_valid_state(state[key], current[key], checkpoint.step) for key in current
            )
            if not valid:
                raise ModelError(
                    f"{checkpoint.path}: damaged (the state of {name}); "
                    f"{skip_hint(checkpoint.path)}"
                )
            callback.restore(state)


def is_valid_state(value: Any, initial: int | float, step: int) -> bool:
    """Whether a value has the type of `initial`, the value in a new callback.

    A count lies between 0 and `step`. None is valid only where `initial` is infinite.
    """
    if value is None:
        return not math.isfinite(initial)
    if isinstance(initial, int):
        return type(value) is int and 0 <= value <= step
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest


def assign(
    checkpoint: Checkpoint,
    groups: Mapping[str, Sequence[keras.Variable]],
    only: Callable[[keras.Variable], bool] = lambda variable: True,
) -> None:
    """Assign the arrays of a checkpoint to those variables for which `only` is true.

    Raises `ModelError`, and assigns nothing, if an array does not fit or the checkpoint has more
    arrays than the groups have variables.
    """
    assignments = []
    for name, variables in groups.items():
        for place, variable in enumerate(variables):
            value = checkpoint.arrays.get(f"{name}/{place}")
            dtype = np.dtype("float32" if variable.dtype == "bfloat16" else variable.dtype)
            if (
                value is None
                or value.shape != tuple(variable.shape)
                or not np.can_cast(value.dtype, dtype, "same_kind")
            ):
                raise wrong_model(
                    checkpoint, f"{name} variable {place}, {variable.path}, does not fit"
                )
            assignments.append((variable, value))
        if f"{name}/{len(variables)}" in checkpoint.arrays:
            raise wrong_model(
                checkpoint, f"it has more {name} variables than the {len(variables)} of this one"
            )
    for variable, value in assignments:
        if only(variable):
            variable.assign(value)


def check_run(checkpoint: Checkpoint, run: str) -> None:
    """Raise `ModelError` for a checkpoint of another run than `run`, even if all shapes match.

    A checkpoint of an earlier version of kvae names no run and passes.
    """
    owner = checkpoint.about.get("run") or run
    if owner != run:
        raise ModelError(
            f"{checkpoint.path}: belongs to another run ({owner}, this one is {run}); "
            f"move it out of the folder, and --resume "
            f"goes on from the newest checkpoint of this run"
        )


def wrong_model(checkpoint: Checkpoint, reason: str) -> ModelError:
    """The error for a checkpoint whose variables are not those of the model."""
    return ModelError(
        f"{checkpoint.path}: belongs to another model ({reason}): of another run, "
        f"or of another version of kvae or Keras; {skip_hint(checkpoint.path)}"
    )


def skip_hint(path: Path) -> str:
    """What a message advises if one checkpoint cannot be used."""
    return f"move it out of {path.parent}, and --resume takes the one before"


def latest_checkpoint(
    folder: Path, say: Callable[[str], None], good: bool = False
) -> Checkpoint | None:
    """The newest checkpoint of a folder that can be read; None for a folder without checkpoints.

    With `good` it is the newest good one, or the newest readable one if none is good. `say` gets a
    sentence for each file that was skipped. Raises `ModelError` if there are checkpoints and none
    can be read.
    """
    newest, errors = None, []
    for path in reversed(list_checkpoints(folder)):
        try:
            checkpoint = read_checkpoint(path, REQUIRED_TO_RESUME)
        except ModelError as error:
            errors.append(error)
            say(f"passed over: {error}")
            continue
        if checkpoint.good or not good:
            return checkpoint
        newest = newest or checkpoint
    if errors and newest is None:
        raise ModelError(
            f"{folder}: none of its {len(errors)} checkpoints can be read; take one from a copy"
        )
    return newest
