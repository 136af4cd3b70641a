"""Results of runs side by side, read from their folders without Keras."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, overload

from kvae.configuration import Config, dotted_keys, dotted_value
from kvae.presets import PRESETS
from kvae.runs import (
    CONFIG,
    EVALUATION,
    METRICS,
    MODEL,
    REPORT,
    Run,
    describe_divergence,
    divergence,
    read_config,
    read_epochs,
    read_json,
)
from kvae.serving.errors import ConfigError, ModelError

from .figures import figure_axes

MEASURED = (
    "texts",
    "elbo",
    "bits_per_character",
    "reconstruction",
    "kl",
    "mutual_information",
    "mutual_information_ceiling",
    "active_units",
    "latent_size",
    "parameters",
)
"""Numbers of an evaluation that every result has; None where a run does not have them."""

FOUND_IN_THE_DATA = {
    "model.length",
    "model.vocabulary_size",
    "model.attributes",
    "model.tokenizer",
    "model.token_pattern",
}
"""Settings of a model that do not tell its preset: they follow the texts."""

LENGTH_OF_TRAINING = {
    f"training.{name}"
    for name in (
        "epochs",
        "steps",
        "steps_per_epoch",
        "checkpoint_steps",
        "jit_compile",
        "steps_per_execution",
        "devices",
    )
}
"""Settings that `changes` leaves out: `steps` and `minutes` show what they did."""

HELD_OUT_SETTINGS = {
    "source": "data.source",
    "validation": "data.validation",
    "column": "data.column",
    "mode": "data.mode",
    "validation_fraction": "data.validation_fraction",
    "split": "data.split",
    "split_seed": "data.split_seed",
    "texts": "number of held-out texts",
}
"""Parts of a result that decide which texts a run holds out, each with its name for readers."""


@overload
def results(runs: str | Path | Run) -> dict[str, Any]: ...  # type: ignore[overload-overlap]
@overload
def results(runs: Sequence[str | Path | Run]) -> list[dict[str, Any]]: ...
def results(runs: str | Path | Run | Sequence[str | Path | Run]) -> Any:
    """The result of a run as a flat dict, or of several runs as a list of dicts with equal keys.

    A run is its folder or what `load_run` returns. Its files are read, its model is not. Keys are
    `run` (the folder), `state` (`evaluated`, or why there are no numbers), `preset` (the nearest
    one) and `changes` (settings that differ from it), `tokenizer`, `labels` (whether the bound is
    given a label), the settings that choose the held-out texts, `steps` and `minutes` of training,
    `parameters`, and the numbers of the run's final evaluation, which `kvae.training.evaluation`
    explains in `UNITS`. A missing value is None. Raises `ModelError` for a folder that is no run,
    and for damaged files.
    """
    if isinstance(runs, str | Path | Run):
        return result_of(runs)
    found = [result_of(run) for run in runs]
    keys = dict.fromkeys(key for result in found for key in result)
    return [dict.fromkeys(keys) | result for result in found]


def result_of(run: str | Path | Run) -> dict[str, Any]:
    """`results` of one run."""
    folder = run.path if isinstance(run, Run) else Path(run)
    if not (folder / CONFIG).is_file():
        what = f"not a run folder (it has no {CONFIG})" if folder.exists() else "does not exist"
        raise ModelError(f"{folder}: {what}; give folders that `kvae train --out` wrote")
    config = read_config(folder)
    evaluation = evaluation_in(folder)
    name, changes = nearest_preset(config)
    data = {key: getattr(config.data, key) for key in HELD_OUT_SETTINGS if key != "texts"}
    return {
        "run": str(folder),
        "state": state_of(folder, evaluation),
        "preset": name,
        "changes": " ".join(f"{key}={setting_text(value)}" for key, value in changes.items()),
        "tokenizer": config.model.tokenizer,
        "labels": bool(config.model.attributes),
        **data,
        **training_in(folder),
        **dict.fromkeys(MEASURED),
        **evaluation,
    }


def evaluation_in(folder: Path) -> dict[str, Any]:
    """The numbers of the final evaluation of a run; empty if it has none."""
    file = folder / REPORT / EVALUATION
    if not file.exists():
        return {}
    found = read_json(file, "`kvae train --resume` evaluates the run again")
    texts = found.get("mutual_information_texts")
    # earlier versions stored the number of texts alone
    ceiling = {"mutual_information_ceiling": math.log(texts)} if texts and found.get("kl") else {}
    return {**ceiling, **found}


def state_of(folder: Path, evaluation: Mapping[str, Any]) -> str:
    """`evaluated`, or why a run has no numbers, with the way out."""
    if evaluation:
        return (
            "the bound is not finite; a lower training.learning_rate usually helps"
            if evaluation.get("elbo") is None
            else "evaluated"
        )
    found = divergence(folder)
    if found:
        return f"not evaluated: {describe_divergence(found)}"
    ended = (folder / MODEL).is_file()
    reason = "" if ended else ": training has not ended"
    return f"not evaluated{reason}; `kvae train --resume --out {quote(str(folder))}` goes on"


def training_in(folder: Path) -> dict[str, Any]:
    """Steps and minutes of training up to the last complete epoch, None before the first."""
    last = read_epochs(folder / METRICS)[-1:]
    seconds = last[0].get("seconds") if last else None
    return {
        "steps": last[0].get("step") if last else None,
        "minutes": None if seconds is None else round(seconds / 60, 2),
    }


def nearest_preset(config: Config) -> tuple[str, dict[str, Any]]:
    """The preset that a configuration is nearest to, and the settings that differ from it.

    The nearest has the fewest differences of model and objective, then of training. Settings that
    follow the texts, and the length of training, are not compared. A preset with a token pattern,
    for instance for molecules, is considered only if the run has the same pattern.
    """
    keys = [
        key
        for key in dotted_keys()
        if not key.startswith("data.") and key not in FOUND_IN_THE_DATA | LENGTH_OF_TRAINING
    ]
    values = {key: dotted_value(config, key) for key in keys}

    def changes_from(name: str) -> list[str]:
        base = PRESETS[name].config
        return [key for key in keys if dotted_value(base, key) != values[key]]

    def distance(name: str) -> tuple[int, int]:
        of_training = [key.startswith("training.") for key in changes_from(name)]
        return of_training.count(False), of_training.count(True)

    patterns = ("", config.model.token_pattern)
    names = [name for name, item in PRESETS.items() if item.config.model.token_pattern in patterns]
    nearest = min(names, key=distance)
    return nearest, {key: values[key] for key in changes_from(nearest)}


def setting_text(value: Any) -> str:
    """A value of a setting as `--set` takes it, without spaces."""
    if isinstance(value, tuple):
        return f"[{','.join(map(setting_text, value))}]"
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def comparison_notes(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on what cannot be compared between the evaluated ones of several results."""
    measured = [result for result in found if result["elbo"] is not None]
    notes = []
    differing = [
        name
        for key, name in HELD_OUT_SETTINGS.items()
        if len({str(result[key]) for result in measured}) > 1
    ]
    if differing:
        notes.append(
            f"The runs have different held-out texts ({', '.join(differing)}), so their nats are "
            "not comparable. Bits per character have one unit, but depend on the texts too. "
            "`kvae evaluate RUN --data FILE` measures each run on the same texts."
        )
    if len({result["tokenizer"] for result in measured}) > 1:
        notes.append(
            "The runs have different tokenizers, so their nats are not comparable; bits per "
            "character are."
        )
    if len({result["labels"] for result in measured}) > 1:
        notes.append(
            "Some runs are trained with labels: their bound is on -log p(text given label), that "
            "of the others on -log p(text)."
        )
    return notes


def draw_rate_and_distortion(found: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw the runs as points, rate (KL) against distortion (reconstruction), into a PNG.

    Both axes are in nats per sequence. On a dotted line the bound, their sum, is constant (Alemi
    et al. 2018). Raises `ConfigError` if no run has both numbers.
    """
    points = [
        result
        for result in found
        if result["kl"] is not None and result["reconstruction"] is not None
    ]
    if not points:
        raise ConfigError(
            f"{picture}: none of the runs is evaluated, so there is nothing to draw; finish one "
            "with `kvae train --resume --out RUN`"
        )
    with figure_axes(picture, width=7.0, height=5.0) as (axis,):
        for color, point in enumerate(points):
            axis.plot(point["kl"], point["reconstruction"], "o", color=f"C{color}")
            axis.annotate(
                Path(point["run"]).name,
                (point["kl"], point["reconstruction"]),
                xytext=(5, 5),
                textcoords="offset points",
                size=8,
            )
        axis.margins(0.15)
        axis.set(
            xlabel="rate: KL (nats per sequence, held out)",
            ylabel="distortion: reconstruction (nats per sequence, held out)",
        )
        axis.autoscale_view()
        axis.autoscale(False)  # the lines below do not change the limits
        for point in points:
            corner = point["kl"], point["reconstruction"]
            axis.axline(corner, slope=-1.0, color="0.8", linestyle=":", linewidth=0.8, zorder=0)
