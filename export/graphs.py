"""The graphs that every bundle has.

    sampler  seed, row, z, choices        -> ids, lengths, log_probability (the whole decoding loop)
    encoder  tokens                       -> mean, log_variance
    prior    seed, row                    -> z
    scorer   tokens, seed, row            -> reconstruction, kl, nats (the teacher-forced bound)
    expand   z                            -> projected, initial states (the start of a stream)
    step     projected, previous, states  -> symbol, log_probability, new states (one token)

Sampler, scorer and step contain the same converted step of the head, so they always agree.
"""

from __future__ import annotations

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto

from kvae.model import TextVAE
from kvae.serving.alphabet import END, PAD, START
from kvae.serving.logit_masks import logit_mask

from .choices import choose
from .convert import checked_model, to_onnx
from .converted_parts import SharedParts, inference_part, tokens_spec
from .loops import (
    STEP_PREFIX,
    Decoder,
    log_probability_of,
    renamed,
    scoring_body,
    write_texts,
)
from .nodes import Nodes, part, tensor
from .random_numbers import noise_and_uniforms, noise_of, uniforms_at
from .simplify import hoisted

SEED_AND_ROW = (tensor("seed", "int64", "batch"), tensor("row", "int64", "batch"))
"""Inputs `seed` and `row`, which determine all random numbers of a text."""

CHOICES = (
    tensor("temperature", "float"),
    tensor("top_k", "int64"),
    tensor("top_p", "float"),
    tensor("min_length", "int64"),
)
"""Inputs of the choice of tokens: `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 keep all
tokens, and END is not chosen before position `min_length`."""


def encoder_graph(model: TextVAE) -> onnx.ModelProto:
    """tokens (batch, T) int32 -> mean, log_variance (batch, d)."""

    def encode(tokens: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        code = model.encode(tokens)
        return code["mean"], code["log_variance"]

    return to_onnx(encode, [tokens_spec(model)], ["mean", "log_variance"], gru_nodes=True)


def prior_graph(shared: SharedParts, signed_words: bool = False) -> onnx.ModelProto:
    """seed, row (batch,) -> z (batch, d): codes of the prior."""
    g = Nodes(prefix="prior/", signed_words=signed_words)
    noise = noise_of(g, shared.model.parts.noise_size)
    g.named(prior_codes(g, shared, noise), "z")
    return checked_model(
        g.model(
            "prior", SEED_AND_ROW, [tensor("z", "float", "batch", shared.model.parts.code_size)]
        )
    )


def sampler_graph(shared: SharedParts) -> onnx.ModelProto:
    """seed, row (batch,), z (batch, d) and choices -> ids (batch, time), lengths (batch,),
    log_probability (batch,).

    If `z` has no rows, the codes are sampled from the prior. The token of a text at position t
    depends only on its code, the choices, its seed and row, and the tokens before t. Decoding stops
    when every text has ended, so `time` may be below `max_length`. `lengths` do not count the end
    mark. `log_probability` is in nats, at temperature 1, and includes it.
    """
    g = Nodes(prefix="sampler/", signed_words=True)
    in_row = positions_of(g, "max_length", axis=0)
    noise, drawn = noise_and_uniforms(g, shared.model.parts.noise_size, in_row)
    code = given_or_prior_codes(g, shared, noise)
    ids, log_probabilities = sampled_texts(g, shared, code, drawn)
    text = g.Cast(g.Greater(ids, g.constant(END, np.int64)), to=TensorProto.INT64)
    column = g.constant([1], np.int64)
    g.named(g.ReduceSum(text, column, keepdims=0), "lengths")
    total = g.ReduceSum(g.Cast(log_probabilities, to=TensorProto.DOUBLE), column, keepdims=0)
    g.named(g.Cast(total, to=TensorProto.FLOAT), "log_probability")
    z = tensor("z", "float", "codes", shared.model.parts.code_size)
    inputs = [*SEED_AND_ROW, z, *CHOICES, tensor("max_length", "int64")]
    outputs = [
        tensor("ids", "int64", "batch", "time"),
        tensor("lengths", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
    ]
    return checked_model(hoisted(g.model("sampler", inputs, outputs)))


def sampled_texts(g: Nodes, shared: SharedParts, code: str, drawn: str) -> tuple[str, str]:
    """`ids` (batch, time) of codes (batch, d) with uniform numbers `drawn` (T, batch, 1), and the
    log-probability (batch, time) of each token, 0 on padding."""
    masks = logit_masks(g, shared, positions_of(g, "max_length", axis=1))
    ids, log_probabilities = write_texts(g, Decoder.of(shared, g, code), masks, drawn)
    return g.named(ids, "ids"), log_probabilities


def positions_of(g: Nodes, length: str, axis: int) -> str:
    """The positions 0 to length - 1 as a matrix with one row or column, which is `axis`."""
    positions = g.Range(g.constant(0, np.int64), length, g.constant(1, np.int64))
    return g.Unsqueeze(positions, g.constant([axis], np.int64))


def scorer_graph(shared: SharedParts) -> onnx.ModelProto:
    """tokens (batch, T) int32, seed, row -> reconstruction, kl (batch,) and nats (batch, time), for
    a code sampled from q(z|x).

    `reconstruction` and `kl` are the two terms of the bound; `nats` is the reconstruction at each
    position. A model with attributes has an input `attribute` (batch,) int32. Where it is -1, the
    classifier chooses, and `kl` includes the cost of that choice.
    """
    g, model = Nodes(prefix="scorer/", signed_words=True), shared.model
    noise = noise_of(g, model.parts.noise_size)
    has_attributes = bool(model.model_config.attributes)
    bindings = {"tokens": "tokens", "noise": noise} | (
        {"attribute": "attribute"} if has_attributes else {}
    )
    code, kl = g.inline(inference_part(model), bindings, "infer_")
    decoder = Decoder.of(shared, g, code)
    g.named(kl, "kl")
    tokens = g.Cast("tokens", to=TensorProto.INT64)
    counted = g.Cast(g.Not(g.Equal(tokens, g.constant(PAD, np.int64))), to=TensorProto.INT64)
    lengths = g.ReduceSum(counted, g.constant([1], np.int64), keepdims=0)
    by_position = g.Transpose(tokens, perm=[1, 0])
    carried = [g.Expand(g.constant(START, np.int64), decoder.batch), *decoder.states]
    projected = decoder.project(g, decoder.features)
    body = scoring_body(g, decoder, projected, by_position)
    *_, nats = g.Loop(
        g.ReduceMax(lengths, keepdims=0),
        g.constant(True, bool),
        *carried,
        outputs=len(carried) + 1,
        body=body,
    )
    nats = g.named(g.Transpose(nats, perm=[1, 0]), "nats")
    g.named(g.ReduceSum(nats, g.constant([1], np.int64), keepdims=0), "reconstruction")
    inputs = [tensor("tokens", "int32", "batch", model.model_config.length), *SEED_AND_ROW]
    inputs += [tensor("attribute", "int32", "batch")] if has_attributes else []
    outputs = [*(tensor(name, "float", "batch") for name in ("reconstruction", "kl"))]
    return checked_model(
        hoisted(g.model("scorer", inputs, [*outputs, tensor("nats", "float", "batch", "time")]))
    )


def expand_graph(shared: SharedParts) -> onnx.ModelProto:
    """z (batch, d) -> projected (batch, T, P) and the initial states of the head."""
    g, config = Nodes(prefix="expand/"), shared.model.model_config
    decoder = Decoder.of(shared, g, "z")
    projected = decoder.project(g, decoder.features)
    g.named(g.Transpose(projected, perm=[1, 0, 2]), "projected")
    first = [
        renamed(state, g.named(name, f"first_{state.name}"))
        for state, name in zip(shared.states, decoder.states, strict=True)
    ]
    outputs = [tensor("projected", "float", "batch", config.length, shared.width), *first]
    return checked_model(
        g.model("expand", [tensor("z", "float", "batch", shared.model.parts.code_size)], outputs)
    )


def step_graph(shared: SharedParts, signed_words: bool = False) -> onnx.ModelProto:
    """One step of the sampler's loop: projected (batch, P) of a position, the previous tokens
    (batch,) and the states -> symbol, log_probability (batch,) and the new states."""
    g = Nodes(prefix="step/", signed_words=signed_words)
    masks = logit_masks(g, shared, "position")
    _, outputs = step_outputs(g, shared, masks, uniforms_at(g, "position"))
    inputs = [
        tensor("projected", "float", "batch", shared.width),
        tensor("previous", "int64", "batch"),
        *shared.states,
        tensor("position", "int64"),
    ]
    return checked_model(g.model("step", [*inputs, *SEED_AND_ROW, *CHOICES], outputs))


def step_outputs(
    g: Nodes, shared: SharedParts, masks: str, drawn: str
) -> tuple[str, list[onnx.ValueInfoProto]]:
    """The logits (batch, V) of a step, `masks` with the bias included, and the declarations of its
    outputs, with uniform numbers `drawn` (batch, 1)."""
    bindings = {name: name for name in ("projected", "previous", *shared.names)}
    logits, *states = g.inline(shared.step, bindings, STEP_PREFIX)
    logits = g.Add(logits, masks)
    symbol = g.named(choose(g, logits, drawn), "symbol")
    g.named(log_probability_of(g, logits, symbol), "log_probability")
    new = [
        renamed(before, g.named(after, f"new_{before.name}"))
        for before, after in zip(shared.states, states, strict=True)
    ]
    return logits, [
        tensor("symbol", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
        *new,
    ]


@part("mask")
def logit_masks(g: Nodes, shared: SharedParts, positions: str) -> str:
    """Logit masks (..., V) for positions (...), with the bias of the logits: added to logits, they
    exclude tokens that are not allowed there."""
    size = shared.model.model_config.vocabulary_size
    without_end, with_end = (logit_mask(size, end) + shared.bias for end in (False, True))
    return g.Where(g.Less(positions, "min_length"), g.constant(without_end), g.constant(with_end))


def prior_codes(g: Nodes, shared: SharedParts, noise: str, rows: str = "batch") -> str:
    """Codes (n, d) of the prior from noise (n, noise_size). `rows` is the name of n."""
    (z,) = g.inline(shared.codes, {"noise": noise}, "prior_", rows)
    return z


@part("codes")
def given_or_prior_codes(g: Nodes, shared: SharedParts, noise: str) -> str:
    """The input `z`, or if it has no rows codes of the prior from noise (batch, noise_size).

    They are the first rows of `z` and the codes of noise[:n], one below the other. Some runtimes
    have no branches. n is batch if `z` has no rows, otherwise 1, because onnxruntime
    1.31.1 does not run every recurrent node on an empty batch.
    """
    first, one = g.constant([0], np.int64), g.constant([1], np.int64)
    rows, batch = (g.Gather(g.Shape(name), first) for name in ("z", "seed"))
    drawn_rows = g.Where(g.Equal(rows, first), batch, one)
    drawn = prior_codes(g, shared, g.Slice(noise, first, drawn_rows, first), "drawn")
    return g.Slice(g.Concat("z", drawn, axis=0), first, batch, first)
