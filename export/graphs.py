"""The graphs of a bundle.

    sampler   seed, row, z, choices       -> ids, lengths, log_probability: the whole decoding loop
    encoder   tokens                      -> mean, log_variance
    prior     seed, row                   -> z
    scorer    tokens, seed, row           -> reconstruction, kl, nats of each position: the teacher-forced bound
    expand    z                           -> projected, first states: where streaming begins
    step      projected, previous, states -> symbol, log_probability, new states: one turn of the sampler's loop

Sampler, scorer and step put the same converted head around their own turns, so that they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto

from kvae.decoding import writable
from kvae.model import TextVAE
from kvae.objectives import price_of_guesses
from kvae.parts import named_kls
from kvae.serving.alphabet import END, PAD, START

from .choices import choose
from .convert import checked, converted
from .nodes import Nodes, tensor
from .random_numbers import key_of, normals, row_numbers, threefry, uniform

LOGITS = "logits"
"""The name that a loop's body gives the logits of a step, so that parity can watch them."""

FORBIDDEN = -1e9
"""Added to the logit of a symbol that may not be written."""

PLACE = (tensor("seed", "int64", "batch"), tensor("row", "int64", "batch"))
"""Row `row` of `seed`: what all randomness of a text depends on."""

CHOICES = (
    tensor("temperature", "float"),
    tensor("top_k", "int64"),
    tensor("top_p", "float"),
    tensor("min_length", "int64"),
)
"""How symbols are chosen: `temperature` 0 takes the likeliest, `top_k` 0 and `top_p` 1 keep all, no end mark stands before
position `min_length`."""


def bundle_graphs(model: TextVAE) -> dict[str, onnx.ModelProto]:
    """Every endpoint of a bundle, by name."""
    graphs: dict[str, Callable[[TextVAE], onnx.ModelProto]] = {
        "sampler": sampler_graph,
        "encoder": encoder_graph,
        "prior": prior_graph,
        "scorer": scorer_graph,
        "expand": expand_graph,
        "step": step_graph,
    }
    return {name: graph(model) for name, graph in graphs.items()}


def encoder_graph(model: TextVAE) -> onnx.ModelProto:
    """tokens (batch, T) int32 -> mean, log_variance (batch, d)."""

    def encode(tokens: Any) -> tuple[Any, Any]:
        found = model.encode(tokens)
        return found["mean"], found["log_variance"]

    return converted(encode, [tokens_spec(model)], ["mean", "log_variance"])


def prior_graph(model: TextVAE) -> onnx.ModelProto:
    """seed, row (batch,) -> z (batch, d): the codes of rows of seeds."""
    g = Nodes()
    g.named(drawn_codes(g, model), "z")
    return checked(g.model("prior", PLACE, [tensor("z", "float", "batch", model.parts.code_size)]))


def sampler_graph(model: TextVAE) -> onnx.ModelProto:
    """seed, row (batch,), z (batch, d) and choices -> ids (batch, time), lengths (batch,), log_probability (batch,).

    With a `z` of no rows the codes are those of the prior. The symbol of a text at position t depends on its code, the choices,
    its seed and row, and t alone. Decoding stops when every text has ended: `time` may be below `max_length`. `lengths`
    count the text without its end mark; `log_probability` is nats at temperature 1 with it.
    """
    g = Nodes()
    decoder = Decoder.of(model, g, given_or_drawn_codes(g, model))
    batch = g.Shape("seed")
    carried = [
        g.Expand(g.constant(START, np.int64), batch),
        g.Expand(g.constant(False, bool), batch),
        g.Expand(g.constant(0.0, np.float32), batch),
        *decoder.states,
    ]
    body = writing_body(g, decoder, (key_of(g, "seed"), row_numbers(g, "row")))
    *carried, written = g.Loop("max_length", g.constant(True, bool), *carried, outputs=len(carried) + 1, body=body)
    ids = g.named(g.Transpose(written, perm=[1, 0]), "ids")
    text = g.And(g.Not(g.Equal(ids, g.constant(END, np.int64))), g.Not(g.Equal(ids, g.constant(PAD, np.int64))))
    g.named(g.ReduceSum(g.Cast(text, to=TensorProto.INT64), g.constant([1], np.int64), keepdims=0), "lengths")
    g.named(carried[2], "log_probability")
    z = tensor("z", "float", "codes", model.parts.code_size)
    outputs = [
        tensor("ids", "int64", "batch", "time"),
        tensor("lengths", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
    ]
    return checked(g.model("sampler", [*PLACE, z, *CHOICES, tensor("max_length", "int64")], outputs))


def scorer_graph(model: TextVAE) -> onnx.ModelProto:
    """tokens (batch, T) int32, seed, row -> reconstruction, kl (batch,) and nats (batch, time), the bound's two halves and
    the first one position by position, of a code drawn from q(z|x).

    With attributes there is an input `attribute` (batch,) int32, -1 where the classifier is to choose; `kl` then holds the
    price of its choice.
    """
    g = Nodes()
    noise = normals(g, key_of(g, "seed"), row_numbers(g, "row"), model.parts.noise_size)
    labelled = bool(model.model_config.attributes)
    bound = {"tokens": "tokens", "noise": noise} | ({"attribute": "attribute"} if labelled else {})
    code, kl = g.inline(inference_part(model), bound, "infer_")
    decoder = Decoder.of(model, g, code)
    g.named(kl, "kl")
    tokens = g.Cast("tokens", to=TensorProto.INT64)
    counted = g.Cast(g.Not(g.Equal(tokens, g.constant(PAD, np.int64))), to=TensorProto.INT64)
    lengths = g.ReduceSum(counted, g.constant([1], np.int64), keepdims=0)
    by_position = g.Transpose(tokens, perm=[1, 0])
    carried = [g.Expand(g.constant(START, np.int64), g.Shape("seed")), *decoder.states]
    body = reading_body(g, decoder, by_position)
    *_, nats = g.Loop(
        g.ReduceMax(lengths, keepdims=0), g.constant(True, bool), *carried, outputs=len(carried) + 1, body=body
    )
    nats = g.named(g.Transpose(nats, perm=[1, 0]), "nats")
    g.named(g.ReduceSum(nats, g.constant([1], np.int64), keepdims=0), "reconstruction")
    inputs = [tensor("tokens", "int32", "batch", model.model_config.length), *PLACE]
    inputs += [tensor("attribute", "int32", "batch")] if labelled else []
    outputs = [*(tensor(name, "float", "batch") for name in ("reconstruction", "kl"))]
    return checked(g.model("scorer", inputs, [*outputs, tensor("nats", "float", "batch", "time")]))


def expand_graph(model: TextVAE) -> onnx.ModelProto:
    """z (batch, d) -> projected (batch, T, P) and the head's first states."""
    part = expand_part(model)
    part.graph.output[0].CopyFrom(tensor("projected", "float", "batch", model.model_config.length, width_of(model)))
    return checked(part)


def step_graph(model: TextVAE) -> onnx.ModelProto:
    """One turn of the sampler's loop: projected (batch, P) of a position, the symbols before it and the states -> symbol,
    log_probability (batch,) and the new states."""
    g = Nodes()
    specs = state_specs(model)
    turn = step_part(model)
    logits, *states = g.inline(turn, {name: name for name in ("projected", "previous", *specs)}, "step_")
    symbol, gain = next_symbol(g, model, logits, (key_of(g, "seed"), row_numbers(g, "row")))
    g.named(symbol, "symbol")
    g.named(gain, "log_probability")
    for state, name in zip(states, specs, strict=True):
        g.named(state, f"new_{name}")
    read = [tensor("projected", "float", "batch", width_of(model)), tensor("previous", "int64", "batch")]
    outputs = [tensor("symbol", "int64", "batch"), tensor("log_probability", "float", "batch")]
    outputs += state_tensors(specs, "new_")
    place = [tensor("position", "int64"), *PLACE]
    return checked(g.model("step", [*read, *state_tensors(specs), *place, *CHOICES], outputs))


@dataclass(frozen=True)
class Decoder:
    """A head between the nodes of a graph: what it reads at each position, its first states, and one step of it."""

    model: TextVAE
    by_position: str
    """(T, batch, P)."""
    states: Sequence[str]
    specs: dict[str, tf.TensorSpec]
    step: onnx.ModelProto

    @classmethod
    def of(cls, model: TextVAE, g: Nodes, code: str) -> Decoder:
        projected, *states = g.inline(expand_part(model), {"z": code}, "expand_")
        return cls(model, g.Transpose(projected, perm=[1, 0, 2]), states, state_specs(model), step_part(model))

    def turn(self, g: Nodes) -> tuple[str, list[str]]:
        """Logits (batch, V) at `position` from `previous` and the states, and the states behind it, in a loop's body."""
        bindings = {"projected": g.Gather(self.by_position, "position", axis=0), "previous": "previous"}
        logits, *states = g.inline(self.step, bindings | {name: name for name in self.specs}, "step_")
        return logits, states

    def body(
        self,
        g: Nodes,
        name: str,
        go_on: str,
        carried: Sequence[tuple[onnx.ValueInfoProto, str]],
        states: Sequence[str],
        written: onnx.ValueInfoProto,
    ) -> onnx.GraphProto:
        """The nodes as a loop's body that carries `carried` (as it comes in, and the name as it goes out) and the states."""
        inputs = [tensor("position", "int64"), tensor("go_on", "bool"), *(before for before, _ in carried)]
        outputs = [tensor(go_on, "bool"), *(renamed(before, g.Identity(after)) for before, after in carried)]
        outputs += [
            renamed(before, g.Identity(after)) for before, after in zip(state_tensors(self.specs), states, strict=True)
        ]
        return g.body(name, [*inputs, *state_tensors(self.specs)], [*outputs, written])


def writing_body(outer: Nodes, decoder: Decoder, randomness: Any) -> onnx.GraphProto:
    """One turn of writing: the head's step, the choice of a symbol, and whether any row still writes."""
    g = Nodes(outer)
    logits, states = decoder.turn(g)
    chosen, gain = next_symbol(g, decoder.model, logits, randomness)
    symbol = g.Where("finished", g.constant(PAD, np.int64), chosen)
    total = g.Add("log_probability_before", g.Where("finished", g.constant(0.0, np.float32), gain))
    finished = g.Or("finished", g.Equal(symbol, g.constant(END, np.int64)))
    writing = g.ReduceMax(g.Cast(g.Not(finished), to=TensorProto.INT32), keepdims=0)
    carried = [
        (tensor("previous", "int64", "batch"), symbol),
        (tensor("finished", "bool", "batch"), finished),
        (tensor("log_probability_before", "float", "batch"), total),
    ]
    go_on = g.Cast(writing, to=TensorProto.BOOL)
    return decoder.body(g, "write", go_on, carried, states, tensor(symbol, "int64", "batch"))


def reading_body(outer: Nodes, decoder: Decoder, by_position: str) -> onnx.GraphProto:
    """One turn of reading: nats of the symbol that stands at the position, 0 on padding."""
    g = Nodes(outer)
    logits, states = decoder.turn(g)
    symbol = g.Gather(by_position, "position", axis=0)
    nats = g.Neg(log_probability_of(g, g.named(logits, LOGITS), symbol))
    nats = g.Where(g.Equal(symbol, g.constant(PAD, np.int64)), g.constant(0.0, np.float32), nats)
    carried = [(tensor("previous", "int64", "batch"), symbol)]
    return decoder.body(g, "read", g.Identity("go_on"), carried, states, tensor(nats, "float", "batch"))


def next_symbol(g: Nodes, model: TextVAE, logits: str, randomness: Any) -> tuple[str, str]:
    """The symbols (batch,) chosen from logits (batch, V) at `position`, and their log-probability at temperature 1."""
    key, rows = randomness
    anywhere = np.array(writable(model.model_config.vocabulary_size), np.float32)
    before_the_least = anywhere.copy()
    before_the_least[END] = FORBIDDEN
    barrier = g.Where(g.Less("position", "min_length"), g.constant(before_the_least), g.constant(anywhere))
    logits = g.named(g.Add(logits, barrier), LOGITS)
    words = threefry(g, key, (rows, g.Cast("position", to=TensorProto.UINT32)))
    chosen = choose(g, logits, uniform(g, words[0]))
    return chosen, log_probability_of(g, logits, chosen)


def log_probability_of(g: Nodes, logits: str, symbols: str) -> str:
    """log softmax(logits) (batch, V) at symbols (batch,), nats, (batch,)."""
    column = g.constant([1], np.int64)
    return g.Squeeze(g.GatherElements(g.LogSoftmax(logits, axis=1), g.Unsqueeze(symbols, column), axis=1), column)


def drawn_codes(g: Nodes, model: TextVAE) -> str:
    """Codes (batch, d) of the prior for `seed` and `row`."""
    size = model.parts.noise_size
    noise = normals(g, key_of(g, "seed"), row_numbers(g, "row"), size)
    part = converted(lambda noise: model.codes(tf.identity(noise)), [tf.TensorSpec((None, size), name="noise")], ["z"])
    (z,) = g.inline(part, {"noise": noise}, "prior_")
    return z


def given_or_drawn_codes(g: Nodes, model: TextVAE) -> str:
    """`z`, or codes of the prior where it has no rows."""
    rows = g.Slice(g.Shape("z"), g.constant([0], np.int64), g.constant([1], np.int64))
    drawn, given = Nodes(g), Nodes(g)
    z = [
        tensor(name, "float", "rows", model.parts.code_size)
        for name in (drawn_codes(drawn, model), given.Identity("z"))
    ]
    return g.If(
        g.Equal(g.Squeeze(rows), g.constant(0, np.int64)),
        then_branch=drawn.body("drawn", [], z[:1]),
        else_branch=given.body("given", [], z[1:]),
    )


def inference_part(model: TextVAE) -> onnx.ModelProto:
    """tokens, noise (and attribute) -> code (batch, code_size) drawn from q(z|x), and its KL (batch,), nats."""
    values = len(model.model_config.attributes)

    def infer(tokens: Any, noise: Any, attribute: Any = None) -> tuple[Any, Any]:
        outputs, code = model.parts.inferred(tokens, tf.identity(noise), attribute, training=False)
        kl = sum((outputs[name] for name in named_kls(outputs)), tf.zeros_like(tokens[:, 0], tf.float32))
        return code, kl + price_of_guesses(attribute, values) if values else kl

    noise = tf.TensorSpec((None, model.parts.noise_size), name="noise")
    attribute = [tf.TensorSpec((None,), tf.int32, "attribute")] if values else []
    return converted(infer, [tokens_spec(model), noise, *attribute], ["code", "kl"])


def expand_part(model: TextVAE) -> onnx.ModelProto:
    """z (batch, d) -> projected (batch, T, P), all that a step needs from the expander, and the head's first state."""

    def expand(z: Any) -> list[Any]:
        features = model.expander(z, training=False)
        return [model.head.project(features), *model.head.initial_state(features)]

    z = tf.TensorSpec((None, model.parts.code_size), name="z")
    return converted(expand, [z], ["projected", *(f"first_{name}" for name in state_specs(model))])


def step_part(model: TextVAE) -> onnx.ModelProto:
    """projected (batch, P), previous (batch,), states -> logits (batch, V), states."""
    specs = state_specs(model)
    inputs = [
        tf.TensorSpec((None, width_of(model)), name="projected"),
        tf.TensorSpec((None,), tf.int64, "previous"),
        *specs.values(),
    ]

    def step(projected: Any, previous: Any, *state: Any) -> list[Any]:
        logits, new_state = model.head.step(projected, previous, list(state))
        return [tf.identity(logits), *new_state]

    return converted(step, inputs, ["logits", *(f"new_{name}" for name in specs)])


def state_specs(model: TextVAE) -> dict[str, tf.TensorSpec]:
    """Name, shape and type of each tensor of the head's state."""
    states = enumerate(model.head.initial_state(features_of_zero(model)))
    return {f"state_{i}": tf.TensorSpec((None, *state.shape[1:]), state.dtype, f"state_{i}") for i, state in states}


def state_tensors(specs: dict[str, tf.TensorSpec], prefix: str = "") -> list[onnx.ValueInfoProto]:
    """The declarations of a head's states."""
    return [tensor(prefix + name, spec.dtype.name, "batch", *spec.shape[1:]) for name, spec in specs.items()]


def renamed(declaration: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    """The same type and shape under another name."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(declaration)
    copy.name = name
    return copy


def tokens_spec(model: TextVAE) -> tf.TensorSpec:
    """tokens (batch, T) int32."""
    return tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")


def width_of(model: TextVAE) -> int:
    """P: how many numbers a step reads from the expander."""
    return model.head.project(features_of_zero(model)).shape[-1]


def features_of_zero(model: TextVAE) -> Any:
    """What the expander makes of one zero code: features of the shapes and types that the head gets."""
    return model.expander(tf.zeros((1, model.parts.code_size)), training=False)
