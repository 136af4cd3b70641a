"""What the codes of a model say about labels that it has never seen: `kvae probe`.

A linear classifier and the nearest neighbours on posterior means, beside bag of words, latent
semantic analysis and the majority label. docs/probe.md explains the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.runs import Run
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.steps import backend_steps
from kvae.tensors import Tensor
from kvae.texts.records import Records

from .data.batches import ordered_rows
from .data.held_out import texts_and_rows, texts_of
from .data.labels import MOST_ATTRIBUTES
from .data.named_corpora import CORPORA
from .data.sources import CORPUS_LABELS, source_of, training_source, validation_source
from .data.splits import Places, text_hashes
from .data.tokenizers import note_unknown
from .evaluation import evenly_spaced
from .logistic_regression import fit
from .messages import Say, quiet
from .text_features import (
    inverse_document_frequencies,
    log_counts,
    right_singular_vectors,
    tf_idf,
    vocabulary,
)
from .text_metrics import unit_of

TEST_FRACTION, VALIDATION_FRACTION = 0.2, 0.1
"""The share of the texts that is tested, unless the run holds out some; the share of the others
that chooses the penalty."""

NEIGHBOURS = 10
"""Nearest codes whose labels are compared with that of a text."""

UNSEEN = "the texts that the run holds out"
BY_HASH = f"{TEST_FRACTION:.0%} of the texts, by their hash"
"""Where the test texts come from."""


@dataclass(frozen=True)
class Part:
    """Labelled texts: the texts, their rows of tokens (N, T) and their classes (N,)."""

    texts: list[str]
    rows: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Labelled:
    """Labelled texts in three parts; no text is in two of them. `labels` are the names of the
    classes."""

    train: Part
    validation: Part
    test: Part
    labels: tuple[str, ...]
    test_source: str
    notes: tuple[str, ...]


def labelled_texts(
    trained: Run,
    config: Config,
    file: str | None = None,
    labels: str | None = None,
    label_column: str = "",
    most: int = 0,
) -> Labelled:
    """The labelled texts of a run's corpus, or of `file`, in three parts.

    `config` is that of the run, with the format and column of `file`. Labels are the lines of the
    file `labels`, a column, or those of a named corpus. The test part of the run's corpus is what
    the run holds out of it, so that neither model nor classifier has seen it; else it is
    `TEST_FRACTION` of the texts, by their hash. At most `most` texts are used (0: all), at equal
    distances. Texts without a label are left out. Raises `ConfigError` or `DataError`.
    """
    name = file or config.data.source
    if not (labels or label_column):
        labels = own_labels(name)
    if file is None:
        training_source(config)  # refuses texts that were given from Python
    source = source_of(config, name, labels, label_column)
    records = texts_of(config, source)
    notes = list(source.notes)
    if file is not None:
        note_unknown(trained.alphabet, trained.alphabet.unknown(records.texts), notes)
    own = file is None and validation_source(config) is None
    test = held_out_by_run(config, records) if own else selected(config, records, b"probe")
    used = used_texts(name, records, most, notes)
    records, test = records.where(used.tolist()), test[used]
    names = class_names(name, records.labels or [])
    rest = records.where((~test).tolist())
    check_parts(name, [rest.texts, records.where(test.tolist()).texts])
    validation = selected(config, rest, b"probe validation", VALIDATION_FRACTION)
    train, validated, tested = (
        part_of(config, trained.alphabet, part, names, name, notes)
        for part in (
            rest.where((~validation).tolist()),
            rest.where(validation.tolist()),
            records.where(test.tolist()),
        )
    )
    check_parts(name, [part.texts for part in (train, validated, tested)], train.classes)
    where = UNSEEN if own else BY_HASH
    return Labelled(train, validated, tested, names, where, tuple(dict.fromkeys(notes)))


def own_labels(name: str) -> str:
    """`data.labels` of a named corpus with labels of its own; raises `ConfigError` for others."""
    if name not in CORPORA or CORPORA[name].label is None:
        raise ConfigError(
            f"{name} has no labels of its own; give them with --labels FILE, or --label-column for "
            "a table"
        )
    return CORPUS_LABELS


def used_texts(name: str, records: Records, most: int, notes: list[str]) -> np.ndarray:
    """Whether each text is used, (N,) bool: at most `most` of those with a label (0: all)."""
    known = np.array([bool(label) for label in records.labels or ()])
    if not known.all():
        notes.append(f"{name}: {(~known).sum():,} texts without a label are left out")
    places = np.flatnonzero(known)
    used = np.zeros(len(known), bool)
    used[evenly_spaced(places, most) if most and len(places) else places] = True
    return used


def held_out_by_run(config: Config, records: Records) -> np.ndarray:
    """Whether a run holds out each text of its corpus, (N,) bool."""
    return by_hash(config, records, config.data.validation_fraction, b"")


def selected(
    config: Config, records: Records, purpose: bytes, fraction: float = TEST_FRACTION
) -> np.ndarray:
    """Whether each text belongs to a part for `purpose`, (N,) bool."""
    return by_hash(config, records, fraction, purpose)


def by_hash(config: Config, records: Records, fraction: float, purpose: bytes) -> np.ndarray:
    """Whether each text is in a part of `fraction` of the lines, (N,) bool; equal texts are treated
    alike."""
    hashes = text_hashes(records.texts, config.data.split_seed, purpose)
    places = Places(fraction)
    places.add(hashes)
    return np.asarray(places.split(config.data.split).contains(hashes))


def class_names(name: str, labels: Sequence[str]) -> tuple[str, ...]:
    """The different labels, sorted. Raises `DataError` if they are fewer than two or too many."""
    names = tuple(sorted(set(labels)))
    if not 2 <= len(names) <= MOST_ATTRIBUTES:
        raise DataError(
            f"{name}: {len(names):,} different labels, the probe takes 2 to {MOST_ATTRIBUTES}; "
            + ("give other labels" if len(names) < 2 else "group them")
        )
    return names


def part_of(
    config: Config,
    alphabet: Alphabet,
    records: Records,
    names: tuple[str, ...],
    name: str,
    notes: list[str],
) -> Part:
    """A part of the labelled texts as the model reads them, cut or dropped as in training."""
    number = {label: index for index, label in enumerate(names)}
    kept, rows = texts_and_rows(config, alphabet, records, name, notes)
    classes = np.array([number[label] for label in kept.labels or ()], np.int64)
    return Part(kept.texts, rows, classes)


def check_parts(
    name: str, parts: Sequence[Sequence[str]], classes: np.ndarray | None = None
) -> None:
    """Raise `DataError` if a part has no text, or the `classes` of training are all equal."""
    if not all(map(len, parts)) or (classes is not None and len(np.unique(classes)) < 2):
        raise DataError(
            f"{name}: too few labelled texts to train a classifier and to test it; give more"
        )


def check_model(trained: Run) -> None:
    """Raise `ConfigError` for a model whose code says nothing about labels by its making."""
    if not trained.config.model.has_code:
        raise ConfigError(f"{trained.path}: a language model has no codes; probe another run")
    if trained.config.model.attributes:
        raise ConfigError(
            f"{trained.path}: was trained with labels, so its codes leave out what they say; probe "
            "a run that was trained without --labels"
        )


def posterior_means(model: TextVAE, rows: np.ndarray, batch_size: int = 512) -> np.ndarray:
    """The posterior means of all levels, bottom first, (N, d) float64, of tokens (N, T).

    In a ladder, a level below the top is given the mean of the level above.
    """
    model = model.in_float32()

    def means(tokens: Tensor) -> dict[str, Tensor]:
        levels, _ = model.parts.levels(tokens)
        noise = keras.ops.zeros((keras.ops.shape(tokens)[0], 1))
        return {
            "mean": model.hierarchy.concatenated([level.posterior.mean for level in levels], noise)
        }

    inputs = [keras.Input((model.model_config.length,), dtype="int32")]
    run = backend_steps().compiled(model, means, inputs)
    batches = [run(tokens)["mean"] for tokens in ordered_rows(rows, batch_size)]
    return np.concatenate(batches).astype(np.float64)


def probe(trained: Run, data: Labelled, say: Say = quiet) -> dict[str, Any]:
    """Accuracies on the test part, by the features of the classifier.

    Each of `codes`, `lsa`, `bag_of_words` and `majority` has `accuracy` and its `standard_error`,
    sqrt(a (1 - a) / N). `agreement` is the share of the `neighbours` nearest training texts by
    cosine that have the label of a test text; that of `majority` is the agreement of texts drawn at
    random. `penalty` is the L2 penalty that the validation part chose.
    """
    check_model(trained)
    parts = (data.train, data.validation, data.test)
    say(f"encoding {sum(len(part.texts) for part in parts):,} texts")
    codes = [posterior_means(trained.model, part.rows) for part in parts]
    unit = unit_of(data.train.texts)
    columns = vocabulary(data.train.texts, unit)
    counts = [log_counts(part.texts, unit, columns) for part in parts]
    frequencies = inverse_document_frequencies(counts[0])
    weighted = [tf_idf(each, frequencies) for each in counts]
    say(f"decomposing a vocabulary of {len(columns):,} {unit}")
    directions = right_singular_vectors(weighted[0], codes[0].shape[1])
    lsa = [each @ directions for each in weighted]
    say("fitting the classifiers")
    return {
        "texts": {
            "train": len(data.train.texts),
            "validation": len(data.validation.texts),
            "test": len(data.test.texts),
        },
        "test_source": data.test_source,
        "labels": label_counts(data),
        "neighbours": min(NEIGHBOURS, len(data.train.texts)),
        "text_unit": unit,
        "features": {
            "codes": dense_results(codes, data),
            "lsa": dense_results(lsa, data),
            "bag_of_words": linear_result(counts, data),
            "majority": majority_result(data),
        },
    }


def label_counts(data: Labelled) -> dict[str, int]:
    """The number of test texts of each label."""
    counts = np.bincount(data.test.classes, minlength=len(data.labels))
    return dict(zip(data.labels, counts.tolist(), strict=True))


def linear_result(features: list[Any], data: Labelled) -> dict[str, Any]:
    """The accuracy of logistic regression on features of the three parts, (N, M) each."""
    train, validation, test = features
    classifier = fit(
        (train, data.train.classes), (validation, data.validation.classes), len(data.labels)
    )
    return {
        "dimensions": train.shape[1],
        **accuracy_of(classifier.predict(test) == data.test.classes),
        "penalty": classifier.penalty,
    }


def dense_results(features: list[np.ndarray], data: Labelled) -> dict[str, Any]:
    """`linear_result`, and the agreement of the nearest neighbours."""
    agreement = neighbour_agreement(
        (features[0], data.train.classes), (features[2], data.test.classes)
    )
    return {**linear_result(features, data), "agreement": agreement}


def majority_result(data: Labelled) -> dict[str, Any]:
    """The accuracy of the most frequent training label, and the agreement of random texts."""
    shares = [
        np.bincount(part.classes, minlength=len(data.labels)) / len(part.classes)
        for part in (data.train, data.test)
    ]
    return {
        "dimensions": 0,
        **accuracy_of(data.test.classes == shares[0].argmax()),
        "agreement": float(shares[0] @ shares[1]),
    }


def accuracy_of(correct: np.ndarray) -> dict[str, float]:
    """The accuracy of predictions that are `correct` (N,) bool, and its standard error."""
    share = float(correct.mean())
    return {
        "accuracy": share,
        "standard_error": math.sqrt(share * (1.0 - share) / len(correct)),
    }


def neighbour_agreement(
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    neighbours: int = NEIGHBOURS,
) -> float:
    """The share of the nearest training rows by cosine that have the class of a test row.

    Both are features (N, d) and classes (N,).
    """
    known, classes = unit_rows(train[0]), train[1]
    count = min(neighbours, len(known))
    agreeing = 0
    for start in range(0, len(test[0]), 500):
        cosines = unit_rows(test[0][start : start + 500]) @ known.T
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        agreeing += int((classes[nearest] == test[1][start : start + 500, None]).sum())
    return agreeing / (count * len(test[0]))


def unit_rows(features: np.ndarray) -> np.ndarray:
    """The rows of features (N, d) with Euclidean norm 1; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)


FEATURES: Mapping[str, str] = {
    "codes": "posterior means",
    "lsa": "latent semantic analysis",
    "bag_of_words": "bag of words",
    "majority": "most frequent label",
}
"""The rows of the result, each with its name for readers."""
