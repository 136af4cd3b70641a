"""Labels of texts: their values, their indices for the model, and the labels that training may
see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from kvae.configuration import Config, DataConfig
from kvae.sections import nearest
from kvae.serving.errors import ConfigError, DataError

from .splits import OFF_TARGET_REASONS, Split, is_far, text_hashes

MOST_ATTRIBUTES = 100
"""Largest number of different labels."""


def check_labels(data: DataConfig) -> None:
    """Raise `ConfigError` for settings about labels that would have no effect."""
    if not data.has_labels and (data.validation_labels or data.labelled_fraction < 1.0):
        raise ConfigError(
            "data.validation_labels and data.labelled_fraction need data.labels or "
            "data.label_column; add --labels FILE or --label-column NAME"
        )
    if data.labels and data.label_column:
        raise ConfigError(
            "data.labels and data.label_column name two places of the labels; leave one out"
        )
    if data.validation_labels and data.validation is None:
        raise ConfigError(
            "data.validation_labels needs the texts they belong to: add data.validation "
            "(--validation)"
        )


def with_attributes(config: Config, labels: Counter[str] | None, notes: list[str]) -> Config:
    """The configuration with `model.attributes`: the label values of the training texts, sorted.

    `labels` counts them; None if there are none. Raises `ConfigError` or `DataError`.
    """
    if labels is None and config.model.attributes:
        raise ConfigError(
            "model.attributes follows from the labels: give them with data.labels (--labels) or "
            "data.label_column (--label-column), or leave model.attributes out"
        )
    if labels is None:
        return config
    counts = Counter({label: count for label, count in labels.items() if label})
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
    missing = labels[""]
    notes.append(
        "training labels: " + ", ".join(values + ([f"none {missing:,}"] if missing else []))
    )
    return config.with_settings({"model.attributes": sorted(counts)})


def attribute_ids(config: Config, labels: Sequence[str]) -> np.ndarray:
    """Labels as indices into `model.attributes`, (N,) int8, -1 where unknown.

    Raises `DataError` for a label that the model does not have.
    """
    values = config.model.attributes
    index = {value: number for number, value in enumerate(values)} | {"": -1}
    new = sorted(set(labels) - index.keys())
    if new:
        raise DataError(
            f"labels: the model was not trained with {new[0]!r}{nearest(new[0], values)}"
        )
    return np.array([index[label] for label in labels], np.int8)


def held_out_attributes(
    config: Config, labels: Sequence[str] | None, texts: int, notes: list[str]
) -> np.ndarray | None:
    """`attribute_ids` of held-out texts, all unknown without labels; None for a model without
    attributes."""
    if not config.model.attributes:
        return None
    attribute = attribute_ids(config, [""] * texts if labels is None else labels)
    note_unlabelled(attribute, notes)
    return attribute


def visible_labels(
    data: DataConfig, texts: Sequence[str], attribute: np.ndarray, split: Split | None
) -> np.ndarray:
    """Attribute indices (N,) of training texts, -1 where training may not see the label.

    `split` has the texts that may show theirs; None: all may. Equal texts are treated alike.
    """
    if split is None:
        return attribute
    places = text_hashes(texts, data.split_seed, b"label")
    return np.where(split.contains(places), attribute, np.int8(-1))


def check_visible(config: Config, attribute: np.ndarray, labelled: int, notes: list[str]) -> None:
    """Check the labels that training sees, (N,), -1 where it sees none, of `labelled` labels.

    Raises `ConfigError` or `DataError`.
    """
    share = config.data.labelled_fraction
    hidden = int((attribute < 0).sum())
    visible = len(attribute) - hidden
    if share < 1.0:
        reason = (
            f": {OFF_TARGET_REASONS[config.data.split]}"
            if is_far(visible / labelled, share)
            else ""
        )
        notes.append(
            f"training sees {visible:,} of the {labelled:,} labels "
            f"(data.labelled_fraction={share:g}){reason}"
        )
    check_hidden(config, attribute)
    unseen = set(range(len(config.model.attributes))) - set(np.unique(attribute).tolist())
    if unseen:
        raise DataError(
            f"data.labelled_fraction={share:g}: training sees no text labelled "
            f"{config.model.attributes[min(unseen)]!r}; use a larger fraction"
        )


def check_hidden(config: Config, attribute: np.ndarray) -> None:
    """Raise `ConfigError` if training sees texts without a label, -1 in `attribute` (N,), and its
    objective cannot learn from them."""
    hidden = int((attribute < 0).sum())
    if hidden and not config.objective.semi_supervised:
        raise ConfigError(
            f"{hidden:,} of {len(attribute):,} training texts have no label: train on them too "
            f"with --set objective.semi_supervised=true, or label them"
        )


def note_unlabelled(attribute: np.ndarray, notes: list[str]) -> None:
    """Report what held-out texts without a label mean for the bound; `attribute` (N,) is -1 where
    unknown."""
    if (attribute < 0).any():
        notes.append(
            f"{(attribute < 0).sum():,} of {len(attribute):,} held-out texts have no label: the "
            f"model infers it, and their bound is on -log p(text) instead of -log p(text | label)"
        )
