"""The run folder: which file is where, and how a trained model is found again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, KvaeError, ModelError

from .configuration import Config
from .disk import writing

if TYPE_CHECKING:
    from .model import TextVAE

CONFIG, VOCABULARY, MODEL = "config.json", "vocabulary.json", "model.keras"
METRICS, LOGS, REPORT, CHECKPOINTS = "metrics.jsonl", "logs", "report", "checkpoints"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    config: Config
    alphabet: Alphabet
    model: TextVAE

    @property
    def evaluation(self) -> dict[str, Any]:
        """The numbers written when training ended; empty if it has not."""
        file = self.path / REPORT / EVALUATION
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        except ValueError as error:
            raise ModelError(
                f"{file}: damaged ({error}); write it anew with `kvae evaluate {quote(str(self.path))} --json`"
            ) from error


def steps_behind(run: Run) -> int:
    """Training steps that the newest checkpoint of a run is ahead of its model, as after a resumed run was killed."""
    newest = max((int(path.stem.partition("-")[2]) for path in (run.path / CHECKPOINTS).glob("step-*.npz")), default=0)
    return max(0, newest - int(run.model.training_steps))


def load_run(path: str | Path) -> Run:
    """Open a run folder; raises `ModelError` when it is none, unfinished or damaged."""
    import keras

    from . import model as _registers_the_class  # noqa: F401

    path = Path(path)
    if not (path / CONFIG).is_file():
        raise ModelError(
            f"{path}: not a run folder (it has no {CONFIG}); give the folder that `kvae train --out` wrote"
        )
    if not (path / MODEL).is_file():
        raise ModelError(
            f"{path}: the run has no {MODEL} yet: its training has not finished; "
            f"go on with `kvae train --resume --out {quote(str(path))}`"
        )
    try:
        config = Config.from_dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
        alphabet = Alphabet.from_dict(json.loads((path / VOCABULARY).read_text(encoding="utf-8")))
        model = keras.saving.load_model(path / MODEL)
    except ConfigError as error:
        raise ModelError(f"{path}: {error}") from error
    except KvaeError:
        raise
    except Exception as error:  # zip, h5, json and keras raise errors without a common base
        raise ModelError(
            f"{path}: damaged, it does not load ({str(error).splitlines()[0][:160]}); train it again"
        ) from error
    if len(alphabet) != config.model.vocabulary_size:
        raise ModelError(f"{path}: {VOCABULARY} has {len(alphabet)} symbols, the model {config.model.vocabulary_size}")
    return Run(path, config, alphabet, model)


def write_json(path: Path, data: Any) -> None:
    """Readable JSON, complete or not there."""
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
