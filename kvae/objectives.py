"""From a model's outputs to named loss terms: schedules, penalties and the sum, in nats per sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from kvae.serving.alphabet import PAD

from .configuration import ObjectiveConfig


def linear(progress: Any) -> Any:
    """0 before the ramp, 1 after it, a straight line between (Bowman et al. 2016; Semeniuta et al. 2017, 3.4)."""
    return ops.clip(progress, 0.0, 1.0)


SCHEDULES: dict[str, Callable[[Any], Any]] = {"linear": linear}


def annealed(kl: Any, beta: Any) -> Any:
    """beta * KL."""
    return beta * kl


PENALTIES: dict[str, Callable[[Any, Any], Any]] = {"annealed": annealed}


def beta_at(config: ObjectiveConfig, step: Any) -> Any:
    """The weight of the KL at training step `step` (an integer tensor), a float32 scalar in [0, beta_max]."""
    since = ops.cast(step, "float32") - float(config.ramp_start)
    progress = since / config.ramp_steps if config.ramp_steps else ops.cast(since >= 0, "float32")
    return config.beta_max * SCHEDULES[config.schedule](progress)


def counted(tokens: Any) -> Any:
    """`weights` (B, T): 1 where a position is text or end mark, 0 on padding."""
    return ops.cast(ops.not_equal(tokens, PAD), "float32")


def cross_entropy(tokens: Any, logits: Any) -> Any:
    """-log softmax(logits) at the tokens, nats per position, (B, T)."""
    log_probability = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    return -ops.squeeze(
        ops.take_along_axis(log_probability, ops.expand_dims(ops.cast(tokens, "int32"), -1), axis=-1), -1
    )


def loss_terms(config: ObjectiveConfig, tokens: Any, outputs: Mapping[str, Any], step: Any) -> dict[str, Any]:
    """Every term of the objective, one number per example: (B,), nats per sequence, padding not counted unless named.

    `loss` is what is minimised (it counts padding if the configuration says so). `elbo` is reconstruction + KL, the upper
    bound on -log p(x) with beta 1 and no auxiliary term: lower is better. `positions` is how many positions a text counts.
    """
    weights = counted(tokens)
    trained = ops.ones_like(weights) if config.count_padding else weights
    beta = beta_at(config, step)
    nats = cross_entropy(tokens, outputs["logits"])
    terms = {"reconstruction": ops.sum(weights * nats, axis=-1)}
    levels = {name: ops.cast(value, "float32") for name, value in outputs.items() if name.startswith("kl_level_")}
    terms |= levels
    terms["kl"] = sum(levels.values())
    terms["elbo"] = terms["reconstruction"] + terms["kl"]
    terms["reconstruction_with_padding"] = ops.sum(nats, axis=-1)
    terms["loss"] = ops.sum(trained * nats, axis=-1) + PENALTIES[config.penalty](terms["kl"], beta)
    if "auxiliary_logits" in outputs:
        auxiliary = cross_entropy(tokens, outputs["auxiliary_logits"])
        terms["auxiliary"] = ops.sum(weights * auxiliary, axis=-1)
        terms["loss"] += config.alpha * ops.sum(trained * auxiliary, axis=-1)
    terms["beta"] = beta * ops.ones_like(terms["kl"])
    terms["positions"] = ops.sum(weights, axis=-1)
    return terms


def bits_per_character(nats: Any, positions: Any) -> Any:
    """Nats per sequence as bits per counted position (characters and end marks)."""
    return nats / (positions * math.log(2.0))
