"""Priors p(z). Each tells the KL of a posterior from it, and how standard normal noise becomes a z of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from .configuration import ModelConfig
from .distributions import Gaussian


class Prior(Protocol):
    """What the model asks of a prior."""

    def kl_divergence(self, posterior: Gaussian, z: Any) -> Any:
        """KL(q(z|x) || p(z)), nats per example, (B,): closed where there is a form, else from the sample z."""

    def sample(self, noise: Any) -> Any:
        """Noise (B, d), standard normal, as a sample of the prior (B, d)."""


class Standard:
    """N(0, I)."""

    def __init__(self, config: ModelConfig) -> None:
        pass

    def kl_divergence(self, posterior: Gaussian, z: Any) -> Any:
        return posterior.kl_divergence(Gaussian.standard_like(posterior.mean))

    def sample(self, noise: Any) -> Any:
        return noise


PRIORS: dict[str, Callable[[ModelConfig], Prior]] = {"standard": Standard}
