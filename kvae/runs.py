"""The run folder: which file is where, and how a trained model is found again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import CheckFailed, KvaeError, ModelError

from .configuration import Config, TrainingConfig
from .disk import add_path_to_errors
from .saved_models import describe_read_error, first_line, load_model

if TYPE_CHECKING:
    from .model import TextVAE

CONFIG, VOCABULARY, MODEL = "config.json", "vocabulary.json", "model.keras"
METRICS, LOGS, REPORT, CHECKPOINTS = "metrics.jsonl", "logs", "report", "checkpoints"
EVALUATION = "evaluation.json"
IDENTITY = "run.json"
"""Which run this is, as its checkpoints repeat it."""

DIVERGED = "diverged.json"
"""There while the last attempt to train a run ended in numbers that are not finite: {"step", "what"}."""

MAX_JSON_BYTES = 2**28
"""A JSON file of a run is at most this long; the largest, a vocabulary of a million words, takes a tenth of it."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    config: Config
    alphabet: Alphabet
    model: TextVAE

    @property
    def evaluation(self) -> dict[str, Any]:
        """The numbers written when training ended, those that were finite; empty if it has not."""
        file = self.path / REPORT / EVALUATION
        if not file.exists():
            return {}
        found = read_json(
            file, f"`kvae train --resume --out {quote(str(self.path))}` measures it anew"
        )
        return {name: value for name, value in found.items() if value is not None}


def check_bound(run: Run) -> None:
    """Raise `CheckFailed` for a run whose held-out bound is no finite number: it cannot be compared with others."""
    if "elbo" not in run.evaluation:
        raise CheckFailed(
            f"{run.path}: the bound on its held-out texts is not finite; a lower training.learning_rate usually helps"
        )


def steps_behind(run: Run) -> int:
    """Training steps that the newest checkpoint of a run is ahead of its model, as after a resumed run was killed."""
    newest = max(map(checkpoint_step, list_checkpoints(run.path / CHECKPOINTS)), default=0)
    return max(0, newest - int(run.model.training_steps))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first; files with other names are not ours."""
    return sorted(
        (path for path in folder.glob("step-*.npz") if CHECKPOINT_NAME.fullmatch(path.name)),
        key=checkpoint_step,
    )


CHECKPOINT_NAME = re.compile(r"step-([0-9]{1,12})\.npz")


def checkpoint_step(checkpoint: Path) -> int:
    """The training step in the name of a checkpoint."""
    found = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else 0


def divergence(folder: Path) -> dict[str, Any] | None:
    """Where the last attempt to train a run diverged, {"step", "what"}; None where none did, or training has gone on since."""
    file = folder / DIVERGED
    if not file.is_file():
        return None
    return {
        "step": 0,
        "what": "not known",
        **read_json(file, "remove this file, it is a note alone"),
    }


def describe_divergence(diverged: Mapping[str, Any]) -> str:
    """A divergence as half a sentence."""
    return f"training diverged at step {diverged['step']:,} ({diverged['what']})"


def divergence_advice(folder: Path, config: Config) -> str:
    """The way on for a run that diverged."""
    slower = min(config.training.learning_rate / 4, TrainingConfig().learning_rate)
    where = (
        "from its last good checkpoint"
        if list_checkpoints(folder / CHECKPOINTS)
        else "from the start"
    )
    return (
        f"`kvae train --resume --out {quote(str(folder))} --set training.learning_rate={slower:g}` goes on {where} "
        f"with a lower rate"
    )


def load_run(path: str | Path) -> Run:
    """Open a run folder; its model comes without an optimizer. Raises `ModelError` when it is none, unfinished or damaged."""
    path = Path(path)
    try:
        missing = [name for name in (CONFIG, MODEL) if not (path / name).is_file()]
    except OSError as error:
        raise ModelError(f"{path}: {describe_read_error(error)}") from error
    if CONFIG in missing:
        raise ModelError(
            f"{path}: not a run folder (it has no {CONFIG}); give the folder that `kvae train --out` wrote"
        )
    config = read_config(path)
    if MODEL in missing:
        diverged = divergence(path)
        if diverged:
            raise ModelError(
                f"{path}: the run has no {MODEL}: {describe_divergence(diverged)}; {divergence_advice(path, config)}"
            )
        raise ModelError(
            f"{path}: the run has no {MODEL} yet: its training has not finished; "
            f"go on with `kvae train --resume --out {quote(str(path))}`"
        )
    alphabet = read_vocabulary(path)
    if len(alphabet) != config.model.vocabulary_size:
        raise ModelError(
            f"{path}: {VOCABULARY} has {len(alphabet)} symbols, the model {config.model.vocabulary_size}"
        )
    model = load_model(path / MODEL, restore_advice(path))
    if model.model_config != config.model or model.objective_config != config.objective:
        raise ModelError(
            f"{path}: {MODEL} belongs to another run than {CONFIG}, their settings differ; take both from one run"
        )
    return Run(path, config, alphabet, model)


def restore_advice(path: Path) -> str:
    """The way out where the model of a run is damaged."""
    if list_checkpoints(path / CHECKPOINTS):
        return f"`kvae train --resume --out {quote(str(path))}` writes it anew from the newest checkpoint"
    return "take it from a copy; the run has no checkpoint that could restore it, so without a copy train it again"


def read_config(path: Path) -> Config:
    """The configuration of a run folder; raises `ModelError`."""
    found = read_json(
        path / CONFIG, "take it from a copy; TensorBoard shows it too, as the text `configuration`"
    )
    try:
        return Config.from_stored(found)
    except KvaeError as error:
        raise ModelError(
            f"{path / CONFIG}: {error}; open it with the version of kvae that trained it"
        ) from error


def read_vocabulary(path: Path) -> Alphabet:
    """The symbols of a run folder; raises `ModelError`."""
    way = "take it from a copy; the manifest of a bundle of this run holds it too, as `vocabulary`"
    found = read_json(path / VOCABULARY, way)
    try:
        return Alphabet.from_dict(found)
    except KvaeError as error:
        raise ModelError(f"{path / VOCABULARY}: {error}; {way}") from error


def read_epochs(metrics: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file that stand for whole epochs; a metric that was no finite number is None. Raises
    `ModelError`."""
    try:
        found = [parse_json(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{metrics}: damaged ({first_line(error)}); take it from a copy, or remove its last line"
        ) from error
    return [record for record in found if "diverged" not in record]


def read_json(path: Path, damaged: str) -> dict[str, Any]:
    """A JSON object of a run; raises `ModelError` that names the cause, with the way out `damaged` where the file is not what
    was written."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelError(
                f"{path}: {size:,} bytes, at most {MAX_JSON_BYTES:,} are read; {damaged}"
            )
        found = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: is not there; {damaged}") from error
    except OSError as error:
        raise ModelError(f"{path}: {describe_read_error(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: damaged, it is not the JSON that was written ({first_line(error)}); {damaged}"
        ) from error
    if not isinstance(found, dict):
        raise ModelError(
            f"{path}: damaged, it holds a {type(found).__name__} and no object; {damaged}"
        )
    return found


def parse_json(text: str | bytes) -> Any:
    """JSON as data; NaN and infinities, which older versions wrote, are None. Raises `ValueError` and `RecursionError`."""
    return json.loads(text, parse_constant=lambda _: None)


def to_json(data: Any, **options: Any) -> str:
    """Data as JSON that every reader takes: numbers that are not finite are null. `options` are those of `json.dumps`."""
    return json.dumps(nonfinite_to_none(data), ensure_ascii=False, allow_nan=False, **options)


def nonfinite_to_none(data: Any) -> Any:
    """Data with None for every number that is not finite."""
    if isinstance(data, Mapping):
        return {key: nonfinite_to_none(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [nonfinite_to_none(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_json(path: Path, data: Any) -> None:
    """Readable JSON, complete or not there. What of a path is not UTF-8 is written as JSON's own escapes."""
    text = to_json(data, indent=1) + "\n"
    partial = path.with_name(path.name + ".partial")
    with add_path_to_errors(path):
        try:
            partial.write_text(text, encoding="utf-8", errors="backslashreplace")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
