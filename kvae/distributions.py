"""Probability distributions over latent codes.

Every distribution has `sample(noise)` and `log_prob(z)`. A prior also has `kl_from(posterior, z)`.
`log_prob` sums over the event axes and returns one number per example, (B,). `kl_from` returns one
number per dimension if the KL is a sum over dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from keras import ops

from kvae.serving.random_numbers import normals

from .tensors import Tensor

LOG_TWO_PI = math.log(2 * math.pi)

PAIRS = 32
"""Pairs of opposite draws from which the variance of a transformed Gaussian is estimated."""

Transform = Callable[[Tensor], tuple[Tensor, Tensor]]
"""z (..., B, d) -> its image (..., B, d) and the log |determinant| (..., B) of the Jacobian."""

MAX_LOG_VARIANCE = 20.0
"""Learned log variances are clipped to [-20, 20].

A standard deviation of 5e-5 is near the resolution of float32 for numbers of a few dozen. Beyond 88
the KL would be infinity times 0.
"""


class Distribution(Protocol):
    """The interface of a prior."""

    def sample(self, noise: Tensor) -> Tensor:
        """Turn standard normal noise of the caller into a sample (B, d)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of z (B, d) in nats, (B,)."""

    def kl_from(self, posterior: Gaussian, z: Tensor) -> Tensor:
        """KL(posterior || self) in nats: (B, d) if it is a sum over dimensions, else (B, 1).

        It is exact if a closed form exists, else an unbiased estimate from z, a posterior sample.
        """


@dataclass(frozen=True)
class Gaussian:
    """Independent normal distributions; `mean` and `log_variance` have the same shape (B, d)."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def standard_like(cls, tensor: Tensor) -> Gaussian:
        """N(0, I) with the shape of `tensor`."""
        zeros = ops.zeros_like(tensor)
        return cls(zeros, zeros)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + sigma * noise (Kingma and Welling 2014, eq. 10)."""
        return self.mean + ops.exp(0.5 * self.log_variance) * noise

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A sample (B, d) and its log density in nats, (B,)."""
        z = self.sample(noise)
        return z, self.log_prob(z)

    def log_prob(self, z: Tensor) -> Tensor:
        squared = ops.square(z - self.mean) * ops.exp(-self.log_variance)
        return -0.5 * event_sum(LOG_TWO_PI + self.log_variance + squared)

    def kl_from(self, posterior: Gaussian, z: Tensor | None = None) -> Tensor:
        """KL of each dimension, (B, d) (Kingma and Welling 2014, appendix B, for two Gaussians)."""
        ratio = ops.exp(posterior.log_variance - self.log_variance)
        distance = ops.square(posterior.mean - self.mean) * ops.exp(-self.log_variance)
        return 0.5 * (ratio + distance - 1.0 + self.log_variance - posterior.log_variance)

    def drawn(self, chosen: Tensor, noise: Tensor) -> Tensor:
        """Samples (B, d) of the rows `chosen` (B,) from noise (B, d)."""
        mean, log_variance = (
            ops.take(part, chosen, axis=0) for part in (self.mean, self.log_variance)
        )
        return Gaussian(mean, log_variance).sample(noise)

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        """Log density of z (B, d) under each of K rows, (B, K)."""
        log_variance = ops.expand_dims(self.log_variance, 0)
        squared = ops.square(self.differences(z)) * ops.exp(-log_variance)
        return -0.5 * ops.sum(LOG_TWO_PI + log_variance + squared, axis=-1)

    def differences(self, z: Tensor) -> Tensor:
        """z (B, d) minus the mean of each of K rows, (B, K, d)."""
        return ops.expand_dims(z, 1) - ops.expand_dims(self.mean, 0)

    def merged(self, other: Gaussian) -> Gaussian:
        """The normalised product of two Gaussian densities (Soenderby et al. 2016, eq. 17-19).

        Precisions add up; the mean is the precision-weighted mean.
        """
        weight = ops.sigmoid(other.log_variance - self.log_variance)
        mean = weight * self.mean + (1.0 - weight) * other.mean
        shrinkage = ops.softplus(self.log_variance - other.log_variance)
        return Gaussian(mean, self.log_variance - shrinkage)


@dataclass(frozen=True)
class Transformed:
    """The distribution of `forward(z)` for z of a Gaussian `base` (Rezende and Mohamed 2015, eq.
    5-7).

    `mean` and `log_variance` describe it as if it were a Gaussian: `mean` is the image of the mean
    of the base.
    """

    base: Gaussian
    forward: Transform

    @property
    def mean(self) -> Tensor:
        """The image of the base's mean, (B, d)."""
        return self.forward(self.base.mean)[0]

    @property
    def log_variance(self) -> Tensor:
        """Log of the mean squared distance from `mean` in each dimension, (B, d).

        It is estimated from `PAIRS` pairs of opposite draws, always the same. They are scaled so
        that the estimate is exact for a transform that stretches each dimension by a constant.
        """
        draws = normals(0, np.arange(PAIRS), self.base.mean.shape[-1])[:, None, :]
        draws /= np.sqrt(np.mean(np.square(draws), axis=0))
        images, _ = self.forward(self.base.sample(np.concatenate([draws, -draws])))
        return clip_log_variance(ops.log(ops.mean(ops.square(images - self.mean), axis=0)))

    def sample(self, noise: Tensor) -> Tensor:
        return self.forward(self.base.sample(noise))[0]

    def sample_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A sample (B, d) and its log density in nats, (B,)."""
        z, log_density = self.base.sample_with_log_prob(noise)
        image, log_determinant = self.forward(z)
        return image, log_density - log_determinant


@dataclass(frozen=True)
class Invertible(Transformed):
    """The same with an inverse, which gives the density of any code."""

    inverse: Transform
    """An image -> z, and the log |determinant| of `forward` at z."""

    def log_prob(self, z: Tensor) -> Tensor:
        before, log_determinant = self.inverse(z)
        return self.base.log_prob(before) - log_determinant

    def kl_from(self, posterior: Gaussian, z: Tensor) -> Tensor:
        """The log ratio at the sample z, (B, 1); the KL has no closed form."""
        return log_ratio(posterior, self, z)


@dataclass(frozen=True)
class CorrelatedGaussian(Gaussian):
    """K normal distributions with full covariances, as components of a `Mixture`.

    The covariance of a row is A diag(exp(log_variance)) A', where A is the row of `triangle`
    (K, d, d), lower triangular with ones on the diagonal. So its determinant is that of the
    diagonal.
    """

    triangle: Tensor

    def drawn(self, chosen: Tensor, noise: Tensor) -> Tensor:
        count, size = self.mean.shape
        scaled = self.triangle * ops.expand_dims(ops.exp(0.5 * self.log_variance), 1)
        # One product for all rows: a matrix for each sample would need B d^2 numbers.
        weights = ops.reshape(ops.transpose(scaled, (2, 0, 1)), (size, count * size))
        each = ops.reshape(ops.matmul(noise, weights), (-1, count, size)) + self.mean
        return ops.sum(ops.expand_dims(ops.one_hot(chosen, count), -1) * each, axis=1)

    def log_prob_of_each(self, z: Tensor) -> Tensor:
        identity = ops.zeros_like(self.triangle) + np.eye(self.mean.shape[-1], dtype="float32")
        inverse = ops.solve_triangular(self.triangle, identity, lower=True)
        differences = ops.transpose(self.differences(z), (1, 0, 2))
        independent = ops.matmul(differences, ops.transpose(inverse, (0, 2, 1)))
        log_variance = ops.expand_dims(self.log_variance, 1)
        terms = LOG_TWO_PI + log_variance + ops.square(independent) * ops.exp(-log_variance)
        return -0.5 * ops.transpose(ops.sum(terms, axis=-1))


@dataclass(frozen=True)
class Mixture:
    """A mixture of K Gaussians: normalised `log_weights` (K,), `components` of shape (K, d)."""

    log_weights: Tensor
    components: Gaussian

    def sample(self, noise: Tensor) -> Tensor:
        """A sample (B, d) from noise (B, d + 1), whose last column chooses the component."""
        chosen = component_index(noise[:, -1], ops.exp(self.log_weights))
        return self.components.drawn(chosen, noise[:, :-1])

    def log_prob(self, z: Tensor) -> Tensor:
        return ops.logsumexp(self.log_weights + self.components.log_prob_of_each(z), axis=-1)

    def kl_from(self, posterior: Gaussian, z: Tensor) -> Tensor:
        """The log ratio at the sample z, (B, 1); the KL has no closed form."""
        return log_ratio(posterior, self, z)


@dataclass(frozen=True)
class Autoregressive:
    """A stationary AR(1) chain along the positions of a map (delta-VAE, Razavi et al. 2019, eq. 5).

    z_1 ~ N(0, I) and z_t ~ N(a z_(t-1), 1 - a^2). A latent code is a flattened map of `positions`
    rows. A posterior with independent dimensions has a KL of at least `committed_rate` from this
    prior.
    """

    coefficient: float
    positions: int

    LARGEST: ClassVar[float] = 0.999
    """The largest coefficient; with a larger one the innovations are too small to learn."""

    @staticmethod
    def committed_rate(coefficient: float, positions: int) -> float:
        """The smallest KL of one channel in nats: (n - 2) / 2 ln(1 + a^2) - 1/2 ln(1 - a^2)."""
        square = coefficient**2
        return 0.5 * ((positions - 2) * math.log1p(square) - math.log1p(-square))

    @classmethod
    def with_rate(cls, rate: float, positions: int, channels: int) -> Autoregressive:
        """The chain whose committed rate, summed over the channels, is `rate` nats."""
        low, high = 0.0, cls.LARGEST
        for _ in range(100):
            middle = 0.5 * (low + high)
            if channels * cls.committed_rate(middle, positions) < rate:
                low = middle
            else:
                high = middle
        return cls(low, positions)

    def sample(self, noise: Tensor) -> Tensor:
        steps = np.arange(self.positions)
        lag = steps[None, :] - steps[:, None]
        innovation = np.where(steps == 0, 1.0, math.sqrt(1 - self.coefficient**2))[:, None]
        weights = np.where(lag >= 0, self.coefficient ** np.maximum(lag, 0), 0.0) * innovation
        return self.to_vector(
            ops.einsum("bsc,st->btc", self.to_map(noise), weights.astype("float32"))
        )

    def log_prob(self, z: Tensor) -> Tensor:
        rows = self.to_map(z)
        mean = self.coefficient * self.shift(rows)
        return Gaussian(mean, self.log_variance(rows)).log_prob(rows)

    def kl_from(self, posterior: Gaussian, z: Tensor | None = None) -> Tensor:
        """KL of each dimension in closed form, (B, d).

        The expectation over the previous position adds its variance to the squared distance.
        """
        mean, log_variance = self.to_map(posterior.mean), self.to_map(posterior.log_variance)
        variance = ops.exp(log_variance)
        distance = ops.square(mean - self.coefficient * self.shift(mean))
        distance += self.coefficient**2 * self.shift(variance)
        prior = self.log_variance(mean)
        ratio = (variance + distance) * ops.exp(-prior)
        return self.to_vector(0.5 * (ratio - 1.0 + prior - log_variance))

    def to_map(self, flat: Tensor) -> Tensor:
        """(B, positions * channels) -> (B, positions, channels)."""
        return ops.reshape(flat, (-1, self.positions, flat.shape[-1] // self.positions))

    def to_vector(self, rows: Tensor) -> Tensor:
        """(B, positions, channels) -> (B, positions * channels)."""
        return ops.reshape(rows, (-1, rows.shape[1] * rows.shape[2]))

    def shift(self, rows: Tensor) -> Tensor:
        """Move each row to the next position; the first row becomes zeros."""
        return ops.pad(rows[:, :-1], [[0, 0], [1, 0], [0, 0]])

    def log_variance(self, rows: Tensor) -> Tensor:
        """Log variance given the previous row, (B, T', c): ln(1 - a^2), 0 at the first position."""
        first = ops.cast(ops.arange(self.positions) == 0, rows.dtype)[None, :, None]
        return (1.0 - first) * math.log1p(-(self.coefficient**2)) + ops.zeros_like(rows)


def log_ratio(posterior: Gaussian, prior: Distribution, z: Tensor) -> Tensor:
    """log q(z|x) - log p(z) at a sample z (B, d) of the posterior, nats, (B, 1)."""
    return ops.expand_dims(posterior.log_prob(z) - prior.log_prob(z), -1)


def component_index(noise: Tensor, weights: Tensor) -> Tensor:
    """Turn standard normal noise (B,) into indices that follow the probabilities `weights` (K,)."""
    uniform = 0.5 * (1.0 + ops.erf(noise / math.sqrt(2.0)))
    exceeded = ops.expand_dims(uniform, -1) >= ops.cumsum(weights)[:-1]
    return ops.sum(ops.cast(exceeded, "int32"), axis=-1)


def clip_log_variance(log_variance: Tensor) -> Tensor:
    """Clip a learned log variance to [-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE]."""
    return ops.clip(log_variance, -MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)


def event_sum(values: Tensor) -> Tensor:
    """Sum over every axis but the first: (B, ...) -> (B,)."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))
