"""Probability distributions over latent codes. Event axes are summed inside: callers get one number per example, (B,)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras import ops

LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Gaussian:
    """Independent normals: `mean` and `log_variance` of the same shape (B, d), or (B, T', c) for a map."""

    mean: Any
    log_variance: Any

    @classmethod
    def standard_like(cls, tensor: Any) -> Gaussian:
        """N(0, I) of the shape of `tensor`."""
        zeros = ops.zeros_like(tensor)
        return cls(zeros, zeros)

    def sample(self, noise: Any) -> Any:
        """mean + sigma * noise (Kingma and Welling 2014, eq. 10); `noise` is standard normal, the caller's."""
        return self.mean + ops.exp(0.5 * self.log_variance) * noise

    def log_prob(self, z: Any) -> Any:
        """log density of z, nats, (B,)."""
        squared = ops.square(z - self.mean) * ops.exp(-self.log_variance)
        return -0.5 * event_sum(LOG_TWO_PI + self.log_variance + squared)

    def kl_per_dimension(self, other: Gaussian) -> Any:
        """KL(self || other) of each dimension, nats, (B, d) (Kingma and Welling 2014, appendix B, for two Gaussians)."""
        ratio = ops.exp(self.log_variance - other.log_variance)
        distance = ops.square(self.mean - other.mean) * ops.exp(-other.log_variance)
        return 0.5 * (ratio + distance - 1.0 + other.log_variance - self.log_variance)

    def kl_divergence(self, other: Gaussian) -> Any:
        """KL(self || other), nats per example, (B,)."""
        return event_sum(self.kl_per_dimension(other))


def event_sum(values: Any) -> Any:
    """(B, ...) -> (B,): the sum over every axis but the first."""
    return ops.sum(values, axis=tuple(range(1, len(values.shape))))
