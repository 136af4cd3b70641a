"""Weights that a model begins with: those of another run, wherever it has weights of the same names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from kvae.configuration import Config, dotted_value
from kvae.model import TextVAE
from kvae.runs import EVALUATION, REPORT, load_run, read_config, read_json
from kvae.saved_models import load_model
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, ModelError

from .corpora import holds_lines_out

SPLIT = ("data.split", "data.split_seed", "data.validation_fraction")
"""Settings that the held-out lines of a corpus follow from."""

READER, WRITER = "reader/embedding/embeddings", "head/read_previous/rows/embeddings"
"""The vectors of symbols that an encoder reads, and those of the previous symbols that a head reads."""


def start_from(
    model: TextVAE, source: str | Path, alphabet: Alphabet, say: Callable[[str], None]
) -> None:
    """Give `model` the weights of `source`, a run folder or a `.keras` file, that have its own names and shapes; an encoder's
    vectors begin as those of the head where `source` has no encoder.

    `say` hears what was taken and what stays as it was drawn. Raises `ConfigError` when the symbols differ, an id would mean
    another one there, and `ModelError` when `source` does not load.
    """
    theirs = weights_of(loaded(Path(source), alphabet))
    if WRITER in theirs:
        theirs.setdefault(READER, theirs[WRITER])
    ours = weights_of(model)
    taken = {
        name
        for name, weight in ours.items()
        if name in theirs and theirs[name].shape == weight.shape
    }
    for name in taken:
        ours[name].assign(keras.ops.convert_to_numpy(theirs[name]))
    say(
        f"from {source}: {listed(ours, taken)}; drawn anew: {listed(ours, ours.keys() - taken) or 'nothing'}"
    )


def note_other_split(config: Config, source: str | Path, say: Callable[[str], None]) -> None:
    """Say where the run that this one begins with held out other lines of the same corpus, by their settings."""
    try:
        before = read_config(Path(source))
    except ModelError:
        return  # a `.keras` file, or a run that was moved
    ours, theirs = ({key: dotted_value(each, key) for key in SPLIT} for each in (config, before))
    if holds_lines_out(config) and config.data.source == before.data.source and ours != theirs:
        same = " ".join(
            f"--set {key}={value}" for key, value in theirs.items() if value is not None
        )
        say(
            f"{source} held out other lines of {config.data.source}: it may have learned some that are held out here, which "
            f"makes the bound too low; hold out the same ones with {same}"
        )


def note_gap(report: Mapping[str, Any], source: str | Path, say: Callable[[str], None]) -> None:
    """Say how far the bound of a run is from that of the run it began with, where both were measured on the same texts."""
    try:
        before = read_json(Path(source) / REPORT / EVALUATION, "")
    except ModelError:
        return  # a `.keras` file, or a run that was moved
    compared = all(math.isfinite(numbers.get("elbo") or math.nan) for numbers in (before, report))
    if compared and all(before.get(name) == report[name] for name in ("texts", "positions")):
        gap = report["elbo"] - before["elbo"]
        say(
            f"bound {report['elbo']:.2f} nats a text, {gap:+.2f} from the {before['elbo']:.2f} of {source}"
        )


def loaded(source: Path, alphabet: Alphabet) -> TextVAE:
    """The model of a run whose symbols are `alphabet`, or that of a `.keras` file with as many."""
    if source.suffix == ".keras":
        model = load_model(source, "take it from a copy, or give another")
        same = model.model_config.vocabulary_size == len(alphabet)
    else:
        run = load_run(source)
        model, same = run.model, run.alphabet.to_dict() == alphabet.to_dict()
    if not same:
        raise ConfigError(
            f"training.start_from {source}: has learned other symbols; train both on the same texts"
        )
    return model


def weights_of(model: TextVAE) -> dict[str, Any]:
    """Weights and statistics by name, as `head/classify/bias`; counters and random generators are no weights."""
    parts = [*model.parts.inference, *model.parts.generative]
    return {weight.path: weight for part in parts for weight in part.weights}


def listed(weights: Mapping[str, Any], names: set[str]) -> str:
    """Names in the model's order, one after the other."""
    return ", ".join(name for name in weights if name in names)
