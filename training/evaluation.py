"""Evaluation of a model on a whole split: every number with its unit and its number of texts."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from kvae.configuration import ObjectiveConfig
from kvae.distributions import LOG_TWO_PI
from kvae.model import TextVAE
from kvae.objectives import bits_per_character
from kvae.serving.errors import ConfigError
from kvae.slots import POSTERIORS
from kvae.steps import backend_steps
from kvae.tensors import Tensor

from .importance import importance_weighted
from .measuring import labelled_batches, noise_of, text_inputs
from .messages import Say, quiet

ACTIVE_VARIANCE = 0.01
"""A unit is active when the variance of its posterior mean over the texts exceeds this (Burda et
al. 2016, eq. 10).
"""

MAX_INFORMATION_TEXTS = 10_000
"""Largest number of texts N for the estimate of mutual information, which cannot exceed ln N."""

UNITS = {
    "texts": "held-out texts",
    "positions": "counted positions, end marks included",
    "reconstruction": "nats per sequence",
    "kl": "nats per sequence",
    "attribute_kl": "nats per sequence, of attributes that are not known",
    "elbo": "nats per sequence, reconstruction + KL",
    "entropy": "nats per sequence, of the corpus itself: a valid bound cannot be lower",
    "importance_weighted_nll": "nats per sequence, an upper bound tighter than elbo",
    "importance_weighted_error": "its standard error over texts and codes",
    "importance_weighted_bias": "nats by which it fell from half of the codes: about what is left",
    "importance_samples": "latent codes per text for importance_weighted_nll",
    "bits_per_character": "bits, end marks included",
    "perplexity": "per token, end marks included, from elbo: an upper bound",
    "reconstruction_with_padding": "nats per sequence, all T positions",
    "elbo_with_padding": "nats per sequence, all T positions",
    "active_units": f"dimensions with a variance of the mean above {ACTIVE_VARIANCE}",
    "mutual_information": "nats, of the top level, 0 where the estimate is negative",
    "mutual_information_ceiling": "nats, which the estimate cannot exceed: ln N if no text repeats",
    "mutual_information_texts": "texts that mutual_information was estimated on",
    "log_determinant": "nats, of the aggregated posterior's covariance, top level: 0 for N(0, I)",
    "aggregated_mean_norm": "length of the aggregated posterior's mean, top level: 0 for N(0, I)",
    "code_norm": "length of a text's posterior mean, top level, mean over texts",
    "attribute_accuracy": "share of labels that the classifier predicts correctly",
}
"""Metrics of `evaluate` in the order of its table, each with its unit and meaning."""


def evaluate(
    model: TextVAE,
    rows: np.ndarray,
    batch_size: int = 128,
    seed: int = 0,
    attribute: np.ndarray | None = None,
    importance_samples: int | None = None,
    characters: int | None = None,
    say: Say = quiet,
) -> dict[str, Any]:
    """The metrics of `UNITS` for `rows` of tokens (N, T), with one z per text drawn from `seed`.

    The same arguments give the same numbers. The metrics "with padding" also count the positions
    after the end mark, as in Semeniuta et al. 2017; they mean nothing for a model trained with
    `count_padding` off.

    `attribute` (N,) are the labels of a conditional model. The bound is then on -log p(x | label).
    For a label of -1 the classifier chooses, its KL is added, and the bound is on -log p(x).
    `characters` is the number of characters of all texts with their end marks, by which bits are
    counted (default: one per token). Active units and mutual information are left out if all texts
    are equal, because both would be 0 for every model. `importance_samples` is the number of codes
    of the importance-weighted bound (0: without it; None: as many as in training, if those are more
    than one); `say` gets lines of its progress. Raises `ConfigError` if it is negative.
    """
    codes = codes_of_bound(model.objective_config, importance_samples)
    model = model.in_float32()
    collected = collect(model, rows, batch_size, seed, attribute)
    means = {name: float(values.mean()) for name, values in collected.items() if values.ndim == 1}
    attribute_kl = {name: means[name] for name in ("attribute_kl",) if name in means}
    elbo = means["elbo"]
    metrics = {
        "texts": len(rows),
        "positions": int(collected["positions"].sum()),
        "reconstruction": means["reconstruction"],
        "kl": means["kl"],
        **{name: value for name, value in means.items() if name.startswith("kl_level_")},
        **attribute_kl,
        "elbo": elbo,
        "bits_per_character": float(
            bits_per_character(elbo, characters / len(rows) if characters else means["positions"])
        ),
        **perplexity(elbo / means["positions"]),
        "reconstruction_with_padding": means["reconstruction_with_padding"],
        "elbo_with_padding": elbo - means["reconstruction"] + means["reconstruction_with_padding"],
        **code_usage(model, rows, collected),
        "latent_size": model.hierarchy.size,
    }
    if model.hierarchy.shapes:
        top = [model.hierarchy.split(collected[name])[-1] for name in POSTERIOR]
        has_flow = POSTERIORS[model.model_config.posterior].flow
        metrics |= aggregated_flows(*top) if has_flow else aggregated_posterior(*top[:2])
    labels = collected.get("labelled", np.zeros(0)).sum()
    if labels:
        metrics["attribute_accuracy"] = float(collected["correct"].sum() / labels)
    if codes:
        bound = importance_weighted(model, rows, codes, batch_size, seed, attribute, say)
        metrics |= bound.numbers(codes)
    return metrics


def codes_of_bound(objective: ObjectiveConfig, codes: int | None) -> int:
    """The codes a text of the importance-weighted bound, 0 to leave it out; None is what the
    objective of the training had. Raises `ConfigError` if a negative number is given."""
    if codes is None:
        trained = objective.importance_samples
        return trained if trained > 1 else 0
    if codes < 0:
        raise ConfigError(f"importance_samples must be at least 0, got {codes}")
    return codes


def perplexity(nats_per_token: float) -> dict[str, float]:
    """{"perplexity": exp(`nats_per_token`)}, or {} if it is too large for a float.

    That happens if the KL costs nothing. JSON has no infinity to write instead.
    """
    return (
        {"perplexity": math.exp(nats_per_token)}
        if nats_per_token < math.log(sys.float_info.max)
        else {}
    )


POSTERIOR = ("mean", "log_variance", "z")
"""Outputs of the model that describe the posterior and its sample, (B, d) each."""


def collect(
    model: TextVAE,
    rows: np.ndarray,
    batch_size: int = 128,
    seed: int = 0,
    attribute: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Loss terms (N,) and posterior (N, d) of every text.

    The posterior is mean, log_variance and z; `kl_per_dimension` (N, d), if the model has it; and
    `shift` (N, d), computed without noise: how far the text moves the mean of each dimension away
    from that of the prior.
    """
    batches = []
    for index, (_, tokens, labels) in enumerate(labelled_batches(rows, attribute, batch_size)):
        noise = noise_of((seed, index), (len(tokens), model.parts.noise_size))
        batches.append(compiled_terms(model)(tokens, noise, labels))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@lru_cache(maxsize=1)
def compiled_terms(model: TextVAE) -> Callable[..., dict[str, np.ndarray]]:
    """The function that `collect` runs on a batch, compiled once for the model evaluated last."""
    attributes = len(model.model_config.attributes)

    def terms_of(tokens: Tensor, noise: Tensor, attribute: Tensor) -> dict[str, Tensor]:
        outputs = model.parts.outputs(tokens, noise, attribute, training=False)
        terms = model.loss_terms(
            {"tokens": tokens, "attribute": attribute} if attributes else tokens, outputs
        )
        levels, _ = model.parts.levels(tokens, attribute)
        shift = model.hierarchy.concatenated([level.shift for level in levels], noise)
        latent = {
            name: outputs[name]
            for name in (*POSTERIOR, "log_ratio", "kl_per_dimension")
            if name in outputs
        }
        return {**terms, **latent, "shift": shift}

    return backend_steps().compiled(model, terms_of, text_inputs(model, model.parts.noise_size))


def code_usage(
    model: TextVAE, rows: np.ndarray, collected: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Active units and mutual information of the rows (N, T), from their values of `collect`; the
    ceiling of the estimate, if there is a latent code.

    Empty for a model with a latent code if all rows are equal.
    """
    if model.hierarchy.shapes and not rows_differ(rows):
        return {}
    measured = evenly_spaced(rows, MAX_INFORMATION_TEXTS)
    return {
        "active_units": active_units(collected["shift"]),
        "mutual_information": information(model, collected),
        **(
            {"mutual_information_ceiling": information_ceiling(measured)}
            if model.hierarchy.shapes
            else {}
        ),
        "mutual_information_texts": len(measured),
    }


def information_ceiling(rows: np.ndarray) -> float:
    """The largest value of `mutual_information` on rows (N, T), nats.

    It is the entropy of the frequencies of the different rows: ln N if no row repeats.
    """
    _, counts = np.unique(rows, axis=0, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def rows_differ(rows: np.ndarray) -> bool:
    """Whether the rows (N, T) contain two different texts."""
    return bool((rows != rows[:1]).any())


def evenly_spaced(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows at equal distances, because neighbours in a file are often similar."""
    return np.asarray(rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)])


def standard_error(values: np.ndarray) -> float:
    """The standard error of the mean of values (N,); 0 for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def information(model: TextVAE, collected: Mapping[str, np.ndarray]) -> float:
    """Mutual information of texts and the top level of their codes, nats; 0 for a language model.

    `collected` are the values of `collect`.
    """
    if not model.hierarchy.shapes:
        return 0.0
    top = (
        evenly_spaced(model.hierarchy.split(collected[name])[-1], MAX_INFORMATION_TEXTS)
        for name in POSTERIOR
    )
    return mutual_information(*top)


def active_units(shift: np.ndarray) -> int:
    """The number of dimensions whose posterior mean varies over the texts (Burda et al. 2016).

    `shift` (N, d) are the posterior means. Below the top of a ladder it is (posterior mean - prior
    mean) / prior standard deviation, so that variation inherited from the level above does not
    count.
    """
    return int((shift.var(axis=0) > ACTIVE_VARIANCE).sum())


def aggregated_posterior(mean: np.ndarray, log_variance: np.ndarray) -> dict[str, float]:
    """Statistics of the aggregated posterior q(z), from the posteriors (N, d) of N texts.

    q(z) is taken as one Gaussian and compared with the prior N(0, I). Its covariance is that of the
    means plus the mean of the variances, which is invertible for every N. If the variances
    underflow it may be singular, and the log-determinant is then left out.
    """
    mean, variance = mean.astype(np.float64), np.exp(log_variance.astype(np.float64))
    centred = mean - mean.mean(axis=0)
    sign, log_determinant = np.linalg.slogdet(
        centred.T @ centred / len(mean) + np.diag(variance.mean(axis=0))
    )
    return {
        **({"log_determinant": float(log_determinant)} if sign > 0 else {}),
        "aggregated_mean_norm": float(np.linalg.norm(mean.mean(axis=0))),
        "code_norm": float(np.linalg.norm(mean, axis=1).mean()),
    }


def aggregated_flows(mean: np.ndarray, log_variance: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """The same for posteriors with a flow, whose dimensions depend on each other given the text:
    mean and covariance are those of the samples z (N, d)."""
    samples = aggregated_posterior(z, np.full_like(z, -np.inf))
    return {**samples, "code_norm": float(np.linalg.norm(mean, axis=1).mean())}


def mutual_information(mean: np.ndarray, log_variance: np.ndarray, z: np.ndarray) -> float:
    """I(x; z) under q, nats, at least 0 and at most ln N (Hoffman and Johnson 2016).

    It is the mean of log q(z|x) - log q(z), where q(z) is the mixture of all N posteriors. Inputs
    are (N, d), with z_i drawn from the posterior of text i. The quantity is not negative; the
    estimate has a sampling error, and is 0 where it would be below 0.

    If z_i is drawn from a flow, the Gaussians of `mean` and `log_variance` are the critic of a
    lower bound on I(x; z), whatever their shape (Poole et al. 2019, eq. 10).
    """
    mean, log_variance, z = (part.astype(np.float64) for part in (mean, log_variance, z))
    precision = np.exp(-log_variance)
    gains = []
    for start in range(0, len(z), 500):
        block, rows = z[start : start + 500], np.arange(len(z[start : start + 500]))
        # Row i, column j is the squared distance of z_i from text j, computed with matrix products.
        squared = (
            block**2 @ precision.T
            - 2 * block @ (mean * precision).T
            + (mean**2 * precision).sum(axis=1)
        )
        squared = np.maximum(squared, 0.0)  # the products round where variances are tiny
        own = slice(start, start + len(rows))
        squared[rows, start + rows] = ((block - mean[own]) ** 2 * precision[own]).sum(axis=1)
        log_density = -0.5 * (squared + (LOG_TWO_PI + log_variance).sum(axis=1))
        with np.errstate(invalid="ignore"):  # for a model that diverged the result is NaN
            all_density = np.logaddexp.reduce(log_density, axis=1) - np.log(len(z))
            gains.append(log_density[rows, start + rows] - all_density)
    estimate = np.concatenate(gains).mean()
    return float(np.maximum(estimate, 0.0)) + 0.0  # NaN stays NaN, and -0.0 becomes 0.0
