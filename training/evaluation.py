"""How good is a model on a whole split? Every number with its unit and its N."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.distributions import LOG_TWO_PI, Gaussian
from kvae.model import TextVAE
from kvae.objectives import bits_per_character

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
    "elbo": "nats per sequence, reconstruction + KL",
    "bits_per_character": "bits, end marks included",
    "reconstruction_with_padding": "nats per sequence, all T positions",
    "elbo_with_padding": "nats per sequence, all T positions",
    "active_units": f"dimensions with a variance of the mean above {ACTIVE}",
    "mutual_information": "nats",
    "mutual_information_texts": "texts it was estimated on",
}
"""What `evaluate` returns, in the order it is shown, with what each number counts."""


def evaluate(model: TextVAE, rows: np.ndarray, batch_size: int = 128, seed: int = 0) -> dict[str, Any]:
    """The bound and its parts on all `rows` of tokens (N, T), one z a text drawn at `seed`: the same numbers each time.

    With padding, the positions behind the end mark count too, as in Semeniuta et al. 2017; that number says nothing about
    a model trained with `count_padding` off.
    """
    collected = collect(model, rows, batch_size, seed)
    means = {name: float(values.mean()) for name, values in collected.items() if values.ndim == 1}
    elbo = means["reconstruction"] + means["kl"]
    latent = [spread(collected[name], MOST_FOR_INFORMATION) for name in ("mean", "log_variance", "z")]
    return {
        "texts": len(rows),
        "positions": int(collected["positions"].sum()),
        "reconstruction": means["reconstruction"],
        "kl": means["kl"],
        **{name: value for name, value in means.items() if name.startswith("kl_level_")},
        "elbo": elbo,
        "bits_per_character": float(bits_per_character(elbo, means["positions"])),
        "reconstruction_with_padding": means["reconstruction_with_padding"],
        "elbo_with_padding": means["reconstruction_with_padding"] + means["kl"],
        "active_units": active_units(collected["mean"]),
        "latent_size": model.model_config.latent_size,
        "mutual_information": mutual_information(*latent),
        "mutual_information_texts": len(latent[0]),
    }


def collect(model: TextVAE, rows: np.ndarray, batch_size: int = 128, seed: int = 0) -> dict[str, np.ndarray]:
    """Per text: loss terms (N,), and mean, log_variance, z, kl_per_dimension (N, d)."""
    batches = []
    for number, tokens in enumerate(ordered_rows(rows, batch_size)):
        noise = tf.random.stateless_normal((len(tokens), model.model_config.latent_size), seed=(seed, number))
        batches.append({name: value.numpy() for name, value in measurement(model)(tokens, noise).items()})
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


@lru_cache(maxsize=1)
def measurement(model: TextVAE) -> Any:
    """What `collect` runs on a batch, traced once for a model that is measured again and again."""
    config = model.model_config
    inputs = [tf.TensorSpec((None, config.length), tf.int32), tf.TensorSpec((None, config.latent_size))]

    @tf.function(autograph=False, input_signature=inputs)
    def terms_of(tokens: Any, noise: Any) -> dict[str, Any]:
        outputs = model.parts.outputs(tokens, noise, training=False)
        terms = model.loss_terms(tokens, outputs)
        posterior = Gaussian(outputs["mean"], outputs["log_variance"])
        return {
            **terms,
            "kl_per_dimension": posterior.kl_per_dimension(Gaussian.standard_like(posterior.mean)),
            **{name: outputs[name] for name in ("mean", "log_variance", "z")},
        }

    return terms_of


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """At most `count` rows at equal distances, since neighbours in a file are often alike."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def active_units(mean: np.ndarray) -> int:
    """How many of the d dimensions of the posterior means (N, d) vary over the texts (Burda et al. 2016)."""
    return int((mean.var(axis=0) > ACTIVE).sum())


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
