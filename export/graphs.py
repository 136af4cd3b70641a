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

from collections.abc import Sequence
from dataclasses import dataclass

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
from .nodes import Nodes, part, tensor
from .random_numbers import noise_and_uniforms, noise_of, uniforms_at
from .simplify import hoisted

LOGITS = "logits"
"""Name of the logits of a step in the body of a loop; `kvae.export.parity` adds them to the
outputs."""

STEP_PREFIX = "step_"
"""Prefix of the names in the head's step."""

HIDDEN_STATE = f"{STEP_PREFIX}state_0"
"""Name of the first state in the head's step. For an LSTM or GRU this is the hidden state, with
values in [-1, 1]."""

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
    codes = given_or_prior_codes(g, shared, noise)
    ids, log_probabilities = sampling_loop(g, shared, codes, drawn, "max_length")
    ids, column = g.named(ids, "ids"), g.constant([1], np.int64)
    text = g.Cast(g.Greater(ids, g.constant(END, np.int64)), to=TensorProto.INT64)
    g.named(g.ReduceSum(text, column, keepdims=0), "lengths")
    total = g.ReduceSum(g.Cast(log_probabilities, to=TensorProto.DOUBLE), column, keepdims=0)
    g.named(g.Cast(total, to=TensorProto.FLOAT), "log_probability")
    z = tensor("z", "float", "codes", shared.model.parts.code_size)
    outputs = [
        tensor("ids", "int64", "batch", "time"),
        tensor("lengths", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
    ]
    return checked_model(
        hoisted(
            g.model("sampler", [*SEED_AND_ROW, z, *CHOICES, tensor("max_length", "int64")], outputs)
        )
    )


def sampling_loop(
    g: Nodes, shared: SharedParts, codes: str, drawn: str, max_length: str
) -> tuple[str, str]:
    """Token ids (batch, time) of codes (batch, d) with uniform numbers `drawn` (T, batch, 1), and
    the log-probability of each token, 0 on padding."""
    decoder = Decoder.of(shared, g, codes)
    batch = g.Gather(g.Shape(codes), g.constant([0], np.int64))
    carried = [
        g.Expand(g.constant(START, np.int64), batch),
        g.Expand(g.constant(True, bool), batch),
        *decoder.states,
    ]
    masks = logit_masks(g, shared.model, positions_of(g, max_length, axis=1))
    body = sampling_body(g, decoder, masks, drawn)
    *_, ids, log_probabilities = g.Loop(
        max_length, g.constant(True, bool), *carried, outputs=len(carried) + 2, body=body
    )
    ids = g.Transpose(ids, perm=[1, 0])
    is_padding = g.Equal(ids, g.constant(PAD, np.int64))
    by_row = g.Transpose(log_probabilities, perm=[1, 0])
    return ids, g.Where(is_padding, g.constant(0.0, np.float32), by_row)


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
    carried = [g.Expand(g.constant(START, np.int64), g.Shape("seed")), *decoder.states]
    body = scoring_body(g, decoder, by_position)
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
    projected, *states = g.inline(shared.expand, {"z": "z"}, "expand_")
    g.named(g.Transpose(projected, perm=[1, 0, 2]), "projected")
    first = [
        renamed(state, g.named(name, f"first_{state.name}"))
        for state, name in zip(shared.states, states, strict=True)
    ]
    outputs = [tensor("projected", "float", "batch", config.length, shared.width), *first]
    return checked_model(
        g.model("expand", [tensor("z", "float", "batch", shared.model.parts.code_size)], outputs)
    )


def step_graph(shared: SharedParts, signed_words: bool = False) -> onnx.ModelProto:
    """One step of the sampler's loop: projected (batch, P) of a position, the previous tokens
    (batch,) and the states -> symbol, log_probability (batch,) and the new states."""
    g = Nodes(prefix="step/", signed_words=signed_words)
    logits, *states = g.inline(
        shared.step, {name: name for name in ("projected", "previous", *shared.names)}, STEP_PREFIX
    )
    symbol, log_probability = next_symbol(
        g, logits, logit_masks(g, shared.model, "position"), uniforms_at(g, "position")
    )
    g.named(symbol, "symbol")
    g.named(log_probability, "log_probability")
    new = [
        renamed(before, g.named(after, f"new_{before.name}"))
        for before, after in zip(shared.states, states, strict=True)
    ]
    inputs = [
        tensor("projected", "float", "batch", shared.width),
        tensor("previous", "int64", "batch"),
    ]
    outputs = [
        tensor("symbol", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
        *new,
    ]
    return checked_model(
        g.model(
            "step",
            [*inputs, *shared.states, tensor("position", "int64"), *SEED_AND_ROW, *CHOICES],
            outputs,
        )
    )


@dataclass(frozen=True)
class Decoder:
    """A head in a graph: the names of its projected features and its initial states."""

    shared: SharedParts
    by_position: str
    """Projected features (T, batch, P)."""
    states: Sequence[str]

    @classmethod
    def of(cls, shared: SharedParts, g: Nodes, code: str) -> Decoder:
        projected, *states = g.inline(shared.expand, {"z": code}, "expand_")
        return cls(shared, projected, states)

    def step(self, g: Nodes) -> tuple[str, list[str]]:
        """One step in the body of a loop: logits (batch, V) at `position` given `previous` and the
        states, and the next states."""
        bindings = {
            "projected": g.Gather(self.by_position, "position", axis=0),
            "previous": "previous",
        }
        logits, *states = g.inline(
            self.shared.step, bindings | {name: name for name in self.shared.names}, STEP_PREFIX
        )
        return logits, states

    def body(
        self,
        g: Nodes,
        name: str,
        go_on: str,
        carried: Sequence[tuple[onnx.ValueInfoProto, str]],
        states: Sequence[str],
        *per_step: onnx.ValueInfoProto,
    ) -> onnx.GraphProto:
        """The body of a loop from the nodes of `g`. It carries `carried` (declaration of the input,
        name of the output) and the states, and outputs `per_step` for each step."""
        carried = [*carried, *zip(self.shared.states, states, strict=True)]
        inputs = [
            tensor("position", "int64"),
            tensor("go_on", "bool"),
            *(before for before, _ in carried),
        ]
        outputs = [tensor(go_on, "bool"), *(renamed(before, after) for before, after in carried)]
        return g.body(name, inputs, [*outputs, *per_step])


def sampling_body(outer: Nodes, decoder: Decoder, masks: str, drawn: str) -> onnx.GraphProto:
    """One step of sampling: the head's step, the choice of a token, and whether any row is still
    sampling.

    `masks` (T, V) are the logit masks of all positions and `drawn` (T, batch, 1) their uniform
    numbers. Ids of ordinary tokens are greater than END, so `id > END` means "still sampling".
    """
    g, end = Nodes(outer), outer.constant(END, np.int64)
    logits, states = decoder.step(g)
    here = [g.Gather(numbers, "position", axis=0) for numbers in (masks, drawn)]
    chosen, log_probability = next_symbol(g, logits, *here)
    symbol = g.Where("writing", chosen, g.constant(PAD, np.int64))
    carried = [
        (tensor("previous", "int64", "batch"), symbol),
        (tensor("writing", "bool", "batch"), g.Greater(symbol, end)),
    ]
    per_step = [
        tensor(g.Identity(symbol), "int64", "batch"),
        tensor(log_probability, "float", "batch"),
    ]
    return decoder.body(
        g, "write", g.Greater(g.ReduceMax(symbol, keepdims=0), end), carried, states, *per_step
    )


def scoring_body(outer: Nodes, decoder: Decoder, by_position: str) -> onnx.GraphProto:
    """One step of scoring: -log p of the token at the position in nats, 0 on padding."""
    g = Nodes(outer)
    logits, states = decoder.step(g)
    symbol = g.Gather(by_position, "position", axis=0)
    nats = g.Neg(log_probability_of(g, g.named(logits, LOGITS), symbol))
    nats = g.Where(g.Equal(symbol, g.constant(PAD, np.int64)), g.constant(0.0, np.float32), nats)
    carried = [(tensor("previous", "int64", "batch"), symbol)]
    return decoder.body(
        g, "read", g.Identity("go_on"), carried, states, tensor(nats, "float", "batch")
    )


@part("mask")
def logit_masks(g: Nodes, model: TextVAE, positions: str) -> str:
    """Logit mask (..., V) for positions (...): added to logits, it excludes tokens that are not
    allowed there."""
    size = model.model_config.vocabulary_size
    without_end, with_end = (logit_mask(size, end) for end in (False, True))
    return g.Where(g.Less(positions, "min_length"), g.constant(without_end), g.constant(with_end))


def next_symbol(g: Nodes, logits: str, logit_mask: str, drawn: str) -> tuple[str, str]:
    """Tokens (batch,) chosen from logits (batch, V) plus a mask, with uniform numbers `drawn`
    (batch, 1), and their log-probability (batch,) at temperature 1."""
    logits = g.named(g.Add(logits, logit_mask), LOGITS)
    chosen = choose(g, logits, drawn)
    return chosen, log_probability_of(g, logits, chosen)


@part("log_probability")
def log_probability_of(g: Nodes, logits: str, symbols: str) -> str:
    """log softmax of logits (batch, V) at tokens (batch,), in nats: (batch,)."""
    column = g.constant([1], np.int64)
    of_symbols = g.GatherElements(
        g.LogSoftmax(logits, axis=1), g.Unsqueeze(symbols, column), axis=1
    )
    return g.Squeeze(of_symbols, column)


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


def renamed(declaration: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """A copy of a declaration with another name."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(declaration)
    copy.name = name
    return copy
