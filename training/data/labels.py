"""Labels of texts: their values, their indices for the model, and the labels that training may
see."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvae.configuration import Config, DataConfig
from kvae.sections import nearest
from kvae.serving.errors import ConfigError, DataError

from .rules import OFF_TARGET_REASONS, is_far, split_of, text_hashes


@dataclass(frozen=True)
class Lines:
    """Texts and, if the corpus is labelled, a label for each. An empty label means that it is
    unknown."""

    texts: list[str]
    labels: list[str] | None = None

    def where(self, keep: Sequence[bool]) -> Lines:
        """The lines for which `keep` is true."""
        labels = None if self.labels is None else list(itertools.compress(self.labels, keep))
        return Lines(list(itertools.compress(self.texts, keep)), labels)


CORPUS_LABELS = "corpus"
"""Value of `data.labels` for a named corpus that labels its own texts."""

MOST_ATTRIBUTES = 100
"""Largest number of different labels."""


def check_labels(data: DataConfig) -> None:
    """Raise `ConfigError` for settings about labels that would have no effect."""
    if data.labels is None and (data.validation_labels or data.labelled_fraction < 1.0):
        raise ConfigError(
            "data.validation_labels and data.labelled_fraction need data.labels; add --labels FILE"
        )
    if data.validation_labels and data.validation is None:
        raise ConfigError(
            "data.validation_labels needs the texts they belong to: add data.validation "
            "(--validation)"
        )


def with_attributes(config: Config, train: Lines, notes: list[str]) -> Config:
    """The configuration with `model.attributes`: the label values of the training texts, sorted.
    Raises `ConfigError` or `DataError`."""
    if train.labels is None and config.model.attributes:
        raise ConfigError(
            "model.attributes follows from the labels: give them with data.labels (--labels), "
            "or leave model.attributes out"
        )
    if train.labels is None:
        return config
    counts = Counter(label for label in train.labels if label)
    if len(counts) < 2:
        raise DataError(
            f"data.labels: at least two different labels are needed, got {sorted(counts)}"
        )
    if len(counts) > MOST_ATTRIBUTES:
        raise DataError(
            f"data.labels: {len(counts):,} different labels, at most {MOST_ATTRIBUTES} are "
            f"supported; group them"
        )
    values = [f"{value!r} {count:,}" for value, count in sorted(counts.items())]
    missing = len(train.texts) - counts.total()
    notes.append(
        "training labels: " + ", ".join(values + ([f"none {missing:,}"] if missing else []))
    )
    return config.with_settings({"model.attributes": sorted(counts)})


def without_new_labels(validation: Lines, train: Lines) -> Lines:
    """The held-out texts, with labels that no training text has replaced by unknown."""
    if validation.labels is None or train.labels is None:
        return validation
    known = set(train.labels)
    return Lines(validation.texts, [label if label in known else "" for label in validation.labels])


def attribute_ids(config: Config, lines: Lines) -> np.ndarray | None:
    """Labels as indices into `model.attributes`, (N,) int32, -1 where unknown; None for a model
    without attributes.

    Raises `DataError` for a label that the model does not have.
    """
    if not config.model.attributes:
        return None
    index = {value: number for number, value in enumerate(config.model.attributes)} | {"": -1}
    labels = lines.labels or [""] * len(lines.texts)
    new = sorted(set(labels) - index.keys())
    if new:
        values = config.model.attributes
        raise DataError(
            f"labels: the model was not trained with {new[0]!r}{nearest(new[0], values)}"
        )
    return np.array([index[label] for label in labels], np.int32)


def training_labels(config: Config, train: Lines, notes: list[str]) -> np.ndarray | None:
    """Attribute indices of the training texts, (N,) int32, -1 where unknown or hidden; None for a
    model without attributes.

    `data.labelled_fraction` of the labels are kept, chosen by the hashes of the texts. Raises
    `ConfigError` or `DataError`.
    """
    ids = attribute_ids(config, train)
    share = config.data.labelled_fraction
    if ids is not None and share < 1.0:
        labels = (ids >= 0).sum()
        ids = np.where(shows_label(config.data, train.texts, ids >= 0), ids, -1).astype(np.int32)
        visible = (ids >= 0).sum()
        reason = (
            f": {OFF_TARGET_REASONS[config.data.split]}" if is_far(visible / labels, share) else ""
        )
        notes.append(
            f"training sees {visible:,} of the {labels:,} labels "
            f"(data.labelled_fraction={share:g}){reason}"
        )
    if ids is not None and (ids < 0).any() and not config.objective.semi_supervised:
        raise ConfigError(
            f"{(ids < 0).sum():,} of {len(ids):,} training texts have no label: train on them too "
            f"with --set objective.semi_supervised=true, or label them"
        )
    unseen = [
        value
        for number, value in enumerate(config.model.attributes)
        if ids is not None and number not in ids
    ]
    if unseen:
        raise DataError(
            f"data.labelled_fraction={share:g}: training sees no text labelled {unseen[0]!r}; use "
            f"a larger fraction"
        )
    return ids


def shows_label(data: DataConfig, texts: Sequence[str], labelled: np.ndarray) -> np.ndarray:
    """Which texts may show a label to training, (N,) bool. Equal texts are treated alike.

    `data.labelled_fraction` of the texts for which `labelled` (N,) holds are chosen, by their
    hashes.
    """
    places = text_hashes(texts, data.split_seed, b"label")
    if data.split == "texts" or not data.labelled_fraction:
        return places < data.labelled_fraction
    return split_of(data.split, data.labelled_fraction, places[labelled]).contains(places)


def note_unlabelled(attribute: np.ndarray | None, notes: list[str]) -> None:
    """Report what held-out texts without a label mean for the bound; `attribute` (N,) is -1 where
    unknown."""
    if attribute is not None and (attribute < 0).any():
        notes.append(
            f"{(attribute < 0).sum():,} of {len(attribute):,} held-out texts have no label: the "
            f"model infers it, and their bound is on -log p(text) instead of -log p(text | label)"
        )
