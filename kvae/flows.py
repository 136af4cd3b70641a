"""Flows: transforms of a code with a log determinant, for posteriors and for the prior `flow`.

A code is flat, (..., d): a map is one event, whose positions depend on each other. Every `forward`
returns the image (..., d) and the log |determinant| of its Jacobian, (...).

The flow of a posterior is made from the configuration and d. `context` turns what the encoder says
of a text (B, n) into the numbers (B, c) that `forward` takes with the code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers, ops

from .configuration import ModelConfig
from .tensors import Tensor

GATE_BIAS = 2.0
"""Added to s of `InverseAutoregressive`, so that a step at first changes a code little: sigmoid(2)
is 0.88 (Kingma et al. 2016, section 4: 1 or 2)."""

UNIT_BIAS = math.log(math.e - 1.0)
"""softplus(UNIT_BIAS) is 1."""

LARGEST_LOG_SCALE = 2.0
"""Bound on the log scale of a coupling layer."""


class InverseAutoregressive(layers.Layer):
    """Inverse autoregressive flow (Kingma et al. 2016, eq. 12-14).

    A step is z' = g z + (1 - g) m with g = sigmoid(s). m and s of a dimension depend on the
    dimensions before it and on the context, through a network with one hidden layer and masked
    weights (MADE, Germain et al. 2015). So the Jacobian is triangular with diagonal g. Every second
    step takes the dimensions in reverse. The context is what the text adds to the hidden layers.
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__(name="flow", dtype="float32")
        self.steps, self.units = config.posterior_layers, config.posterior_units
        self.masks = [
            autoregressive_masks(size, self.units, step % 2) for step in range(self.steps)
        ]
        self.networks = [
            (
                self.add_weight(shape=(size, self.units), name=f"inner_{step}"),
                self.add_weight(
                    shape=(self.units, 2 * size), initializer="zeros", name=f"outer_{step}"
                ),
                self.add_weight(shape=(2 * size,), initializer="zeros", name=f"bias_{step}"),
            )
            for step in range(self.steps)
        ]
        self.built = True

    def context(self, features: Tensor) -> Tensor:
        """Features (B, n) -> what they add to the hidden layers, (B, steps * units)."""
        return layers.Dense(self.steps * self.units, name="context")(features)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        log_determinant = ops.zeros_like(z[..., 0])
        hidden_of_text = ops.split(context, self.steps, axis=-1)
        for (inner, outer, bias), (before, after), added in zip(
            self.networks, self.masks, hidden_of_text, strict=True
        ):
            hidden = ops.elu(ops.matmul(z, inner * before) + added)
            shift, logit = ops.split(ops.matmul(hidden, outer * after) + bias, 2, axis=-1)
            logit = logit + GATE_BIAS
            z = ops.sigmoid(logit) * z + ops.sigmoid(-logit) * shift
            log_determinant = log_determinant - ops.sum(ops.softplus(-logit), axis=-1)
        return z, log_determinant


def autoregressive_masks(size: int, units: int, reverse: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the two matrices of a network, (size, units) and (units, 2 * size): outputs i and
    size + i depend on the inputs before i, or behind it in `reverse` (Germain et al. 2015, eq. 8
    and 9). A hidden unit sees the inputs up to its degree, which may be 0."""
    places = np.arange(size)[::-1] if reverse else np.arange(size)
    degrees = np.arange(units) * size // units
    before = places[:, None] < degrees[None, :]
    after = degrees[:, None] <= places[None, :]
    return before.astype("float32"), np.tile(after, 2).astype("float32")


class Planar(layers.Layer):
    """Planar flow whose parameters u, w and b are functions of the text (Rezende and Mohamed 2015,
    eq. 10-12 and figure 2).

    A step is z' = z + u tanh(w.z + b). It is invertible if w.u > -1, so u is replaced by
    u + (m(w.u) - w.u) w / |w|^2 with m > -1 (appendix A.1). Here m(0) is 0, not log 2 - 1, so that
    a step with u = 0 is the identity; all steps begin so.
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__(name="flow", dtype="float32")
        self.steps, self.size = config.posterior_layers, size

    def context(self, features: Tensor) -> Tensor:
        """Features (B, n) -> u, w and b of all steps, (B, steps * (2 d + 1))."""
        count = self.steps * self.size
        directions = layers.Dense(count, kernel_initializer="zeros", name="context_u")(features)
        planes = layers.Dense(count + self.steps, name="context_w")(features)
        return ops.concatenate([directions, planes], axis=-1)

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        count = self.steps * self.size
        u, w = (
            ops.split(part, self.steps, axis=-1)
            for part in (context[:, :count], context[:, count : 2 * count])
        )
        log_determinant = ops.zeros_like(z[..., 0])
        for step in range(self.steps):
            offset = context[:, 2 * count + step : 2 * count + step + 1]
            z, added = planar_step(z, u[step], w[step], offset)
            log_determinant = log_determinant + added
        return z, log_determinant


def planar_step(z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """One step of `Planar` on z (..., B, d) with u, w (B, d) and b (B, 1).

    With t = tanh(w.z + b) the determinant is 1 + (1 - t^2) m = t^2 + (1 - t^2) (1 + m).
    """
    product = ops.sum(w * u, axis=-1, keepdims=True)
    stretch = ops.softplus(product + UNIT_BIAS)  # 1 + m(w.u)
    norm = ops.maximum(ops.sum(ops.square(w), axis=-1, keepdims=True), 1e-12)
    u = u + (stretch - 1.0 - product) * w / norm
    bend = ops.tanh(ops.sum(w * z, axis=-1, keepdims=True) + b)
    determinant = ops.square(bend) + (1.0 - ops.square(bend)) * stretch
    return z + u * bend, ops.log(determinant)[..., 0]


class AffineCoupling(layers.Layer):
    """Affine coupling layers (RealNVP, Dinh et al. 2017, eq. 4-9), the identity at first.

    A layer keeps every other dimension of a code. It scales and shifts the others by functions of
    the kept ones, through a network with one hidden layer of tanh. The next layer keeps the others.
    Log scales are bounded by a tanh, so that both directions are stable.
    """

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__(name="coupling", dtype="float32")
        units = config.prior_units
        self.masks = [
            ((np.arange(size) + layer) % 2).astype("float32")
            for layer in range(config.prior_layers)
        ]
        self.networks = [
            (
                self.add_weight(shape=(size, units), name=f"inner_{layer}"),
                self.add_weight(shape=(units,), initializer="zeros", name=f"inner_bias_{layer}"),
                self.add_weight(
                    shape=(units, 2 * size), initializer="zeros", name=f"outer_{layer}"
                ),
                self.add_weight(shape=(2 * size,), initializer="zeros", name=f"outer_bias_{layer}"),
            )
            for layer in range(config.prior_layers)
        ]
        self.built = True

    def scale_and_shift(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift (..., d) of a layer; 0 in the kept dimensions, on which they
        depend."""
        inner, inner_bias, outer, outer_bias = self.networks[layer]
        hidden = ops.tanh(ops.matmul(z * self.masks[layer], inner) + inner_bias)
        log_scale, shift = ops.split(ops.matmul(hidden, outer) + outer_bias, 2, axis=-1)
        changed = 1.0 - self.masks[layer]
        bounded = LARGEST_LOG_SCALE * ops.tanh(log_scale / LARGEST_LOG_SCALE)
        return changed * bounded, changed * shift

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        log_determinant = ops.zeros_like(z[..., 0])
        for layer in range(len(self.networks)):
            log_scale, shift = self.scale_and_shift(layer, z)
            z = z * ops.exp(log_scale) + shift
            log_determinant = log_determinant + ops.sum(log_scale, axis=-1)
        return z, log_determinant

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """An image -> the code before, and the log determinant of `forward` there."""
        log_determinant = ops.zeros_like(z[..., 0])
        for layer in reversed(range(len(self.networks))):
            log_scale, shift = self.scale_and_shift(layer, z)
            z = (z - shift) * ops.exp(-log_scale)
            log_determinant = log_determinant + ops.sum(log_scale, axis=-1)
        return z, log_determinant


def gaussian(config: ModelConfig, size: int) -> None:
    """No flow: the posterior is a Gaussian."""


LAYERS: dict[str, Callable[[ModelConfig, int], Any]] = {
    "free": gaussian,
    "batch_normalized": gaussian,
    "iaf": InverseAutoregressive,
    "planar": Planar,
}
