"""Gaussian mixtures fitted to codes by expectation maximisation, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvae.distributions import LOG_TWO_PI

from .messages import Say, quiet

MOST_ITERATIONS = 100
"""Largest number of iterations, as in scikit-learn."""

TOLERANCE = 1e-3
"""Iterations end when one raises the mean log density by less than this, in nats."""

RIDGE = 1e-6
"""Share of the mean variance of the codes that is added to all variances, so that a component of a
few codes keeps a density."""

COVARIANCES = ("full", "diagonal")
"""Kinds of covariance. A component of the first has d (d + 1) / 2 numbers for it."""


@dataclass(frozen=True)
class GaussianMixture:
    """K Gaussians: log weights (K,), means (K, d) and the Cholesky factors of their covariances,
    (K, d, d)."""

    log_weights: np.ndarray
    means: np.ndarray
    factors: np.ndarray

    def log_prob(self, codes: np.ndarray) -> np.ndarray:
        """Log density of codes (N, d) in nats, (N,)."""
        return np.asarray(np.logaddexp.reduce(self.joint_log_prob(codes), axis=1))

    def joint_log_prob(self, codes: np.ndarray) -> np.ndarray:
        """Log density of codes (N, d) together with each component, (N, K)."""
        joint = np.empty((len(codes), len(self.means)))
        for place, (mean, factor) in enumerate(zip(self.means, self.factors, strict=True)):
            independent = (codes - mean) @ np.linalg.inv(factor).T
            joint[:, place] = -0.5 * np.sum(independent**2, axis=1) - np.log(np.diag(factor)).sum()
        return np.asarray(joint + self.log_weights - 0.5 * LOG_TWO_PI * codes.shape[1])


def parameters(components: int, size: int, covariance: str) -> int:
    """Free numbers of a mixture of K components in d dimensions."""
    of_covariance = size * (size + 1) // 2 if covariance == "full" else size
    return components * (1 + size + of_covariance) - 1


def fit(
    codes: np.ndarray,
    components: int,
    covariance: str = "full",
    seed: int = 0,
    say: Say = quiet,
) -> tuple[GaussianMixture, list[float]]:
    """A mixture with the largest mean log density of codes (N, d) that is found, and that density
    before each iteration and after the last one, nats.

    Expectation maximisation (Dempster et al. 1977), from centres by k-means++ (Arthur and
    Vassilvitskii 2007). No iteration lowers the density.
    """
    codes = codes.astype(np.float64)
    shape = SHAPES[covariance]
    ridge = RIDGE * codes.var(axis=0).mean() + np.finfo(np.float32).tiny
    centres = spread_centres(codes, components, np.random.default_rng(seed))
    nearest = np.argmin(squared_distances(codes, centres), axis=1)
    mixture = maximised(codes, np.eye(components)[nearest], shape, ridge)
    means: list[float] = []
    while True:
        joint = mixture.joint_log_prob(codes)
        density = np.logaddexp.reduce(joint, axis=1)
        means.append(float(density.mean()))
        gained = means[-1] - means[-2] if len(means) > 1 else math.inf
        if gained < TOLERANCE or len(means) > MOST_ITERATIONS or components == 1:
            return mixture, means
        if len(means) % 10 == 0:
            say(f"iteration {len(means)}: {-means[-1]:.3f} nats a code")
        mixture = maximised(codes, np.exp(joint - density[:, None]), shape, ridge)


def maximised(
    codes: np.ndarray,
    shares: np.ndarray,
    shape: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ridge: float,
) -> GaussianMixture:
    """The most likely mixture for codes (N, d) of which each component has `shares` (N, K)."""
    counts = shares.sum(axis=0) + 10 * np.finfo(np.float64).eps
    means = shares.T @ codes / counts[:, None]
    factors = [
        np.linalg.cholesky(shape(codes - mean, share / count) + ridge * np.eye(codes.shape[1]))
        for mean, share, count in zip(means, shares.T, counts, strict=True)
    ]
    return GaussianMixture(np.log(counts / counts.sum()), means, np.stack(factors))


def full_covariance(centred: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The covariance (d, d) of centred codes (N, d) with weights (N,)."""
    return np.asarray((centred * weights[:, None]).T @ centred)


def diagonal_covariance(centred: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Its diagonal alone, (d, d)."""
    return np.diag(weights @ centred**2)


SHAPES: dict[str, Callable[[Any, Any], np.ndarray]] = dict(
    zip(COVARIANCES, (full_covariance, diagonal_covariance), strict=True)
)


def spread_centres(codes: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` of the codes (N, d), each drawn in proportion to its squared distance from those
    before (k-means++)."""
    places = [int(generator.integers(len(codes)))]
    nearest = np.full(len(codes), np.inf)
    while len(places) < count:
        nearest = np.minimum(nearest, squared_distances(codes, codes[places[-1:]])[:, 0])
        total = nearest.sum()
        chances = nearest / total if total > 0 else None
        places.append(int(generator.choice(len(codes), p=chances)))
    return codes[places]


def squared_distances(codes: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances of codes (N, d) from centres (K, d), (N, K)."""
    squares = (codes**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(squares - 2 * codes @ centres.T, 0.0)
