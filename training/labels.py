"""Labels of texts: their values, the numbers that a model sees, and the share that training sees."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvae.configuration import Config, DataConfig, nearest
from kvae.serving.errors import ConfigError, DataError

from .rules import COARSE, is_far, places_of, split_of


@dataclass(frozen=True)
class Lines:
    """Texts and, where there are labels, one for each; an empty label is a missing one."""

    texts: list[str]
    labels: list[str] | None = None

    def where(self, keep: Sequence[bool]) -> Lines:
        """The lines that are to be kept."""
        labels = None if self.labels is None else list(itertools.compress(self.labels, keep))
        return Lines(list(itertools.compress(self.texts, keep)), labels)


CORPUS_LABELS = "corpus"
"""What `data.labels` says when a named corpus labels its own texts."""

MOST_ATTRIBUTES = 100


def check_labels(data: DataConfig) -> None:
    """Refuse settings about labels that nothing would read."""
    if data.labels is None and (data.validation_labels or data.labelled_fraction < 1.0):
        raise ConfigError(
            "data.validation_labels and data.labelled_fraction need data.labels (--labels); give it too"
        )
    if data.validation_labels and data.validation is None:
        raise ConfigError(
            "data.validation_labels needs the texts they belong to: data.validation (--validation)"
        )


def with_attributes(config: Config, train: Lines, notes: list[str]) -> Config:
    """The configuration with the values of the label that texts to learn from have, in order of the alphabet."""
    if train.labels is None and config.model.attributes:
        raise ConfigError(
            "model.attributes follows from the labels: name them with data.labels (--labels), or leave it out"
        )
    if train.labels is None:
        return config
    counts = Counter(label for label in train.labels if label)
    if len(counts) < 2:
        raise DataError(
            f"data.labels: there must be at least two values of the label, got {sorted(counts)}"
        )
    if len(counts) > MOST_ATTRIBUTES:
        raise DataError(
            f"data.labels: {len(counts):,} values, at most {MOST_ATTRIBUTES} are supported; group them"
        )
    found = [f"{value!r} {count:,}" for value, count in sorted(counts.items())]
    missing = len(train.texts) - counts.total()
    notes.append(
        "labels to learn from: " + ", ".join(found + ([f"none {missing:,}"] if missing else []))
    )
    return config.with_settings({"model.attributes": sorted(counts)})


def without_new_labels(validation: Lines, train: Lines) -> Lines:
    """Held-out texts whose label no text to learn from has lose it: the model cannot know it."""
    if validation.labels is None or train.labels is None:
        return validation
    known = set(train.labels)
    return Lines(validation.texts, [label if label in known else "" for label in validation.labels])


def attribute_ids(config: Config, lines: Lines) -> np.ndarray | None:
    """Labels as indices into the model's attributes, (N,) int32, -1 where missing; None for a model without them."""
    if not config.model.attributes:
        return None
    index = {value: number for number, value in enumerate(config.model.attributes)} | {"": -1}
    labels = lines.labels or [""] * len(lines.texts)
    strange = sorted(set(labels) - index.keys())
    if strange:
        values = config.model.attributes
        raise DataError(
            f"labels: {strange[0]!r} is none the model was trained with{nearest(strange[0], values)}"
        )
    return np.array([index[label] for label in labels], np.int32)


def seen_labels(config: Config, train: Lines, notes: list[str]) -> np.ndarray | None:
    """The attributes that training may see: a share of `labelled_fraction`, chosen by the texts' hashes."""
    ids = attribute_ids(config, train)
    share = config.data.labelled_fraction
    if ids is not None and share < 1.0:
        labels = (ids >= 0).sum()
        ids = np.where(seen(config.data, train.texts, ids >= 0), ids, -1).astype(np.int32)
        found = f"training sees {(ids >= 0).sum():,} of the {labels:,} labels (data.labelled_fraction={share:g})"
        notes.append(
            f"{found}: {COARSE[config.data.split]}"
            if is_far((ids >= 0).sum() / labels, share)
            else found
        )
    if ids is not None and (ids < 0).any() and not config.objective.semi_supervised:
        raise ConfigError(
            f"{(ids < 0).sum():,} of {len(ids):,} texts to learn from have no label: learn from them too with "
            f"--set objective.semi_supervised=true, or label them"
        )
    blind = [
        value
        for number, value in enumerate(config.model.attributes)
        if ids is not None and number not in ids
    ]
    if blind:
        raise DataError(
            f"data.labelled_fraction={share:g}: training sees no text labelled {blind[0]!r}; show it more"
        )
    return ids


def seen(data: DataConfig, texts: Sequence[str], labelled: np.ndarray) -> np.ndarray:
    """Which of the texts (N,) may show the label that they have: a share of those, equal texts alike."""
    places = places_of(texts, data.split_seed, b"label")
    if data.split == "texts" or not data.labelled_fraction:
        return places < data.labelled_fraction
    return split_of(data.split, data.labelled_fraction, places[labelled]).chosen(places)


def note_guessed(attribute: np.ndarray | None, notes: list[str]) -> None:
    """Say what a missing label does to the bound."""
    if attribute is not None and (attribute < 0).any():
        notes.append(
            f"{(attribute < 0).sum():,} of {len(attribute):,} held-out texts have no label: it is guessed and paid for, their "
            f"bound is on -log p(text) instead of -log p(text | label)"
        )
