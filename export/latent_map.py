"""The map of a bundle: codes of held-out texts in two dimensions, and the dimensions of the code
that say most about a text.

The plane is that of the two main components of the posterior means (principal component analysis).
A point (x, y) of the plane is the code mean + x components[0] + y components[1].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kvae.components import main_components
from kvae.serving.alphabet import END, PAD
from kvae.serving.latent_map import (
    MAX_CODE_SIZE,
    MAX_DIMENSIONS,
    MAX_POINTS,
    MAX_TEXT,
    check_map,
)
from kvae.serving.manifest import MAP
from kvae.serving.sampler import Sampler
from kvae.slots import PRIORS

SPREAD = 3.0
"""Range of a dimension on each side of its mean, in standard deviations of its sampled codes."""

DIGITS = 6
"""Significant digits of a number in the file."""


def latent_map(
    sampler: Sampler, held_out: np.ndarray | None, attribute: np.ndarray | None = None
) -> dict[str, Any] | None:
    """The map of a bundle from `held_out` tokens (n, T), evenly chosen if they are many.

    `attribute` (n,) are the indices of their labels, -1 where a label is unknown; without any label
    the points have none.

    The fields are those of `kvae.serving.latent_map.DESCRIPTION`. None if there is nothing to draw:
    a model without codes of at least two numbers, or fewer than three texts.
    """
    labels = sampler.manifest["latent"]["attributes"]
    size = sampler.latent_size - len(labels)
    if held_out is None or len(held_out) < 3 or size < 2 or sampler.latent_size > MAX_CODE_SIZE:
        return None
    chosen = np.linspace(0, len(held_out) - 1, min(len(held_out), MAX_POINTS)).astype(int)
    tokens = np.asarray(held_out[chosen], np.int32)
    codes, log_variance = (part.astype(np.float64) for part in sampler.posterior_of_tokens(tokens))
    mean, components, shares = main_components(codes[:, :size])
    positions = (codes[:, :size] - mean) @ components.T
    points = {
        "x": rounded(positions[:, 0]),
        "y": rounded(positions[:, 1]),
        "text": [text[:MAX_TEXT] for text in sampler.alphabet.decode(tokens)],
        "tokens": ((tokens != PAD) & (tokens != END)).sum(axis=1).tolist(),
    }
    if labels and attribute is not None and (attribute[chosen] >= 0).any():
        points["label"] = [labels[i] if i >= 0 else "" for i in attribute[chosen].tolist()]
    standard = PRIORS[sampler.manifest["latent"]["prior"]].standard_normal
    levels = sampler.manifest["latent"]["levels"]
    return {
        "mean": rounded(mean),
        "components": [rounded(component) for component in components],
        "explained_variance": rounded(shares),
        "dimensions": informative_dimensions(
            codes[:, :size], log_variance[:, :size], standard and levels == 1
        ),
        "points": points,
    }


def informative_dimensions(
    mean: np.ndarray, log_variance: np.ndarray, standard_prior: bool
) -> dict[str, list[Any]]:
    """The dimensions with the largest mean KL, and the range of their codes.

    `mean` and `log_variance` (n, d) are those of the posteriors. The KL of a dimension is measured
    from its standard normal prior. A learned prior or a ladder has no KL by dimension. There it is
    measured from the normal distribution with the mean and variance of the dimension's codes, which
    estimates the information between text and dimension from above.
    """
    center = mean.mean(axis=0)
    variance = mean.var(axis=0) + np.exp(log_variance).mean(axis=0)
    prior_mean, prior_variance = (0.0, 1.0) if standard_prior else (center, variance)
    square = ((mean - prior_mean) ** 2 + np.exp(log_variance)) / prior_variance
    kl = 0.5 * (square - 1.0 - log_variance + np.log(prior_variance)).mean(axis=0)
    most = np.argsort(-kl, kind="stable")[:MAX_DIMENSIONS]
    reach = SPREAD * np.sqrt(variance[most])
    return {
        "index": most.tolist(),
        "kl": rounded(np.maximum(kl[most], 0.0)),
        "low": rounded(center[most] - reach),
        "high": rounded(center[most] + reach),
    }


def rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def write_map(
    folder: Path, content: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a map into the folder of a bundle; return its entry in the manifest."""
    check_map(content, manifest)
    data = (json.dumps(content, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
    (folder / MAP).write_bytes(data)
    return {"file": MAP, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
