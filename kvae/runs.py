"""The run folder: the names of its files, and functions that read them."""

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
from kvae.serving.errors import CheckFailed, KvaeError, ModelError, first_line

from .configuration import Config, TrainingConfig
from .saved_models import describe_read_error, load_model
from .writing import write_text

if TYPE_CHECKING:
    from .model import TextVAE

CONFIG, VOCABULARY, MODEL = "config.json", "vocabulary.json", "model.keras"
METRICS, LOGS, REPORT, CHECKPOINTS = "metrics.jsonl", "logs", "report", "checkpoints"
EVALUATION = "evaluation.json"
REPORT_JSON, REPORT_PAGE = "report.json", "report.html"
"""Files of the report at the end of a run, in the folder `REPORT`."""

IDENTITY = "run.json"
"""Holds the identity of the run, which its checkpoints repeat."""

DIVERGED = "diverged.json"
"""Exists if the last training of the run diverged: {"step", "what"}, `what` being not finite."""

MAX_JSON_BYTES = 2**28
"""Largest JSON file of a run that is read. A vocabulary of a million words needs a tenth of it."""


@dataclass(frozen=True, repr=False)
class Run:
    """The contents of a run folder."""

    path: Path
    config: Config
    alphabet: Alphabet
    model: TextVAE

    def __repr__(self) -> str:
        return f"<Run {str(self.path)!r} on {self.config.data.source!r}: {self.model!r}>"

    @property
    def evaluation(self) -> dict[str, Any]:
        """The finite numbers of the final evaluation; empty if training has not ended."""
        file = self.path / REPORT / EVALUATION
        if not file.exists():
            return {}
        advice = f"`kvae train --resume --out {quote(str(self.path))}` evaluates the run again"
        numbers = read_json(file, advice)
        return {name: value for name, value in numbers.items() if value is not None}

    @property
    def temperature(self) -> float:
        """The temperature whose samples are closest to the corpus, as the report at the end of the
        run measured it; 1 without a report."""
        file = self.path / REPORT / REPORT_JSON
        if not file.exists():
            return 1.0
        advice = "remove this file; bundles then sample at temperature 1"
        temperature = read_json(file, advice).get("temperature", 1.0)
        if not isinstance(temperature, int | float):
            raise ModelError(
                f"{file}: temperature must be a number, got {temperature!r:.80}; {advice}"
            )
        return temperature


def check_bound(run: Run) -> None:
    """Raise `CheckFailed` if the held-out bound of a run is not finite and so not comparable."""
    if "elbo" not in run.evaluation:
        raise CheckFailed(
            f"{run.path}: the bound on its held-out texts is not finite; "
            f"a lower training.learning_rate usually helps"
        )


def steps_behind(run: Run) -> int:
    """Training steps by which the model of a run is behind its newest checkpoint.

    It is above 0 after a resumed run was killed.
    """
    newest = max(map(checkpoint_step, list_checkpoints(run.path / CHECKPOINTS)), default=0)
    return max(0, newest - int(run.model.training_steps))


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; files with other names are ignored."""
    return sorted(
        (path for path in folder.glob("step-*.npz") if CHECKPOINT_NAME.fullmatch(path.name)),
        key=checkpoint_step,
    )


CHECKPOINT_NAME = re.compile(r"step-([0-9]{1,12})\.npz")


def checkpoint_step(checkpoint: Path) -> int:
    """The training step in the name of a checkpoint."""
    match = CHECKPOINT_NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else 0


def divergence(folder: Path) -> dict[str, Any] | None:
    """Where the last training of a run diverged, {"step", "what"}.

    None if it did not diverge, or if training has gone on since.
    """
    file = folder / DIVERGED
    if not file.is_file():
        return None
    advice = "remove this file, it only records that training diverged"
    return {"step": 0, "what": "not known", **read_json(file, advice)}


def describe_divergence(found: Mapping[str, Any]) -> str:
    """A result of `divergence` as a clause for messages."""
    return f"training diverged at step {found['step']:,} ({found['what']})"


def divergence_advice(folder: Path, config: Config) -> str:
    """What to do with a run that diverged: the command that continues it with a lower rate."""
    rate = min(config.training.learning_rate / 4, TrainingConfig().learning_rate)
    has_checkpoint = list_checkpoints(folder / CHECKPOINTS)
    start = "from its last good checkpoint" if has_checkpoint else "from the start"
    return (
        f"`kvae train --resume --out {quote(str(folder))} --set training.learning_rate={rate:g}` "
        f"goes on {start} with a lower rate"
    )


def load_run(path: str | Path) -> Run:
    """Open a run folder; its model has no optimizer.

    Raises `ModelError` if the folder is not a run, or if the run is unfinished or damaged.
    """
    path = Path(path)
    try:
        missing = [name for name in (CONFIG, MODEL) if not (path / name).is_file()]
    except OSError as error:
        raise ModelError(f"{path}: {describe_read_error(error)}") from error
    if CONFIG in missing:
        raise ModelError(
            f"{path}: not a run folder (it has no {CONFIG}); "
            f"give the folder that `kvae train --out` wrote"
        )
    config = read_config(path)
    if MODEL in missing:
        diverged = divergence(path)
        if diverged:
            raise ModelError(
                f"{path}: the run has no {MODEL}: {describe_divergence(diverged)}; "
                f"{divergence_advice(path, config)}"
            )
        raise ModelError(
            f"{path}: the run has no {MODEL} yet: its training has not finished; "
            f"go on with `kvae train --resume --out {quote(str(path))}`"
        )
    alphabet = read_vocabulary(path)
    if len(alphabet) != config.model.vocabulary_size:
        raise ModelError(
            f"{path}: {VOCABULARY} has {len(alphabet)} symbols, "
            f"the model {config.model.vocabulary_size}; take both from one run"
        )
    model = load_model(path / MODEL, restore_advice(path))
    if model.model_config != config.model or model.objective_config != config.objective:
        raise ModelError(
            f"{path}: {MODEL} belongs to another run than {CONFIG}, their settings differ; "
            f"take both from one run"
        )
    return Run(path, config, alphabet, model)


def restore_advice(path: Path) -> str:
    """What to do if the model of a run is damaged."""
    if list_checkpoints(path / CHECKPOINTS):
        command = f"kvae train --resume --out {quote(str(path))}"
        return f"`{command}` restores it from the newest checkpoint"
    return (
        "take it from a backup; the run has no checkpoint to restore it from, "
        "so without a backup train it again"
    )


def read_config(path: Path) -> Config:
    """The configuration of a run folder; raises `ModelError`."""
    advice = "take it from a backup; TensorBoard shows it too, as the text `configuration`"
    stored = read_json(path / CONFIG, advice)
    try:
        return Config.from_stored(stored)
    except KvaeError as error:
        raise ModelError(
            f"{path / CONFIG}: {error}; open it with the version of kvae that trained it"
        ) from error


def read_vocabulary(path: Path) -> Alphabet:
    """The alphabet of a run folder; raises `ModelError`."""
    advice = (
        "take it from a backup; the manifest of a bundle of this run holds it too, as `vocabulary`"
    )
    stored = read_json(path / VOCABULARY, advice)
    try:
        return Alphabet.from_dict(stored)
    except KvaeError as error:
        raise ModelError(f"{path / VOCABULARY}: {error}; {advice}") from error


def read_epochs(metrics: Path) -> list[dict[str, Any]]:
    """The records of complete epochs in a metrics file; metrics that were not finite are None.

    There are none, and maybe no file, before the first epoch has ended. Raises `ModelError`.
    """
    if not metrics.exists():
        return []
    try:
        records = [parse_json(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{metrics}: damaged ({first_line(error)}); "
            f"take it from a backup, or remove its last line"
        ) from error
    return [record for record in records if "diverged" not in record]


def read_json(path: Path, damaged: str) -> dict[str, Any]:
    """Read a JSON object of a run.

    Raises `ModelError` that names the cause. If the file is missing, too large or damaged, the
    message ends with the caller's advice `damaged`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise ModelError(
                f"{path}: {size:,} bytes, at most {MAX_JSON_BYTES:,} are read; {damaged}"
            )
        content = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{path}: does not exist; {damaged}") from error
    except OSError as error:
        raise ModelError(f"{path}: {describe_read_error(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: damaged, it is not valid JSON ({first_line(error)}); {damaged}"
        ) from error
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: damaged, it holds a {type(content).__name__}, not an object; {damaged}"
        )
    return content


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; NaN and infinities, which older versions wrote, become None.

    Raises `ValueError` and `RecursionError`.
    """
    return json.loads(text, parse_constant=lambda _: None)


def to_json(data: Any, **options: Any) -> str:
    """Data as strictly valid JSON: numbers that are not finite become null.

    `options` are those of `json.dumps`.
    """
    return json.dumps(nonfinite_to_none(data), ensure_ascii=False, allow_nan=False, **options)


def nonfinite_to_none(data: Any) -> Any:
    """The data with None in place of every number that is not finite."""
    if isinstance(data, Mapping):
        return {key: nonfinite_to_none(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [nonfinite_to_none(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def write_json(path: Path, data: Any) -> None:
    """Write indented JSON; the file appears complete or not at all.

    Bytes of a path that are not UTF-8 are written as JSON escapes.
    """
    write_text(path, to_json(data, indent=1) + "\n", errors="backslashreplace")
