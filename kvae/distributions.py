"""Probability distributions over latent codes.

Every distribution offers `sample(noise)` and `log_prob(z)`, and as a prior `kl_from(posterior, z)`. Event axes are summed
inside: callers get one number per example, (B,); `kl_from` keeps the dimensions apart where the KL is a sum over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from keras import ops

LOG_TWO_PI = math.log(2 * math.pi)

MAX_LOG_VARIANCE = 20.0
"""A log variance that is learned stays between this and its negative: a deviation of 5e-5 is all that float32 can tell
apart around numbers of a few dozen, and beyond 88 a KL is infinity times 0."""


class Distribution(Protocol):
    """What a prior is."""

    def sample(self, noise: Any) -> Any:
        """Standard normal noise of the caller as a sample (B, d)."""

    def log_prob(self, z: Any) -> Any:
        """log density of z (B, d), nats, (B,)."""

    def kl_from(self, posterior: Gaussian, z: Any) -> Any:
        """KL(posterior || self), nats: (B, d) where it is a sum over dimensions, else (B, 1).

        Closed where there is a form, else estimated without bias from z, a sample of the posterior.
        """


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: `mean` and `log_variance` of the same shape (B, d)."""

    mean: Any
    log_variance: Any

    @classmethod
    def standard_like(cls, tensor: Any) -> Gaussian:
        """N(0, I) of the shape of `tensor`."""
        zeros = ops.zeros_like(tensor)
        return cls(zeros, zeros)

    def sample(self, noise: Any) -> Any:
        """mean + sigma * noise (Kingma and Welling 2014, eq. 10)."""
        return self.mean + ops.exp(0.5 * self.log_variance) * noise

    def log_prob(self, z: Any) -> Any:
        squared = ops.square(z - self.mean) * ops.exp(-self.log_variance)
        return -0.5 * event_sum(LOG_TWO_PI + self.log_variance + squared)

    def kl_from(self, posterior: Gaussian, z: Any = None) -> Any:
        """Each dimension's own, (B, d) (Kingma and Welling 2014, appendix B, for two Gaussians)."""
        ratio = ops.exp(posterior.log_variance - self.log_variance)
        distance = ops.square(posterior.mean - self.mean) * ops.exp(-self.log_variance)
        return 0.5 * (ratio + distance - 1.0 + self.log_variance - posterior.log_variance)

    def merged(self, other: Gaussian) -> Gaussian:
        """The product of two Gaussian densities, normalised: precisions add, means are weighted by them (Soenderby et al.
        2016, eq. 17-19)."""
        share = ops.sigmoid(other.log_variance - self.log_variance)
        mean = share * self.mean + (1.0 - share) * other.mean
        return Gaussian(
            mean, self.log_variance - ops.softplus(self.log_variance - other.log_variance)
        )


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians: `log_weights` (K,), normalised, and `components` with mean and log variance (K, d)."""

    log_weights: Any
    components: Gaussian

    def sample(self, noise: Any) -> Any:
        """`noise` is (B, d + 1): the last column chooses the component, the others are its noise."""
        chosen = component_index(noise[:, -1], ops.exp(self.log_weights))
        parts = (
            ops.take(part, chosen, axis=0)
            for part in (self.components.mean, self.components.log_variance)
        )
        return Gaussian(*parts).sample(noise[:, :-1])

    def log_prob(self, z: Any) -> Any:
        each = Gaussian(
            *(
                ops.expand_dims(part, 0)
                for part in (self.components.mean, self.components.log_variance)
            )
        )
        squared = ops.square(ops.expand_dims(z, 1) - each.mean) * ops.exp(-each.log_variance)
        log_density = -0.5 * ops.sum(LOG_TWO_PI + each.log_variance + squared, axis=-1)
        return ops.logsumexp(self.log_weights + log_density, axis=-1)

    def kl_from(self, posterior: Gaussian, z: Any) -> Any:
        """No closed form: log q(z|x) - log p(z) at the sample, (B, 1)."""
        return ops.expand_dims(posterior.log_prob(z) - self.log_prob(z), -1)


@dataclass(frozen=True)
class Autoregressive:
    """A stationary AR(1) chain along the positions of a map: z_1 ~ N(0, I), z_t ~ N(a z_(t-1), 1 - a^2).

    Codes are maps of `positions` rows, flattened. No independent posterior has a KL below `committed_rate` from it
    (delta-VAE, Razavi et al. 2019, eq. 5).
    """

    coefficient: float
    positions: int

    LARGEST: ClassVar[float] = 0.999
    """Coefficient up to which the steps of the chain are not too small to learn."""

    @staticmethod
    def committed_rate(coefficient: float, positions: int) -> float:
        """The smallest KL of one channel, nats: (n - 2) / 2 ln(1 + a^2) - 1/2 ln(1 - a^2)."""
        square = coefficient**2
        return 0.5 * ((positions - 2) * math.log1p(square) - math.log1p(-square))

    @classmethod
    def with_rate(cls, rate: float, positions: int, channels: int) -> Autoregressive:
        """The chain whose committed rate, over all channels, is `rate` nats."""
        low, high = 0.0, cls.LARGEST
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (
                (middle, high)
                if channels * cls.committed_rate(middle, positions) < rate
                else (low, middle)
            )
        return cls(low, positions)

    def sample(self, noise: Any) -> Any:
        steps = np.arange(self.positions)
        lag = steps[None, :] - steps[:, None]
        innovation = np.where(steps == 0, 1.0, math.sqrt(1 - self.coefficient**2))[:, None]
        carried = np.where(lag >= 0, self.coefficient ** np.maximum(lag, 0), 0.0) * innovation
        return self.flat(ops.einsum("bsc,st->btc", self.rows(noise), carried.astype("float32")))

    def log_prob(self, z: Any) -> Any:
        rows = self.rows(z)
        before = self.coefficient * self.delayed(rows)
        return Gaussian(before, self.log_variance(rows)).log_prob(rows)

    def kl_from(self, posterior: Gaussian, z: Any = None) -> Any:
        """The expectation over the step before is closed: its variance adds to the squared distance, (B, d)."""
        mean, log_variance = self.rows(posterior.mean), self.rows(posterior.log_variance)
        variance = ops.exp(log_variance)
        distance = ops.square(mean - self.coefficient * self.delayed(mean))
        distance += self.coefficient**2 * self.delayed(variance)
        own = self.log_variance(mean)
        return self.flat(0.5 * ((variance + distance) * ops.exp(-own) - 1.0 + own - log_variance))

    def rows(self, flat: Any) -> Any:
        return ops.reshape(flat, (-1, self.positions, flat.shape[-1] // self.positions))

    def flat(self, rows: Any) -> Any:
        return ops.reshape(rows, (-1, rows.shape[1] * rows.shape[2]))

    def delayed(self, rows: Any) -> Any:
        """Each row moved one position on, zeros first."""
        return ops.pad(rows[:, :-1], [[0, 0], [1, 0], [0, 0]])

    def log_variance(self, rows: Any) -> Any:
        """ln(1 - a^2), and 0 for the first position."""
        first = ops.cast(ops.arange(self.positions) == 0, rows.dtype)[None, :, None]
        return (1.0 - first) * math.log1p(-(self.coefficient**2)) + ops.zeros_like(rows)


def component_index(noise: Any, weights: Any) -> Any:
    """Standard normal noise (B,) as indices into `weights` (K,), drawn in proportion to them."""
    uniform = 0.5 * (1.0 + ops.erf(noise / math.sqrt(2.0)))
    passed = ops.expand_dims(uniform, -1) >= ops.cumsum(weights)[:-1]
    return ops.sum(ops.cast(passed, "int32"), axis=-1)


def clip_log_variance(log_variance: Any) -> Any:
    """What is learned, as a log variance that can be computed with."""
    return ops.clip(log_variance, -MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)


def event_sum(values: Any) -> Any:
    """(B, ...) -> (B,): the sum over every axis but the first."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))
