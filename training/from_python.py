"""A run from Python: train on prepared data, and measure a run on texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kvae.misfits import check_training
from kvae.runs import CONFIG, Run

from .data.prepare import Prepared, held_out
from .evaluation import evaluate
from .experiment import resume, run
from .messages import Say
from .ngram import character_count


def fit_run(
    prepared: Prepared,
    out: str | Path,
    say: Say = print,
    overwrite: bool = False,
    resumes: bool = False,
) -> Run:
    """Train a run on prepared data in the folder `out`, as `kvae train` does.

    With `resumes` a run in `out` is continued; it must have been prepared from the same texts.
    Raises what `run` and `resume` raise.
    """
    check_training(prepared.config)
    if resumes and (Path(out) / CONFIG).is_file():
        return resume(prepared.config, out, say, prepared)[0]
    return run(prepared.config, out, say, overwrite, prepared)[0]


def evaluate_run(
    trained: Run,
    texts: Any = None,
    labels: Any = None,
    importance_samples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The metrics of a run on `texts`, or on its held-out texts, as `training.evaluation.UNITS`
    explains them. `importance_samples` is that of `training.evaluation.evaluate`.

    `texts` and `labels` are what `prepare` takes. Texts that are too long are cut, dropped or
    refused as in training. Raises `ConfigError` or `DataError`.
    """
    config = trained.config
    data = held_out(config, trained.alphabet, labels=labels, texts=texts)
    return evaluate(
        trained.model,
        data.rows,
        seed=seed,
        attribute=data.attribute,
        importance_samples=importance_samples,
        characters=character_count(data.texts, config.data.reading.has_end),
    )
