"""The training objective: schedules, KL penalties and loss terms, in nats per sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from keras import ops

from kvae.serving.alphabet import PAD

from . import slots
from .blocks import repeated_rows
from .configuration import ObjectiveConfig
from .importance_weights import importance_weighted_terms
from .replicas import batch_mean, text_weights
from .tensors import Tensor


def linear(config: ObjectiveConfig, progress: Tensor) -> Tensor:
    """A linear ramp (Bowman et al. 2016; Semeniuta et al. 2017, 3.4)."""
    return progress


def sigmoid(config: ObjectiveConfig, progress: Tensor) -> Tensor:
    """A logistic ramp (Bowman et al. 2016, fig. 2), rescaled to run from 0 to 1."""
    steepness = 10.0
    low = 1.0 / (1.0 + math.exp(steepness / 2))
    return (ops.sigmoid(steepness * (progress - 0.5)) - low) / (1.0 - 2.0 * low)


def cosine(config: ObjectiveConfig, progress: Tensor) -> Tensor:
    """Half a period of a cosine (Fu et al. 2019, 3.2)."""
    return 0.5 - 0.5 * ops.cos(math.pi * progress)


def cyclical(config: ObjectiveConfig, progress: Tensor) -> Tensor:
    """`cycles` linear ramps, with as many steps at 1 after each (Fu et al. 2019, eq. 6-8).

    Half of each cycle is ramp: R = 0.5.
    """
    position = progress * config.cycles
    return ops.where(progress < 1.0, ops.minimum(2.0 * (position - ops.floor(position)), 1.0), 1.0)


def constant(config: ObjectiveConfig, progress: Tensor) -> Tensor:
    """1 from the first step."""
    return ops.ones_like(progress)


SCHEDULES: dict[str, Callable[[ObjectiveConfig, Tensor], Tensor]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "cosine": cosine,
    "cyclical": cyclical,
    "constant": constant,
}
"""Each takes the configuration and the progress of the ramp in [0, 1] and returns its height."""


def annealed(
    config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None, ramp: Tensor
) -> Tensor:
    """beta * KL with beta = beta_max * ramp."""
    return config.beta_max * ramp * kl


def constrained(
    config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None, ramp: Tensor
) -> Tensor:
    """beta * |batch mean of KL - C| with C = kl_target * ramp (Prokhorov et al. 2019, eq. 3)."""
    return broadcast_like(kl, config.beta_max * ops.abs(batch_mean(kl) - config.kl_target * ramp))


def constrained_per_example(
    config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None, ramp: Tensor
) -> Tensor:
    """beta * |KL - C| of each text (Burgess et al. 2018, eq. 8)."""
    return config.beta_max * ops.abs(kl - config.kl_target * ramp)


def free_bits(
    config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None, ramp: Tensor
) -> Tensor:
    """beta * sum over dimensions of max(free bits, mean KL) (Kingma et al. 2016, eq. 15).

    The mean is over the batch.
    """
    floored = ops.maximum(batch_mean(kl_pieces(config, kl, per_dimension)), config.free_bits)
    return broadcast_like(kl, config.beta_max * ramp * ops.sum(floored))


def free_bits_mask(
    config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None, ramp: Tensor
) -> Tensor:
    """beta * sum of the KL of the dimensions above the free bits, for each text (Li et al. 2019).

    Dimensions below the free bits get no gradient.
    """
    pieces = kl_pieces(config, kl, per_dimension)
    above = ops.where(pieces > config.free_bits, pieces, 0.0)
    return config.beta_max * ramp * ops.sum(above, axis=-1)


def broadcast_like(per_example: Tensor, scalar: Tensor) -> Tensor:
    """Repeat a scalar to the shape of `per_example`, (B,)."""
    return ops.broadcast_to(scalar, ops.shape(per_example))


def kl_pieces(config: ObjectiveConfig, kl: Tensor, per_dimension: Tensor | None) -> Tensor:
    """The KL terms that `free_bits` applies to: (B, d) per dimension, or (B, 1) the total."""
    return per_dimension if config.free_bits_over == "dimension" else ops.expand_dims(kl, -1)


PENALTIES: dict[str, Callable[[ObjectiveConfig, Tensor, Tensor | None, Tensor], Tensor]] = {
    "annealed": annealed,
    "constrained": constrained,
    "constrained_per_example": constrained_per_example,
    "free_bits": free_bits,
    "free_bits_mask": free_bits_mask,
}
"""Each takes the configuration, KL (B,), KL (B, d) or None, and the height of the ramp.

It returns nats, (B,).
"""


def ramp_at(
    config: ObjectiveConfig, step: Tensor, start: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    """Height of the ramp at training step `step`, a float32 scalar in [0, 1]; 0 in the warm start.

    `start` and `steps` replace those of the configuration, for a ramp that waits for convergence.
    """
    start = config.ramp_start if start is None else start
    steps = config.ramp_steps if steps is None else steps
    warm_start = float(config.warm_start_steps)
    since_start = ops.cast(step, "float32") - warm_start - ops.cast(start, "float32")
    progress = ops.where(
        ops.cast(steps, "float32") > 0.0,
        ops.clip(since_start / ops.maximum(ops.cast(steps, "float32"), 1.0), 0.0, 1.0),
        ops.cast(since_start >= 0.0, "float32"),
    )
    return ops.cast(since_start >= 0.0, "float32") * SCHEDULES[config.schedule](config, progress)


def warm_start_over(config: ObjectiveConfig, step: Tensor) -> Tensor:
    """1.0 from step `warm_start_steps` on, 0.0 during the warm start."""
    return ops.cast(ops.cast(step, "float32") >= float(config.warm_start_steps), "float32")


def beta_at(config: ObjectiveConfig, ramp: Tensor) -> Tensor:
    """The weight beta of the penalty at a height of the ramp in [0, 1]."""
    has_target = slots.PENALTIES[config.penalty].has_target
    return config.beta_max * (ops.ones_like(ramp) if has_target else ramp)


def auxiliary_height(config: ObjectiveConfig, step: Tensor) -> Tensor:
    """The fraction of their weights that the losses of the auxiliary predictions have at training
    step `step`: 1, or less while it decays.

    The auxiliary loss trains the expander to predict the whole text by itself (Semeniuta et al.
    2017, eq. 4), which is more than the head needs. After the decay the whole model is trained for
    the bound.
    """
    if not config.alpha_decay_steps:
        return 1.0
    since_hold = ops.cast(step, "float32") - float(config.alpha_hold)
    return 1.0 - ops.clip(since_hold / float(config.alpha_decay_steps), 0.0, 1.0)


def token_mask(tokens: Tensor) -> Tensor:
    """Float mask of tokens (B, T): 1 for text and END, 0 for padding."""
    return ops.cast(ops.not_equal(tokens, PAD), "float32")


def cross_entropy(tokens: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of tokens (B, T) and logits (B, T, V), nats per position, (B, T)."""
    return ops.sparse_categorical_crossentropy(
        tokens, ops.cast(logits, "float32"), from_logits=True
    )


def bag_of_words(tokens: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of the tokens (B, T) of a text with one distribution for all of its positions,
    from logits (B, V): nats per sequence, (B,) (Zhao et al. 2017, eq. 6)."""
    log_probabilities = ops.log_softmax(logits, axis=-1)
    nats = -ops.take_along_axis(log_probabilities, tokens, axis=1)
    return ops.sum(token_mask(tokens) * nats, axis=-1)


def squared_mmd(z: Tensor, weights: Tensor | None = None) -> Tensor:
    """Squared maximum mean discrepancy between latent codes (B, d) and N(0, I), a scalar.

    The kernel is Gaussian with variance d (Zhao et al. 2019, 4.2), for which all expectations over
    N(0, I) have a closed form. The estimate is unbiased, so it can be negative. `weights` (B,) are
    the weights of the codes, None if all are equal.
    """
    batch, size = ops.cast(ops.shape(z)[0], "float32"), float(z.shape[-1])
    norms = ops.sum(ops.square(z), axis=-1)
    distances = norms[:, None] + norms[None, :] - 2.0 * ops.matmul(z, ops.transpose(z))
    kernel, from_origin = ops.exp(-distances / (2.0 * size)), ops.exp(-norms / (2.0 * (size + 1.0)))
    if weights is None:
        among_codes = (ops.sum(kernel) - batch) / ops.maximum(batch * (batch - 1.0), 1.0)
        near_origin = ops.mean(from_origin)
    else:
        normalized = ops.divide_no_nan(weights, ops.sum(weights))
        diagonal = ops.sum(ops.square(normalized))
        pairs = ops.sum(normalized[:, None] * kernel * normalized[None, :]) - diagonal
        among_codes = ops.divide_no_nan(pairs, 1.0 - diagonal)
        near_origin = ops.sum(normalized * from_origin)
    to_prior = (size / (size + 1.0)) ** (size / 2) * near_origin
    return among_codes - 2.0 * to_prior + (size / (size + 2.0)) ** (size / 2)


def moment_distance(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Distance of the aggregated posterior's moments from those of N(0, I), nats, a scalar.

    `mean` and `log_variance` (B, d) are the posteriors of a batch. The moments are those of their
    mixture: m (d,) and the covariance C (d, d), with the off-diagonal entries that DIP-VAE-II
    penalises (Kumar et al. 2018, eq. 7). The result is the KL of N(m, C) from N(0, I) with the
    determinant of C expanded to second order in the correlations r:

        sum_i (m_i^2 + C_ii - 1 - log C_ii) / 2 + sum_(i<j) r_ij^2 / 2
    """
    centre = batch_mean(mean)
    products = batch_mean(mean[:, :, None] * mean[:, None, :])
    between = products - centre[:, None] * centre[None, :]
    variance = ops.diagonal(between) + batch_mean(ops.exp(log_variance))
    squares = ops.square(between) / (variance[:, None] * variance[None, :])
    correlated = 0.25 * (ops.sum(squares) - ops.sum(ops.diagonal(squares)))
    return 0.5 * ops.sum(ops.square(centre) + variance - 1.0 - ops.log(variance)) + correlated


def loss_terms(
    config: ObjectiveConfig,
    tokens: Tensor,
    outputs: Mapping[str, Tensor],
    step: Tensor,
    ramp: Tensor | None = None,
    samples: int = 1,
) -> dict[str, Tensor]:
    """All terms of the objective, one number per example, (B,), in nats per sequence.

    `loss` is minimised; it includes padding if the configuration says so.
    `reconstruction_with_padding` always includes it; all other terms leave it out. `elbo` is
    reconstruction + KL, the upper bound on -log p(x) with beta 1 and no auxiliary term: lower is
    better. `positions` is the number of positions of a text without padding. `ramp` replaces the
    ramp height of the configuration at `step`.

    `outputs` have a row for each of the K `samples` of a text, (B * K, ...). Terms are means over
    the codes of a text. For K above 1, `loss` and `importance_weighted_nll` are importance-weighted
    bounds (`importance_weighted_terms`).
    """
    ramp = ramp_at(config, step) if ramp is None else ramp
    after_warm_start = warm_start_over(config, step)
    beta = after_warm_start * beta_at(config, ramp)
    per_code = bound_terms(repeated_rows(tokens, samples), outputs)
    terms = {name: mean_of_codes(values, samples) for name, values in per_code.items()}
    if samples == 1:
        per_dimension = outputs.get("kl_per_dimension")
        penalty = PENALTIES[config.penalty](config, terms["kl"], per_dimension, ramp)
        terms["loss"] = terms[counted(config)] + after_warm_start * penalty
    else:
        doubly = config.importance_gradient == "doubly_reparameterized"
        costs = per_code["reconstruction"], per_code[counted(config)]
        terms |= importance_weighted_terms(*costs, outputs, beta, samples, doubly)
    terms = with_added_losses(config, terms, tokens, outputs, step, samples)
    terms["beta"] = broadcast_like(terms["kl"], beta)
    terms["positions"] = ops.sum(token_mask(tokens), axis=-1)
    return terms


LOSSES = ("loss", "inference_loss")
"""Terms of which training takes gradients. If there is an `inference_loss`, it is that of the
weights of q(z|x), and `loss` is that of all others."""


def counted(config: ObjectiveConfig) -> str:
    """The name of the reconstruction that the loss counts."""
    return "reconstruction_with_padding" if config.count_padding else "reconstruction"


def mean_of_codes(values: Tensor, samples: int) -> Tensor:
    """Mean over the codes of each text, (B * samples,) -> (B,)."""
    return values if samples == 1 else ops.mean(ops.reshape(values, (-1, samples)), axis=-1)


def bound_terms(tokens: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reconstruction with and without padding, KL, also of each level, and their sum `elbo`, of
    every row of tokens (B, T): nats per sequence, (B,)."""
    nats = cross_entropy(tokens, outputs["logits"])
    terms = {"reconstruction": ops.sum(token_mask(tokens) * nats, axis=-1)}
    levels = {
        name: ops.cast(value, "float32")
        for name, value in outputs.items()
        if name.startswith("kl_level_")
    }
    terms |= levels
    terms["kl"] = sum(levels.values(), ops.zeros_like(terms["reconstruction"]))
    terms["elbo"] = terms["reconstruction"] + terms["kl"]
    terms["reconstruction_with_padding"] = ops.sum(nats, axis=-1)
    return terms


def with_added_losses(
    config: ObjectiveConfig,
    terms: Mapping[str, Tensor],
    tokens: Tensor,
    outputs: Mapping[str, Tensor],
    step: Tensor,
    samples: int,
) -> dict[str, Tensor]:
    """The terms (B,) of a bound together with those that the objective adds to the bound and to its
    losses. Terms that compare the codes of a batch, like MMD, use the first code of each text."""
    terms = dict(terms)

    def add(weight: float | Tensor, nats: Tensor) -> None:
        for name in LOSSES:
            if name in terms:
                terms[name] += weight * nats

    def first(name: str) -> Tensor:
        return outputs[name] if samples == 1 else outputs[name][::samples]

    rows, height = repeated_rows(tokens, samples), auxiliary_height(config, step)
    if "auxiliary_logits" in outputs:
        weights = token_mask(rows)
        auxiliary = cross_entropy(rows, outputs["auxiliary_logits"])
        terms["auxiliary"] = mean_of_codes(ops.sum(weights * auxiliary, axis=-1), samples)
        loss_weights = ops.ones_like(weights) if config.count_padding else weights
        nats = mean_of_codes(ops.sum(loss_weights * auxiliary, axis=-1), samples)
        add(config.alpha * height, nats)
    if "bag_logits" in outputs:
        terms["bag_of_words"] = mean_of_codes(bag_of_words(rows, outputs["bag_logits"]), samples)
        add(config.bag_of_words * height, terms["bag_of_words"])
    after_warm_start = warm_start_over(config, step)
    if config.mmd:
        terms["mmd"] = broadcast_like(terms["kl"], squared_mmd(first("z"), text_weights()))
        add(config.mmd * after_warm_start, terms["mmd"])
    if config.moments:
        distance = moment_distance(first("mean"), first("log_variance"))
        terms["moments"] = broadcast_like(terms["kl"], distance)
        add(config.moments * after_warm_start, terms["moments"])
    return terms


def classification_terms(attribute: Tensor, logits: Tensor) -> dict[str, Tensor]:
    """Terms of the classifier, (B,) each, from attributes y (B,), -1 if unknown, and logits (B, K).

    `classification` is -log q(y|x) in nats, 0 if y is unknown. `correct` is 1 if y is known and is
    the argmax of the logits. `labelled` is 1 if y is known.
    """
    known = ops.cast(attribute >= 0, "float32")
    value = ops.maximum(ops.cast(attribute, "int32"), 0)
    log_probability = ops.log_softmax(logits, axis=-1)
    nats = -ops.take_along_axis(log_probability, value[:, None], axis=-1)[:, 0]
    correct = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), value), "float32")
    return {"classification": known * nats, "correct": known * correct, "labelled": known}


def guessed_attribute_nats(attribute: Tensor, values: int) -> Tensor:
    """KL of a guessed attribute from the uniform prior over `values` values, nats, (B,).

    The classifier's choice carries information about the text, which costs log(values). It is 0
    where the attribute (B,) is given, that is not -1.
    """
    return ops.cast(attribute < 0, "float32") * math.log(values)


def marginal_terms(
    per_value: Sequence[Mapping[str, Tensor]], attribute: Tensor, logits: Tensor
) -> dict[str, Tensor]:
    """Expected terms over the attribute, (B,) each (model M2, Kingma et al. 2014, eq. 6-8).

    `per_value` holds the terms of the texts under each of the K values. Their weights are q(y|x),
    or the label where it is known. `attribute_kl` is the KL of q(y|x) from the uniform p(y), 0
    where a label is known; it is added to `loss` and `elbo`. `elbo` then bounds -log p(x), or
    -log p(x|y) where y is known. (The paper's bound for labelled texts also has -log p(y).)
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


def bits_per_character(nats: Tensor, positions: Tensor) -> Tensor:
    """Nats per sequence -> bits per position (characters and END, without padding)."""
    return nats / (positions * math.log(2.0))
