"""How good is a model on a whole split? Every number with its unit and its N."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import keras
import numpy as np

from kvae.distributions import LOG_TWO_PI
from kvae.model import TextVAE
from kvae.objectives import bits_per_character, importance_weighted_nll
from kvae.serving.errors import ConfigError
from kvae.steps import backend_steps

from .pipeline import ordered_rows

ACTIVE = 0.01
"""A unit is active when the variance of its posterior mean over the texts exceeds this (Burda et al. 2016, eq. 10)."""

MOST_FOR_INFORMATION = 10_000
"""Texts that mutual information is estimated on at most; the estimate cannot exceed the logarithm of their number."""

UNITS = {
    "texts": "held-out texts",
    "positions": "counted positions, end marks included",
    "reconstruction": "nats per sequence",
    "kl": "nats per sequence",
    "attribute_kl": "nats per sequence, of attributes that were not given",
    "elbo": "nats per sequence, reconstruction + KL",
    "entropy": "nats per sequence, of the corpus itself: no honest bound is lower",
    "importance_weighted_nll": "nats per sequence, an upper bound tighter than elbo",
    "importance_samples": "codes a text for it",
    "bits_per_character": "bits, end marks included",
    "perplexity": "per token, end marks included, from elbo: an upper bound",
    "reconstruction_with_padding": "nats per sequence, all T positions",
    "elbo_with_padding": "nats per sequence, all T positions",
    "active_units": f"dimensions with a variance of the mean above {ACTIVE}",
    "mutual_information": "nats, of the top level",
    "mutual_information_texts": "texts it was estimated on",
    "log_determinant": "nats, of the aggregated posterior's covariance, top level: 0 for N(0, I)",
    "aggregated_mean_norm": "length of the aggregated posterior's mean, top level: 0 for N(0, I)",
    "code_norm": "length of a text's posterior mean, top level, mean over texts",
    "attribute_accuracy": "share of labels that the text's classifier finds",
}
"""What `evaluate` returns, in the order it is shown, with what each number counts."""


def evaluate(
    model: TextVAE,
    rows: np.ndarray,
    batch_size: int = 128,
    seed: int = 0,
    attribute: np.ndarray | None = None,
    importance_samples: int = 0,
    characters: int | None = None,
) -> dict[str, Any]:
    """The bound and its parts on all `rows` of tokens (N, T), one z a text drawn at `seed`: the same numbers each time.

    With padding, the positions behind the end mark count too, as in Semeniuta et al. 2017; that number says nothing about
    a model trained with `count_padding` off. `attribute` (N,) are the labels of a conditional model, whose bound is then on
    -log p(x | label); where a label is -1 the classifier chooses, the choice is paid for, and the bound is on -log p(x).
    `characters` of all texts, end marks included, are what bits are counted by (default: one a token). Active units and
    mutual information are left out where all texts are the same: both would be 0 whatever the model is.
    """
    if importance_samples < 0:
        raise ConfigError(f"importance_samples must be at least 0, got {importance_samples}")
    model = model.in_float32()
    collected = collect(model, rows, batch_size, seed, attribute)
    means = {name: float(values.mean()) for name, values in collected.items() if values.ndim == 1}
    given = {name: means[name] for name in ("attribute_kl",) if name in means}
    elbo = means["elbo"]
    found = {
        "texts": len(rows),
        "positions": int(collected["positions"].sum()),
        "reconstruction": means["reconstruction"],
        "kl": means["kl"],
        **{name: value for name, value in means.items() if name.startswith("kl_level_")},
        **given,
        "elbo": elbo,
        "bits_per_character": float(
            bits_per_character(elbo, characters / len(rows) if characters else means["positions"])
        ),
        **perplexity(elbo / means["positions"]),
        "reconstruction_with_padding": means["reconstruction_with_padding"],
        "elbo_with_padding": elbo - means["reconstruction"] + means["reconstruction_with_padding"],
        **differences(model, rows, collected),
        "latent_size": model.hierarchy.size,
    }
    if model.hierarchy.shapes:
        found |= aggregated(*(model.hierarchy.split(collected[name])[-1] for name in ("mean", "log_variance")))
    if collected.get("labelled", np.zeros(0)).any():
        found["attribute_accuracy"] = float(collected["correct"].sum() / collected["labelled"].sum())
    if importance_samples:
        nats = importance_weighted(model, rows, importance_samples, batch_size, seed, attribute)
        found |= {"importance_weighted_nll": float(nats.mean()), "importance_samples": importance_samples}
    return found


def perplexity(nats_per_token: float) -> dict[str, float]:
    """Where it is a number: where the KL costs nothing it may exceed all of them, and JSON has no infinity."""
    return {"perplexity": math.exp(nats_per_token)} if nats_per_token < math.log(sys.float_info.max) else {}


LATENT = ("mean", "log_variance", "z")


def collect(
    model: TextVAE, rows: np.ndarray, batch_size: int = 128, seed: int = 0, attribute: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Per text: loss terms (N,); mean, log_variance, z (N, d); `kl_per_dimension` (N, d) where it exists; and `shift` (N, d),
    how far the text moves each mean from its prior's, without noise."""
    batches = []
    attribute = np.full(len(rows), -1, np.int32) if attribute is None else attribute
    for number, tokens in enumerate(ordered_rows(rows, batch_size)):
        # numpy's: the same numbers on every backend
        noise = np.random.default_rng((seed, number)).standard_normal((len(tokens), model.parts.noise_size), np.float32)
        labels = attribute[number * batch_size : number * batch_size + len(tokens)]
        batches.append(measurement(model)(tokens, noise, labels))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@lru_cache(maxsize=1)
def measurement(model: TextVAE) -> Any:
    """What `collect` runs on a batch, compiled once for a model that is measured again and again."""
    attributes = len(model.model_config.attributes)
    inputs = [
        keras.Input((model.model_config.length,), dtype="int32"),
        keras.Input((model.parts.noise_size,)),
        keras.Input((), dtype="int32"),
    ]

    def terms_of(tokens: Any, noise: Any, attribute: Any) -> dict[str, Any]:
        outputs = model.parts.outputs(tokens, noise, attribute, training=False)
        terms = model.loss_terms({"tokens": tokens, "attribute": attribute} if attributes else tokens, outputs)
        levels, _ = model.parts.levels(tokens, attribute)
        shift = model.hierarchy.concatenated([level.shift for level in levels], noise)
        kept = {name: outputs[name] for name in (*LATENT, "log_ratio", "kl_per_dimension") if name in outputs}
        return {**terms, **kept, "shift": shift}

    return backend_steps().compiled(model, terms_of, inputs)


def importance_weighted(
    model: TextVAE,
    rows: np.ndarray,
    samples: int,
    batch_size: int = 128,
    seed: int = 0,
    attribute: np.ndarray | None = None,
) -> np.ndarray:
    """-log p(x) bounded from above with `samples` codes a text, nats, (N,) (Burda et al. 2016, eq. 8)."""
    log_weights = []
    for number in range(samples):
        found = collect(model, rows, batch_size, seed + 1 + number, attribute)
        log_weights.append(-found["reconstruction"] - found["log_ratio"] - found.get("attribute_kl", 0.0))
    return keras.ops.convert_to_numpy(importance_weighted_nll(np.stack(log_weights).astype(np.float64)))


def differences(model: TextVAE, rows: np.ndarray, collected: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What only texts that differ can show of a code, from the rows (N, T) and what `collect` found of them."""
    if model.hierarchy.shapes and not varied(rows):
        return {}
    return {
        "active_units": active_units(collected["shift"]),
        "mutual_information": information(model, collected),
        "mutual_information_texts": min(len(rows), MOST_FOR_INFORMATION),
    }


def varied(rows: np.ndarray) -> bool:
    """Whether the rows (N, T) hold two different texts."""
    return bool((rows != rows[:1]).any())


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows at equal distances, since neighbours in a file are often alike."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def information(model: TextVAE, collected: Mapping[str, np.ndarray]) -> float:
    """Mutual information of the texts of `collect` and the top level of their codes, nats; 0 for a language model."""
    if not model.hierarchy.shapes:
        return 0.0
    top = (spread(model.hierarchy.split(collected[name])[-1], MOST_FOR_INFORMATION) for name in LATENT)
    return mutual_information(*top)


def active_units(shift: np.ndarray) -> int:
    """How many of the d dimensions of the posterior means (N, d) vary over the texts (Burda et al. 2016).

    Below a ladder's top `shift` is (posterior mean - prior mean) / prior standard deviation: what merely follows the level
    above is not counted.
    """
    return int((shift.var(axis=0) > ACTIVE).sum())


def aggregated(mean: np.ndarray, log_variance: np.ndarray) -> dict[str, float]:
    """The aggregated posterior q(z) as one Gaussian, from the posteriors (N, d) of N texts, against the prior N(0, I).

    Its covariance is that of the means plus the mean of the variances, which has an inverse whatever N; where the variances
    vanish in floating point it may have none, and then its log-determinant is left out.
    """
    mean, variance = mean.astype(np.float64), np.exp(log_variance.astype(np.float64))
    centred = mean - mean.mean(axis=0)
    sign, log_determinant = np.linalg.slogdet(centred.T @ centred / len(mean) + np.diag(variance.mean(axis=0)))
    return {
        **({"log_determinant": float(log_determinant)} if sign > 0 else {}),
        "aggregated_mean_norm": float(np.linalg.norm(mean.mean(axis=0))),
        "code_norm": float(np.linalg.norm(mean, axis=1).mean()),
    }


def mutual_information(mean: np.ndarray, log_variance: np.ndarray, z: np.ndarray) -> float:
    """I(x; z) under q, nats: the mean of log q(z|x) - log q(z), q(z) the mixture of all N posteriors (Hoffman and Johnson
    2016). Inputs (N, d), z_i drawn from the posterior of text i. At most ln N.
    """
    mean, log_variance, z = (part.astype(np.float64) for part in (mean, log_variance, z))
    precision = np.exp(-log_variance)
    gains = []
    for start in range(0, len(z), 500):
        some = z[start : start + 500]
        # Row i, column j: log q(z_i | x_j), as products of (N, d) matrices.
        squared = some**2 @ precision.T - 2 * some @ (mean * precision).T + (mean**2 * precision).sum(axis=1)
        log_density = -0.5 * (squared + (LOG_TWO_PI + log_variance).sum(axis=1))
        own = log_density[np.arange(len(some)), start + np.arange(len(some))]
        with np.errstate(invalid="ignore"):  # a model that diverged has NaN here, and gets NaN
            gains.append(own - (np.logaddexp.reduce(log_density, axis=1) - np.log(len(z))))
    return float(np.concatenate(gains).mean())
