"""Priors of the top level of the code, a vector (d,) or a flattened map (T', c).

A prior is a layer that owns its learned parameters and returns its distribution. A sample needs
d + `extra_noise` standard normal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from keras import initializers, layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig
from .distributions import (
    Autoregressive,
    CorrelatedGaussian,
    Distribution,
    Gaussian,
    Invertible,
    Mixture,
    clip_log_variance,
)
from .flows import AffineCoupling
from .tensors import Tensor

PseudoPosterior = Callable[[Tensor], Gaussian]
"""Soft texts (K, T, E), the input of the encoder -> posterior of the top level, (K, d)."""


class StandardPrior(layers.Layer):
    """N(0, I)."""

    extra_noise = 0

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        self.built = True

    def distribution(self, codes: Tensor) -> Distribution:
        """p(z) for latent codes (B, d), of which only the shape matters."""
        return Gaussian.standard_like(codes)


class MixturePrior(layers.Layer):
    """K Gaussians with learned weights, means and variances, or covariances.

    Dilokthanakul et al. 2016; Petersen 2018, 7.3. Full covariances are A diag(variances) A', where
    A has ones on the diagonal and the learned entries `below` under it.
    """

    extra_noise = 1

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        size = (config.prior_components, flat_size(shape))
        self.logits = self.add_weight(shape=size[:1], initializer="zeros", name="logits")
        self.mean = self.add_weight(
            shape=size, initializer=initializers.RandomNormal(stddev=0.5), name="mean"
        )
        self.log_variance = self.add_weight(shape=size, initializer="zeros", name="log_variance")
        self.below = None
        if config.prior_covariance == "full" and size[1] > 1:
            shape_below = (size[0], size[1] * (size[1] - 1) // 2)
            self.below = self.add_weight(shape=shape_below, initializer="zeros", name="below")
        self.built = True

    def distribution(self, codes: Tensor) -> Distribution:
        mean, log_variance = ops.convert_to_tensor(self.mean), clip_log_variance(self.log_variance)
        return Mixture(
            ops.log_softmax(self.logits),
            Gaussian(mean, log_variance)
            if self.below is None
            else CorrelatedGaussian(mean, log_variance, unit_triangle(self.below, mean.shape[-1])),
        )


class VampPrior(layers.Layer):
    """The average of the posteriors of K learned soft texts (Tomczak and Welling 2018, eq. 9)."""

    extra_noise = 1

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        self.one_hot = not config.encoder_embedding
        size = config.encoder_embedding or config.vocabulary_size
        self.texts = self.add_weight(
            shape=(config.prior_components, config.length, size),
            initializer=initializers.RandomNormal(stddev=2.0 if self.one_hot else 0.05),
            name="texts",
        )
        self.posterior_of = posterior_of
        self.built = True

    def distribution(self, codes: Tensor) -> Distribution:
        texts = ops.convert_to_tensor(self.texts)
        components = self.posterior_of(ops.softmax(texts) if self.one_hot else texts)
        return Mixture(ops.log_softmax(ops.zeros(self.texts.shape[0])), components)


class AutoregressivePrior(layers.Layer):
    """AR(1) along the positions of a map (Razavi et al. 2019).

    The KL of any posterior from it is at least `prior_rate` nats.
    """

    extra_noise = 0

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        if len(shape) < 2 or shape[0] < 3:
            raise ConfigError(
                "model.prior 'autoregressive' runs along at least three positions of a code: "
                "set model.latent to 'map', with an encoder that keeps positions"
            )
        largest = shape[1] * Autoregressive.committed_rate(Autoregressive.LARGEST, shape[0])
        if config.prior_rate > largest:
            raise ConfigError(
                f"model.prior_rate must be at most {largest:.1f} nats for a map of {shape[0]} "
                f"positions and {shape[1]} channels, got {config.prior_rate}; lower it"
            )
        self.chain = Autoregressive.with_rate(config.prior_rate, *shape)
        self.built = True

    def distribution(self, codes: Tensor) -> Distribution:
        return self.chain


class FlowPrior(layers.Layer):
    """Standard normal noise transformed by affine coupling layers, N(0, I) at first.

    A sample and the density of a code each take one pass (Dinh et al. 2017, eq. 2).
    """

    extra_noise = 0

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior", dtype="float32")
        self.coupling = AffineCoupling(config, flat_size(shape))
        self.built = True

    def distribution(self, codes: Tensor) -> Distribution:
        return Invertible(
            Gaussian.standard_like(codes), self.coupling.forward, self.coupling.inverse
        )


def unit_triangle(below: Tensor, size: int) -> Tensor:
    """Lower triangular matrices (K, d, d) with ones on the diagonal, from the entries below it,
    (K, d (d - 1) / 2), row by row."""
    places = np.full((size, size), 1, "int32")  # column 1 of the entries is 0, column 0 is 1
    np.fill_diagonal(places, 0)
    places[np.tril_indices(size, -1)] = 2 + np.arange(below.shape[-1])
    below = ops.convert_to_tensor(below)
    constants = ops.ones((below.shape[0], 1)) * np.array([[1.0, 0.0]], "float32")
    return ops.take(ops.concatenate([constants, below], axis=-1), places, axis=-1)


def flat_size(shape: Sequence[int]) -> int:
    """Size of a flattened latent code of that shape."""
    return math.prod(shape)


LAYERS: dict[str, Callable[[ModelConfig, tuple[int, ...], PseudoPosterior], layers.Layer]] = {
    "standard": StandardPrior,
    "mixture": MixturePrior,
    "vamp": VampPrior,
    "autoregressive": AutoregressivePrior,
    "flow": FlowPrior,
}
