"""From a model's outputs to named loss terms: schedules, penalties and the sum, in nats per sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras import ops

from kvae.serving.alphabet import PAD

from .configuration import ObjectiveConfig
from .replicas import batch_mean, text_weights


def linear(config: ObjectiveConfig, progress: Any) -> Any:
    """A straight line (Bowman et al. 2016; Semeniuta et al. 2017, 3.4)."""
    return progress


def sigmoid(config: ObjectiveConfig, progress: Any) -> Any:
    """A logistic curve (Bowman et al. 2016, fig. 2), stretched so that it goes from 0 to 1."""
    steepness = 10.0
    low = 1.0 / (1.0 + math.exp(steepness / 2))
    return (ops.sigmoid(steepness * (progress - 0.5)) - low) / (1.0 - 2.0 * low)


def cosine(config: ObjectiveConfig, progress: Any) -> Any:
    """Half a cosine wave (Fu et al. 2019, 3.2)."""
    return 0.5 - 0.5 * ops.cos(math.pi * progress)


def cyclical(config: ObjectiveConfig, progress: Any) -> Any:
    """`cycles` times up from 0 in half the time and flat in the other half (Fu et al. 2019, eq. 6-8, R = 0.5)."""
    position = progress * config.cycles
    return ops.where(progress < 1.0, ops.minimum(2.0 * (position - ops.floor(position)), 1.0), 1.0)


def constant(config: ObjectiveConfig, progress: Any) -> Any:
    """1 from the first step on."""
    return ops.ones_like(progress)


SCHEDULES: dict[str, Callable[[ObjectiveConfig, Any], Any]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "cyclical": cyclical,
    "constant": constant,
}


def annealed(config: ObjectiveConfig, kl: Any, per_dimension: Any, ramp: Any) -> Any:
    """beta * KL with beta = beta_max * ramp."""
    return config.beta_max * ramp * kl


def constrained(config: ObjectiveConfig, kl: Any, per_dimension: Any, ramp: Any) -> Any:
    """beta * |mean KL - C|, the mean over the batch, with C = kl_target * ramp (Prokhorov et al. 2019, eq. 3)."""
    return broadcast_like(kl, config.beta_max * ops.abs(batch_mean(kl) - config.kl_target * ramp))


def constrained_per_example(config: ObjectiveConfig, kl: Any, per_dimension: Any, ramp: Any) -> Any:
    """beta * |KL - C|, each text on its own (Burgess et al. 2018, eq. 8)."""
    return config.beta_max * ops.abs(kl - config.kl_target * ramp)


def free_bits(config: ObjectiveConfig, kl: Any, per_dimension: Any, ramp: Any) -> Any:
    """beta * sum over dimensions of max(free bits, mean KL), the mean over the batch (Kingma et al. 2016, eq. 15)."""
    floored = ops.maximum(batch_mean(kl_pieces(config, kl, per_dimension)), config.free_bits)
    return broadcast_like(kl, config.beta_max * ramp * ops.sum(floored))


def free_bits_mask(config: ObjectiveConfig, kl: Any, per_dimension: Any, ramp: Any) -> Any:
    """beta * the KL of the dimensions that are above the free bits, text by text: the gradient of the others is cut (Li et
    al. 2019)."""
    pieces = kl_pieces(config, kl, per_dimension)
    return (
        config.beta_max * ramp * ops.sum(ops.where(pieces > config.free_bits, pieces, 0.0), axis=-1)
    )


def broadcast_like(each: Any, scalar: Any) -> Any:
    """One number for every example, (B,)."""
    return ops.broadcast_to(scalar, ops.shape(each))


def kl_pieces(config: ObjectiveConfig, kl: Any, per_dimension: Any) -> Any:
    """What `free_bits` applies to: (B, d) dimensions, or (B, 1) the total."""
    return per_dimension if config.free_bits_over == "dimension" else ops.expand_dims(kl, -1)


PENALTIES: dict[str, Callable[[ObjectiveConfig, Any, Any, Any], Any]] = {
    "annealed": annealed,
    "constrained": constrained,
    "constrained_per_example": constrained_per_example,
    "free_bits": free_bits,
    "free_bits_mask": free_bits_mask,
}
"""Each takes the configuration, KL (B,), KL (B, d) or None, and the ramp's height, and returns nats, (B,)."""

TARGETED = ("constrained", "constrained_per_example")
"""Penalties whose ramp scales the target C; that of the others scales beta."""


def ramp_at(config: ObjectiveConfig, step: Any, start: Any = None, steps: Any = None) -> Any:
    """Height of the ramp at training step `step`, a float32 scalar in [0, 1]; 0 during the warm start.

    `start` and `steps` replace those of the configuration, as they do when the ramp waits for convergence.
    """
    start = config.ramp_start if start is None else start
    steps = config.ramp_steps if steps is None else steps
    since = ops.cast(step, "float32") - float(config.warm_start_steps) - ops.cast(start, "float32")
    progress = ops.where(
        ops.cast(steps, "float32") > 0.0,
        ops.clip(since / ops.maximum(ops.cast(steps, "float32"), 1.0), 0.0, 1.0),
        ops.cast(since >= 0.0, "float32"),
    )
    return ops.cast(since >= 0.0, "float32") * SCHEDULES[config.schedule](config, progress)


def warm_start_over(config: ObjectiveConfig, step: Any) -> Any:
    """1 once the warm start is over, 0 before."""
    return ops.cast(ops.cast(step, "float32") >= float(config.warm_start_steps), "float32")


def beta_at(config: ObjectiveConfig, ramp: Any) -> Any:
    """The weight of the penalty at that height of the ramp."""
    return config.beta_max * (ops.ones_like(ramp) if config.penalty in TARGETED else ramp)


def alpha_at(config: ObjectiveConfig, step: Any) -> Any:
    """The weight of the auxiliary loss at training step `step`: alpha, or what is left of it.

    The auxiliary loss asks the expander for the whole text (Semeniuta et al. 2017, eq. 4), which is more than the head needs
    of it; without it at the end, all of the model serves the bound.
    """
    if not config.alpha_decay_steps:
        return config.alpha
    since = ops.cast(step, "float32") - float(config.alpha_hold)
    return config.alpha * (1.0 - ops.clip(since / float(config.alpha_decay_steps), 0.0, 1.0))


def token_mask(tokens: Any) -> Any:
    """`weights` (B, T): 1 where a position is text or end mark, 0 on padding."""
    return ops.cast(ops.not_equal(tokens, PAD), "float32")


def cross_entropy(tokens: Any, logits: Any) -> Any:
    """-log softmax(logits) at the tokens, nats per position, (B, T)."""
    return ops.sparse_categorical_crossentropy(
        tokens, ops.cast(logits, "float32"), from_logits=True
    )


def squared_mmd(z: Any, weights: Any = None) -> Any:
    """Squared maximum mean discrepancy between codes (B, d), of `weights` (B,) where they do not count alike, and N(0, I),
    Gaussian kernel of variance d (Zhao et al. 2019, 4.2), in which everything about N(0, I) has a closed form. Unbiased: it
    can fall below 0."""
    batch, size = ops.cast(ops.shape(z)[0], "float32"), float(z.shape[-1])
    norms = ops.sum(ops.square(z), axis=-1)
    distances = norms[:, None] + norms[None, :] - 2.0 * ops.matmul(z, ops.transpose(z))
    kernel, from_origin = ops.exp(-distances / (2.0 * size)), ops.exp(-norms / (2.0 * (size + 1.0)))
    if weights is None:
        among_codes = (ops.sum(kernel) - batch) / ops.maximum(batch * (batch - 1.0), 1.0)
        near_origin = ops.mean(from_origin)
    else:
        shares = ops.divide_no_nan(weights, ops.sum(weights))
        alone = ops.sum(ops.square(shares))
        pairs = ops.sum(shares[:, None] * kernel * shares[None, :]) - alone
        among_codes = ops.divide_no_nan(pairs, 1.0 - alone)
        near_origin = ops.sum(shares * from_origin)
    to_prior = (size / (size + 1.0)) ** (size / 2) * near_origin
    return among_codes - 2.0 * to_prior + (size / (size + 2.0)) ** (size / 2)


def loss_terms(
    config: ObjectiveConfig, tokens: Any, outputs: Mapping[str, Any], step: Any, ramp: Any = None
) -> dict[str, Any]:
    """Every term of the objective, one number per example: (B,), nats per sequence, padding not counted unless named.

    `loss` is what is minimised (it counts padding if the configuration says so). `elbo` is reconstruction + KL, the upper
    bound on -log p(x) with beta 1 and no auxiliary term: lower is better. `positions` is how many positions a text counts.
    `ramp` is the ramp's height if it is not that of the configuration at `step`.
    """
    ramp = ramp_at(config, step) if ramp is None else ramp
    weights = token_mask(tokens)
    trained = ops.ones_like(weights) if config.count_padding else weights
    nats = cross_entropy(tokens, outputs["logits"])
    terms = {"reconstruction": ops.sum(weights * nats, axis=-1)}
    levels = {
        name: ops.cast(value, "float32")
        for name, value in outputs.items()
        if name.startswith("kl_level_")
    }
    terms |= levels
    terms["kl"] = sum(levels.values(), ops.zeros_like(terms["reconstruction"]))
    terms["elbo"] = terms["reconstruction"] + terms["kl"]
    terms["reconstruction_with_padding"] = ops.sum(nats, axis=-1)
    penalty = PENALTIES[config.penalty](config, terms["kl"], outputs.get("kl_per_dimension"), ramp)
    penalized = warm_start_over(config, step)
    terms["loss"] = ops.sum(trained * nats, axis=-1) + penalized * penalty
    if "auxiliary_logits" in outputs:
        auxiliary = cross_entropy(tokens, outputs["auxiliary_logits"])
        terms["auxiliary"] = ops.sum(weights * auxiliary, axis=-1)
        terms["loss"] += alpha_at(config, step) * ops.sum(trained * auxiliary, axis=-1)
    if config.mmd:
        terms["mmd"] = broadcast_like(terms["kl"], squared_mmd(outputs["z"], text_weights()))
        terms["loss"] += config.mmd * penalized * terms["mmd"]
    terms["beta"] = broadcast_like(terms["kl"], penalized * beta_at(config, ramp))
    terms["positions"] = ops.sum(weights, axis=-1)
    return terms


def classification_terms(attribute: Any, logits: Any) -> dict[str, Any]:
    """For attributes (B,), -1 where unknown, and the classifier's logits (B, K): `classification`, -log q(y|x) where y is
    known and 0 elsewhere, `correct`, whether the likeliest value is y, and `labelled`, whether y is known."""
    known = ops.cast(attribute >= 0, "float32")
    value = ops.maximum(ops.cast(attribute, "int32"), 0)
    log_probability = ops.log_softmax(logits, axis=-1)
    nats = -ops.take_along_axis(log_probability, value[:, None], axis=-1)[:, 0]
    correct = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), value), "float32")
    return {"classification": known * nats, "correct": known * correct, "labelled": known}


def guessed_attribute_nats(attribute: Any, values: int) -> Any:
    """Nats that a classifier's choice among `values` costs, (B,): it has told something about the text and pays its share of
    the uniform prior; 0 where the attribute (B,) is given, not -1."""
    return ops.cast(attribute < 0, "float32") * math.log(values)


def marginal_terms(
    per_value: Sequence[Mapping[str, Any]], attribute: Any, logits: Any
) -> dict[str, Any]:
    """M2 (Kingma et al. 2014, eq. 6-8): the terms of a text under each of K values of its attribute, (B,) each, as their
    expectation. The weights are q(y|x), or the label where it is known.

    `attribute_kl` is the KL of q(y|x) from the uniform p(y) where there is no label, (B,): it joins `loss` and `elbo`, a
    bound on -log p(x), or on -log p(x|y) where y is known. (The paper's labelled bound has the constant -log p(y) too.)
    """
    values = len(per_value)
    log_probability = ops.log_softmax(logits, axis=-1)
    labels = ops.one_hot(ops.maximum(ops.cast(attribute, "int32"), 0), values)
    known = ops.cast(attribute >= 0, "float32")[:, None]
    weights = known * labels + (1.0 - known) * ops.exp(log_probability)
    terms = {
        name: sum(weights[:, value] * per_value[value][name] for value in range(values))
        for name in per_value[0]
    }
    terms["attribute_kl"] = (1.0 - known[:, 0]) * (
        math.log(values) + ops.sum(weights * log_probability, axis=-1)
    )
    for name in ("elbo", "loss"):
        terms[name] = terms[name] + terms["attribute_kl"]
    return terms


def importance_weighted_nll(log_weights: Any) -> Any:
    """-log of the mean importance weight, nats: (k, ...) log p(x, z) - log q(z|x) of k samples -> (...).

    An upper bound on -log p(x) that falls with k, and the ELBO at k = 1 (Burda et al. 2016, eq. 8).
    """
    return math.log(log_weights.shape[0]) - ops.logsumexp(log_weights, axis=0)


def bits_per_character(nats: Any, positions: Any) -> Any:
    """Nats per sequence as bits per counted position (characters and end marks)."""
    return nats / (positions * math.log(2.0))
