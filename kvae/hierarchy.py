"""The latent code as a hierarchy of levels. One top-down pass serves inference (with evidence of
the text) and generation.

Codes are flat, (B, d): the levels concatenated, bottom first, with maps flattened. A code of one
level is the top level.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import layers, ops

from .blocks import batch_norm_relu
from .configuration import ModelConfig
from .distributions import Distribution, Gaussian, Transformed, clip_log_variance, event_sum
from .encoders import LAYERS
from .priors import flat_size
from .tensors import Tensor

Shape = tuple[int, ...]

ContextFlow = Callable[..., tuple[Tensor, Tensor]]
"""z (..., B, d) and `context` (B, n) -> the image (..., B, d) and its log |determinant|."""


@dataclass(frozen=True)
class Level:
    """One level after the top-down pass: the sample z (B, d_i), its prior and, in inference, its
    posterior."""

    z: Tensor
    prior: Distribution
    posterior: Any = None
    """A `Gaussian` or `Transformed` in inference, None in generation."""
    log_posterior: Tensor | None = None
    """log q(z|x) at z in inference, nats, (B,)."""

    @property
    def log_ratio(self) -> Tensor:
        """log q(z|x) - log p(z) at z, nats, (B,)."""
        return self.log_posterior - self.prior.log_prob(self.z)

    @property
    def kl(self) -> Tensor:
        """KL of the posterior from the prior, nats: (B, d_i) if it is a sum over dimensions, else
        (B, 1). That of a flow is the log ratio at z, an unbiased estimate."""
        if isinstance(self.posterior, Gaussian):
            return self.prior.kl_from(self.posterior, self.z)
        return ops.expand_dims(self.log_ratio, -1)

    @property
    def shift(self) -> Tensor:
        """(posterior mean - prior mean) / prior standard deviation, (B, d_i). The posterior mean if
        the prior is not Gaussian."""
        mean, prior = self.posterior.mean, self.prior
        return (
            (mean - prior.mean) * ops.exp(-0.5 * prior.log_variance)
            if isinstance(prior, Gaussian)
            else mean
        )


class Hierarchy(layers.Layer):
    """Levels of the latent code with `shapes`, bottom first, each (d,) or (T', c). `prior` is the
    prior layer of the top level.

    The prior of z_L is `prior`. Its posterior is the evidence of the text, transformed by `flow` if
    there is one. Below, p(z_i | z_(i+1)) is learned, and q(z_i | x, z_(i+1)) merges it with the
    evidence of the text (ladder VAE, Soenderby et al. 2016). The level below is conditioned on a
    sample of the merged posterior.
    """

    def __init__(
        self,
        config: ModelConfig,
        shapes: Sequence[Shape],
        prior: keras.Layer,
        flow: ContextFlow | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)  # distributions, at any precision of the layers
        self.shapes = list(shapes)
        self.sizes = [flat_size(shape) for shape in shapes]
        self.size = sum(self.sizes)
        self.prior = prior
        self.flow = flow
        self.noise_size = self.size + (prior.extra_noise if shapes else 0)
        hidden = config.encoder_units[-len(self.shapes) :]
        self.downs = [
            top_down(config, above, below, units, level)
            for level, (below, above, units) in enumerate(
                zip(self.shapes, self.shapes[1:], hidden, strict=False)
            )
        ]
        self.built = True

    def call(
        self, evidence: Mapping[str, Tensor], noise: Tensor, training: bool = False
    ) -> dict[str, Tensor]:
        """Inference: evidence and noise (B, noise_size) to z, the posterior and the KL of each
        level.

        The evidence of a text is `mean` and `log_variance` (B, d) of all levels, and the `context`
        (B, n) of the flow if there is one.

        Returns `z`, `mean`, `log_variance` (B, d), `kl_level_0`, ... (B,) in nats, and `log_ratio`
        (B,), which is log q(z|x) - log p(z) at the sample. `kl_per_dimension` (B, d) is included if
        the KL of every level is a sum over dimensions.
        """
        levels = self.infer(evidence, noise, training)
        outputs = {
            "z": self.concatenated([level.z for level in levels], noise),
            "mean": self.concatenated([level.posterior.mean for level in levels], noise),
            "log_variance": self.concatenated(
                [level.posterior.log_variance for level in levels], noise
            ),
        }
        pieces = [level.kl for level in levels]
        outputs |= {
            f"kl_level_{number}": ops.sum(piece, axis=-1) for number, piece in enumerate(pieces)
        }
        if all(piece.shape[-1] == size for piece, size in zip(pieces, self.sizes, strict=True)):
            outputs["kl_per_dimension"] = self.concatenated(pieces, noise)
        ratios = [level.log_ratio for level in levels]
        return {**outputs, "log_ratio": sum(ratios, event_sum(0.0 * noise))}

    def infer(
        self, evidence: Mapping[str, Tensor], noise: Tensor, training: bool = False
    ) -> list[Level]:
        """Inference: all levels, bottom first, as `call` computes them."""
        levels: list[Any] = list(
            map(Gaussian, self.split(evidence["mean"]), self.split(evidence["log_variance"]))
        )
        if self.flow is not None:
            flow = partial(self.flow, context=evidence["context"])
            levels[-1] = Transformed(levels[-1], flow)
        return self.walk(noise, levels, training)

    def sample(self, noise: Tensor) -> Tensor:
        """Generation: noise (B, noise_size) to a code (B, d)."""
        return self.concatenated(
            [level.z for level in self.walk(noise, [None] * len(self.shapes), False)], noise
        )

    def walk(self, noise: Tensor, evidence: Sequence[Any], training: bool) -> list[Level]:
        """Compute all levels from the top down; return them bottom first."""
        levels: list[Level] = []
        for number in reversed(range(len(self.shapes))):
            above = levels[0].z if levels else None
            levels.insert(
                0,
                self.level(
                    number, above, self.level_noise(noise, number), evidence[number], training
                ),
            )
        return levels

    def level(
        self,
        number: int,
        above: Tensor | None,
        noise: Tensor,
        evidence: Any,
        training: bool,
    ) -> Level:
        """One level in inference or generation: its prior given z `above`, merged with the evidence
        if there is any."""
        if above is None:
            prior, posterior = self.prior.distribution(noise), evidence
        else:
            prior = Gaussian(**self.downs[number](above, training=training))
            posterior = None if evidence is None else evidence.merged(prior)
        if posterior is None:
            return Level(prior.sample(noise), prior)
        z, log_posterior = posterior.sample_with_log_prob(noise[:, : self.sizes[number]])
        return Level(z, prior, posterior, log_posterior)

    def level_noise(self, noise: Tensor, number: int) -> Tensor:
        """The noise of one level, (B, d_i). The extra noise that the prior of the top level needs
        is at the end of `noise`."""
        own = self.split(noise)[number]
        is_top = number == len(self.shapes) - 1
        return (
            ops.concatenate([own, noise[:, self.size : self.noise_size]], axis=-1)
            if is_top
            else own
        )

    def split(self, flat: Tensor) -> list[Tensor]:
        """Split (B, d) into the levels (B, d_i), bottom first."""
        ends = list(itertools.accumulate(self.sizes))
        return [flat[:, end - size : end] for size, end in zip(self.sizes, ends, strict=True)]

    def concatenated(self, parts: list[Tensor], batch_like: Tensor) -> Tensor:
        """Concatenate levels to (B, d). Without a level: (B, 0), with the batch size of
        `batch_like`."""
        return ops.concatenate(parts, axis=-1) if parts else batch_like[:, :0]


def top_down(
    config: ModelConfig, above: Shape, below: Shape, units: int, level: int
) -> keras.Model:
    """The layers from z of the level above to the prior of the level below: flat code -> mean and
    log_variance, flat."""
    z = keras.Input((flat_size(above),), name="above")
    if len(below) == 1:
        hidden = layers.Dense(units, use_bias=False, name=f"down_dense_{level}")(z)
        hidden = batch_norm_relu(config, hidden, "down", level)
    else:
        rows = layers.Reshape(above, name=f"down_positions_{level}")(z)
        hidden = LAYERS[config.encoder].down(config, rows, below[0], units, level)
    statistics = {
        "mean": layers.Dense(below[-1], name=f"prior_mean_{level}")(hidden),
        "log_variance": layers.Dense(
            below[-1], name=f"prior_log_variance_{level}", kernel_initializer="zeros"
        )(hidden),
    }
    flat = {
        name: ops.cast(
            layers.Reshape((flat_size(below),), name=f"prior_flat_{name}_{level}")(part), "float32"
        )
        for name, part in statistics.items()
    }
    return keras.Model(
        z, {**flat, "log_variance": clip_log_variance(flat["log_variance"])}, name=f"down_{level}"
    )
