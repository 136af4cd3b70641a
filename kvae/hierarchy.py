"""The code as a hierarchy of levels: one walk from the top down, with the text's evidence (inference) or without (generation).

Codes are flat, (B, d): the levels side by side, bottom first, maps flattened. A code of one level is the top level alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

from .blocks import normalized
from .configuration import ModelConfig
from .distributions import Distribution, Gaussian, clipped, event_sum
from .encoders import LAYERS
from .priors import total
from .tensors import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """What the walk leaves behind at a level: z (B, d_i) and where it came from, in generation from the prior alone."""

    z: Tensor
    prior: Distribution
    posterior: Any = None
    """A Gaussian, or None."""

    @property
    def shift(self) -> Tensor:
        """(posterior mean - prior mean) / prior standard deviation, (B, d_i); the posterior mean where the prior is no
        Gaussian."""
        mean, prior = self.posterior.mean, self.prior
        return (
            (mean - prior.mean) * ops.exp(-0.5 * prior.log_variance)
            if isinstance(prior, Gaussian)
            else mean
        )


class Hierarchy(layers.Layer):
    """`shapes` of the levels, bottom first: (d,) or (T', c). `prior` is the layer of the top level.

    z_L has that prior; below it p(z_i | z_(i+1)) is learned, and q(z_i | x, z_(i+1)) merges it with the text's evidence
    (ladder VAE, Soenderby et al. 2016). What is passed down is the sample of the merged posterior.
    """

    def __init__(
        self, config: ModelConfig, shapes: Sequence[Shape], prior: keras.Layer, **kwargs: Any
    ) -> None:
        super().__init__(
            dtype="float32", **kwargs
        )  # distributions, whatever the layers around them compute in
        self.shapes = list(shapes)
        self.sizes = [total(shape) for shape in shapes]
        self.size = sum(self.sizes)
        self.prior = prior
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
        self, mean: Tensor, log_variance: Tensor, noise: Tensor, training: bool = False
    ) -> dict[str, Tensor]:
        """Inference: the evidence of all levels (B, d), and noise -> z, the posterior and every level's KL.

        `kl_per_dimension` is there where every level's KL is a sum over dimensions; `log_ratio` is
        log q(z|x) - log p(z) at the sample, (B,).
        """
        levels = self.infer(mean, log_variance, noise, training)
        outputs = {
            "z": self.concatenated([level.z for level in levels], noise),
            "mean": self.concatenated([level.posterior.mean for level in levels], noise),
            "log_variance": self.concatenated(
                [level.posterior.log_variance for level in levels], noise
            ),
        }
        pieces = [level.prior.kl_from(level.posterior, level.z) for level in levels]
        outputs |= {
            f"kl_level_{number}": ops.sum(piece, axis=-1) for number, piece in enumerate(pieces)
        }
        if all(piece.shape[-1] == size for piece, size in zip(pieces, self.sizes, strict=True)):
            outputs["kl_per_dimension"] = self.concatenated(pieces, noise)
        ratios = [
            level.posterior.log_prob(level.z) - level.prior.log_prob(level.z) for level in levels
        ]
        return {**outputs, "log_ratio": sum(ratios, event_sum(0.0 * noise))}

    def infer(
        self, mean: Tensor, log_variance: Tensor, noise: Tensor, training: bool = False
    ) -> list[Level]:
        """All levels of texts with that evidence, bottom first."""
        evidence = map(Gaussian, self.split(mean), self.split(log_variance))
        return self.walk(noise, list(evidence), training)

    def sample(self, noise: Tensor) -> Tensor:
        """Generation: noise (B, noise_size) as a code (B, d)."""
        return self.concatenated(
            [level.z for level in self.walk(noise, [None] * len(self.shapes), False)], noise
        )

    def walk(
        self, noise: Tensor, evidence: Sequence[Gaussian | None], training: bool
    ) -> list[Level]:
        """All levels, bottom first."""
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
        evidence: Gaussian | None,
        training: bool,
    ) -> Level:
        """One level, the same for inference and generation: its prior given z above, merged with evidence if there is any."""
        if above is None:
            prior, posterior = self.prior.distribution(noise), evidence
        else:
            prior = Gaussian(**self.downs[number](above, training=training))
            posterior = None if evidence is None else evidence.merged(prior)
        if posterior is None:
            return Level(prior.sample(noise), prior)
        return Level(posterior.sample(noise[:, : self.sizes[number]]), prior, posterior)

    def level_noise(self, noise: Tensor, number: int) -> Tensor:
        """The share of one level; the top level's prior may need more than its size, which stands at the end."""
        own = self.split(noise)[number]
        is_top = number == len(self.shapes) - 1
        return (
            ops.concatenate([own, noise[:, self.size : self.noise_size]], axis=-1)
            if is_top
            else own
        )

    def split(self, flat: Tensor) -> list[Tensor]:
        """(B, d...) -> each level's (B, d_i), bottom first."""
        ends = list(itertools.accumulate(self.sizes))
        return [flat[:, end - size : end] for size, end in zip(self.sizes, ends, strict=True)]

    def concatenated(self, parts: list[Tensor], batch_like: Tensor) -> Tensor:
        """Levels side by side; (B, 0) without any."""
        return ops.concatenate(parts, axis=-1) if parts else batch_like[:, :0]


def top_down(
    config: ModelConfig, above: Shape, below: Shape, units: int, level: int
) -> keras.Model:
    """The deterministic layers from z above to the prior of the level below: flat code -> mean, log_variance, flat."""
    z = keras.Input((total(above),), name="above")
    if len(below) == 1:
        hidden = layers.Dense(units, use_bias=False, name=f"down_dense_{level}")(z)
        hidden = normalized(config, hidden, "down", level)
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
            layers.Reshape((total(below),), name=f"prior_flat_{name}_{level}")(part), "float32"
        )
        for name, part in statistics.items()
    }
    return keras.Model(
        z, {**flat, "log_variance": clipped(flat["log_variance"])}, name=f"down_{level}"
    )
