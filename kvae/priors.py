"""Priors of the top level of the code, a vector (d,) or a flattened map (T', c).

A prior is a layer that owns what it learns and tells its distribution; `extra_noise` says how many standard normal numbers
a sample takes besides d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import initializers, layers, ops

from kvae.serving.errors import ConfigError

from .configuration import ModelConfig
from .distributions import Autoregressive, Distribution, Gaussian, Mixture, clip_log_variance

PseudoPosterior = Callable[[Any], Gaussian]
"""Soft texts (K, T, E), as the encoder reads them, to the posterior of the top level, (K, d)."""


class Standard(layers.Layer):
    """N(0, I)."""

    extra_noise = 0

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        self.built = True

    def distribution(self, like: Any) -> Distribution:
        """p(z) for codes of the shape of `like` (B, d)."""
        return Gaussian.standard_like(like)


class MixturePrior(layers.Layer):
    """K Gaussians with learned weights, means and variances (Dilokthanakul et al. 2016; Petersen 2018, 7.3)."""

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
        self.built = True

    def distribution(self, like: Any) -> Distribution:
        components = Gaussian(
            ops.convert_to_tensor(self.mean), clip_log_variance(self.log_variance)
        )
        return Mixture(ops.log_softmax(self.logits), components)


class VampPrior(layers.Layer):
    """The mean of the posteriors of K learned soft texts (Tomczak and Welling 2018, eq. 9)."""

    extra_noise = 1

    def __init__(
        self, config: ModelConfig, shape: tuple[int, ...], posterior_of: PseudoPosterior
    ) -> None:
        super().__init__(name="prior")
        self.one_hot = not config.encoder_embedding
        symbols = config.encoder_embedding or config.vocabulary_size
        self.texts = self.add_weight(
            shape=(config.prior_components, config.length, symbols),
            initializer=initializers.RandomNormal(stddev=2.0 if self.one_hot else 0.05),
            name="texts",
        )
        self.posterior_of = posterior_of
        self.built = True

    def distribution(self, like: Any) -> Distribution:
        texts = ops.convert_to_tensor(self.texts)
        components = self.posterior_of(ops.softmax(texts) if self.one_hot else texts)
        return Mixture(ops.log_softmax(ops.zeros(self.texts.shape[0])), components)


class AutoregressivePrior(layers.Layer):
    """AR(1) along the positions of a map, from which no posterior comes closer than `prior_rate` nats (Razavi et al. 2019)."""

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
                f"model.prior_rate: a map of {shape[0]} positions and {shape[1]} channels can be held at {largest:.1f} nats at "
                f"most, got {config.prior_rate}"
            )
        self.chain = Autoregressive.with_rate(config.prior_rate, *shape)
        self.built = True

    def distribution(self, like: Any) -> Distribution:
        return self.chain


def flat_size(shape: tuple[int, ...]) -> int:
    """Numbers in a code of that shape."""
    size = 1
    for length in shape:
        size *= length
    return size


PRIORS: dict[str, Callable[[ModelConfig, tuple[int, ...], PseudoPosterior], Any]] = {
    "standard": Standard,
    "mixture": MixturePrior,
    "vamp": VampPrior,
    "autoregressive": AutoregressivePrior,
}
