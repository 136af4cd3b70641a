"""The metrics of a TextVAE: their names, and their running means over the batches of an epoch."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping

import keras
from keras import ops

from .configuration import ModelConfig, ObjectiveConfig
from .objectives import bits_per_character
from .parts import kl_names
from .replicas import is_split, mean_over_shards, text_weights
from .tensors import Tensor

Trackers = Mapping[str, keras.metrics.Mean]


def bits_name(model: ModelConfig) -> str:
    """The name of the bits per position: a token may be more than a character."""
    return "bits_per_character" if model.tokenizer == "char" else "bits_per_token"


def trackers_of(
    model: ModelConfig, objective: ObjectiveConfig, outputs: Mapping[str, Tensor]
) -> dict[str, keras.metrics.Mean]:
    """A running mean for each metric of a model with these outputs."""
    names = ["loss", "reconstruction", "kl", *kl_names(outputs)]
    names += ["importance_weighted_nll"] if objective.importance_samples > 1 else []
    names += ["auxiliary"] if model.auxiliary else []
    names += [name for name in ("bag_of_words", "mmd", "moments") if getattr(objective, name)]
    names += ["attribute_kl", "classification", "attribute_accuracy"] if model.attributes else []
    names += ["elbo", bits_name(model), "beta", "gradient_norm"]
    return {name: keras.metrics.Mean(name=name) for name in names}


def add_terms(trackers: Trackers, terms: Mapping[str, Tensor], bits: str) -> None:
    """Add the terms (B,) of a batch to the means. `bits` is the name of the bits per position.

    Means are weighted by the weights of the texts. Those of the classifier include labelled texts
    alone; the bits per position are also weighted by the number of positions.
    """
    positions, sample_weights = terms["positions"], text_weights()
    measured = {name: terms[name] for name in trackers if name in terms}
    measured[bits] = bits_per_character(terms["elbo"], positions)
    counts = {bits: positions}
    if "attribute_accuracy" in trackers:
        measured["attribute_accuracy"] = terms["correct"]
        counts |= dict.fromkeys(("classification", "attribute_accuracy"), terms["labelled"])
    for name, values in measured.items():
        factors = [factor for factor in (counts.get(name), sample_weights) if factor is not None]
        weights = functools.reduce(operator.mul, factors) if factors else None
        trackers[name].update_state(values, sample_weight=weights)


def means(trackers: Trackers) -> dict[str, Tensor]:
    """The running means, over all shards of a split batch."""
    if not is_split():
        return {name: tracker.result() for name, tracker in trackers.items()}
    totals = mean_over_shards(ops.stack([tracker.total + 0.0 for tracker in trackers.values()]))
    counts = mean_over_shards(ops.stack([tracker.count + 0.0 for tracker in trackers.values()]))
    return dict(zip(trackers, ops.unstack(ops.divide_no_nan(totals, counts)), strict=True))
