"""Initial weights of a model from another run: those with the same names and shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import keras

from kvae.configuration import Config, dotted_value
from kvae.model import TextVAE
from kvae.runs import EVALUATION, REPORT, load_run, read_config, read_json
from kvae.saved_models import load_model
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, ModelError

from .data.corpora import holds_lines_out
from .data.preset_tokenizers import preset_folders
from .pretrained import pretrained_weights

SPLIT = ("data.split", "data.split_seed", "data.validation_fraction")
"""Settings that determine the held-out lines of a corpus."""

ENCODER_EMBEDDING = "reader/embedding/embeddings"
HEAD_EMBEDDING = "head/read_previous/rows/embeddings"
"""Paths of the token embeddings of an encoder, and of those of the previous token in a head."""


def start_from(
    model: TextVAE, source: str | Path, alphabet: Alphabet, say: Callable[[str], None]
) -> None:
    """Initialise `model` with those weights of `source` that have the same names and shapes.

    `source` is a run folder, a `.keras` file, or `keras-nlp:` and the folders of one or two
    presets. If it has no encoder, the token embedding of the encoder is that of the head.
    `say` gets a sentence about which weights were copied, which keep their random values, and which
    have another shape in the source. Raises `ConfigError` if the vocabularies differ, since ids
    would then mean different symbols, and `ModelError` if `source` does not load.
    """
    source_weights: Mapping[str, Any] = {
        path: weight
        for folder in preset_folders(str(source))
        for path, weight in pretrained_weights(folder, model.model_config, alphabet).items()
    } or weights_of(load_source(Path(source), alphabet))
    if HEAD_EMBEDDING in source_weights:
        source_weights = {ENCODER_EMBEDDING: source_weights[HEAD_EMBEDDING], **source_weights}
    weights = weights_of(model)
    copied = {
        name
        for name, weight in weights.items()
        if name in source_weights and source_weights[name].shape == weight.shape
    }
    for name in copied:
        weights[name].assign(keras.ops.convert_to_numpy(source_weights[name]))
    differing = (source_weights.keys() & weights.keys()) - copied
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(source_weights[name].shape)}"
        for name in weights
        if name in differing
    ]
    if shapes:
        say(f"other shapes than in {source}: {', '.join(shapes)}")
    others = joined_names(weights, weights.keys() - copied) or "nothing"
    say(f"from {source}: {joined_names(weights, copied) or 'nothing'}; drawn anew: {others}")


def note_other_split(config: Config, source: str | Path, say: Callable[[str], None]) -> None:
    """Say so if the run in `source` held out other lines of the same corpus, by its settings."""
    try:
        source_config = read_config(Path(source))
    except ModelError:
        return  # a `.keras` file, or a run that was moved
    split, source_split = (
        {key: dotted_value(each, key) for key in SPLIT} for each in (config, source_config)
    )
    same_corpus = holds_lines_out(config) and config.data.source == source_config.data.source
    if same_corpus and split != source_split:
        options = " ".join(
            f"--set {key}={value}" for key, value in source_split.items() if value is not None
        )
        say(
            f"{source} held out other lines of {config.data.source}: it may have been trained on "
            f"lines that are held out here, which makes the bound too low; "
            f"hold out the same ones with {options}"
        )


def note_gap(report: Mapping[str, Any], source: str | Path, say: Callable[[str], None]) -> None:
    """Say how the bound of a run compares with that of `source`, if both had the same texts."""
    try:
        source_report = read_json(Path(source) / REPORT / EVALUATION, "")
    except ModelError:
        return  # a `.keras` file, or a run that was moved
    bounds = [each.get("elbo") or math.nan for each in (report, source_report)]
    same_texts = all(source_report.get(name) == report[name] for name in ("texts", "positions"))
    if all(map(math.isfinite, bounds)) and same_texts:
        bound, source_bound = bounds
        say(
            f"bound {bound:.2f} nats per text, {bound - source_bound:+.2f} from the "
            f"{source_bound:.2f} of {source}"
        )


def load_source(source: Path, alphabet: Alphabet) -> TextVAE:
    """The model of a run folder with the vocabulary `alphabet`, or of a `.keras` file.

    A `.keras` file has no vocabulary, so only its size is compared. Raises `ConfigError` for
    another vocabulary.
    """
    if source.suffix == ".keras":
        model = load_model(source, "take it from a copy, or give another")
        same_symbols = model.model_config.vocabulary_size == len(alphabet)
    else:
        run = load_run(source)
        model, same_symbols = run.model, run.alphabet.to_dict() == alphabet.to_dict()
    if not same_symbols:
        raise ConfigError(
            f"training.start_from {source}: has learned other symbols; train both on the same texts"
        )
    return model


def weights_of(model: TextVAE) -> dict[str, keras.Variable]:
    """Weights and moving statistics by path, such as `head/classify/bias`.

    Counters and random generators are left out.
    """
    parts = [*model.parts.inference, *model.parts.generative]
    return {weight.path: weight for part in parts for weight in part.weights}


def joined_names(weights: Mapping[str, keras.Variable], names: Set[str]) -> str:
    """The names in `names`, in the order of `weights`, separated by commas."""
    return ", ".join(name for name in weights if name in names)
