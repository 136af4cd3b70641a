"""The graphs of a bundle: `encoder`, `prior`, and `sampler`, the whole decoding loop in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import TensorProto

from kvae.decoding import writable
from kvae.model import TextVAE
from kvae.serving.alphabet import END, PAD, START

from .convert import checked, converted
from .nodes import Nodes, tensor
from .random_numbers import key_of, normals, row_numbers, threefry, uniform

LOGITS = "logits"
"""The name that the sampler's body gives the logits of a step, so that parity can watch them."""


def bundle_graphs(model: TextVAE) -> dict[str, onnx.ModelProto]:
    """Every endpoint of a bundle, by name."""
    return {"sampler": sampler_graph(model), "encoder": encoder_graph(model), "prior": prior_graph(model)}


def encoder_graph(model: TextVAE) -> onnx.ModelProto:
    """tokens (batch, T) int32 -> mean, log_variance (batch, d)."""

    def encode(tokens: Any) -> tuple[Any, Any]:
        found = model.encode(tokens)
        return found["mean"], found["log_variance"]

    tokens = tf.TensorSpec((None, model.model_config.length), tf.int32, "tokens")
    return converted(encode, [tokens], ["mean", "log_variance"])


def prior_graph(model: TextVAE) -> onnx.ModelProto:
    """seed, first_row, count -> z (count, d): the codes of rows first_row, first_row + 1, ... of a seed."""
    size = model.parts.noise_size
    g = Nodes()
    noise = normals(g, key_of(g, "seed"), row_numbers(g, "first_row", "count"), size)
    part = converted(lambda noise: model.codes(tf.identity(noise)), [tf.TensorSpec((None, size), name="noise")], ["z"])
    (z,) = g.inline(part, {"noise": noise}, "prior_")
    g.named(z, "z")
    inputs = [tensor(name, "int64") for name in ("seed", "first_row", "count")]
    return checked(g.model("prior", inputs, [tensor("z", "float", "batch", model.parts.code_size)]))


def sampler_graph(model: TextVAE) -> onnx.ModelProto:
    """z and choices -> ids (batch, time), lengths (batch,), log_probability (batch,).

    `temperature` 0 takes the likeliest symbol; `top_k` 0 and `top_p` 1 keep all symbols. The symbol of row r at position t
    depends on z, the choices, `seed`, r and t alone. Decoding stops when every row has ended: `time` may be below
    `max_length`. `lengths` count the text without its end mark; `log_probability` is nats at temperature 1 with it.
    """
    g = Nodes()
    projected, *states = g.inline(expand_part(model), {"z": "z"}, "expand_")
    by_position = g.Transpose(projected, perm=[1, 0, 2])
    batch = g.Slice(g.Shape("z"), g.constant([0], np.int64), g.constant([1], np.int64))
    count = g.Squeeze(batch)
    carried = [
        g.Expand(g.constant(START, np.int64), batch),
        g.Expand(g.constant(False, bool), batch),
        g.Expand(g.constant(0.0, np.float32), batch),
        *states,
    ]
    randomness = (key_of(g, "seed"), row_numbers(g, "first_row", count))
    body = step_body(g, model, by_position, randomness)
    yes = g.constant(True, bool)
    *carried, written = g.Loop("max_length", yes, *carried, outputs=len(carried) + 1, body=body)
    ids = g.named(g.Transpose(written, perm=[1, 0]), "ids")
    text = g.And(g.Not(g.Equal(ids, g.constant(END, np.int64))), g.Not(g.Equal(ids, g.constant(PAD, np.int64))))
    g.named(g.ReduceSum(g.Cast(text, to=TensorProto.INT64), g.constant([1], np.int64), keepdims=0), "lengths")
    g.named(carried[2], "log_probability")
    inputs = [
        tensor("z", "float", "batch", model.parts.code_size),
        *(tensor(name, "int64") for name in ("seed", "first_row")),
        tensor("temperature", "float"),
        tensor("top_k", "int64"),
        tensor("top_p", "float"),
        tensor("max_length", "int64"),
    ]
    outputs = [
        tensor("ids", "int64", "batch", "time"),
        tensor("lengths", "int64", "batch"),
        tensor("log_probability", "float", "batch"),
    ]
    return checked(g.model("sampler", inputs, outputs))


def step_body(outer: Nodes, model: TextVAE, by_position: str, randomness: Any) -> onnx.GraphProto:
    """One turn of the loop: the head's step, the choice of a symbol, and whether any row still writes."""
    g = Nodes(outer)
    key, rows = randomness
    specs = state_specs(model)
    bindings = {"projected": g.Gather(by_position, "position", axis=0), "previous": "previous"}
    bindings |= {name: name for name in specs}
    logits, *new_states = g.inline(step_part(model), bindings, "step_")
    logits = g.named(
        g.Add(logits, g.constant(np.array(writable(model.model_config.vocabulary_size)), np.float32)), LOGITS
    )

    words = threefry(g, key, (rows, g.Cast("position", to=TensorProto.UINT32)))
    chosen = choose(g, logits, uniform(g, words[0]))
    column = g.constant([1], np.int64)
    gain = g.Squeeze(g.GatherElements(g.LogSoftmax(logits, axis=1), g.Unsqueeze(chosen, column), axis=1), column)
    symbol = g.Where("finished", g.constant(PAD, np.int64), chosen)
    total = g.Add("log_probability_before", g.Where("finished", g.constant(0.0, np.float32), gain))
    finished = g.Or("finished", g.Equal(symbol, g.constant(END, np.int64)))
    writing = g.ReduceMax(g.Cast(g.Not(finished), to=TensorProto.INT32), keepdims=0)

    inputs = [
        tensor("position", "int64"),
        tensor("go_on", "bool"),
        tensor("previous", "int64", "batch"),
        tensor("finished", "bool", "batch"),
    ]
    inputs += [tensor("log_probability_before", "float", "batch")]
    inputs += [tensor(name, spec.dtype.name, "batch", *spec.shape[1:]) for name, spec in specs.items()]
    outputs = [tensor(g.Cast(writing, to=TensorProto.BOOL), "bool"), tensor(g.Identity(symbol), "int64", "batch")]
    outputs += [tensor(finished, "bool", "batch"), tensor(total, "float", "batch")]
    outputs += [
        tensor(g.Identity(name), spec.dtype.name, "batch", *spec.shape[1:])
        for name, spec in zip(new_states, specs.values(), strict=True)
    ]
    outputs += [tensor(symbol, "int64", "batch")]
    return g.body("step", inputs, outputs)


def choose(g: Nodes, logits: str, uniforms: str) -> str:
    """Symbols (batch,) int64 for logits (batch, V): the likeliest, or by inverse distribution function at `uniforms`."""
    zero, one, column = g.constant(0.0, np.float32), g.constant(1.0, np.float32), g.constant([1], np.int64)
    is_greedy = g.Equal("temperature", zero)
    probabilities = g.Softmax(g.Div(logits, g.Where(is_greedy, one, "temperature")), axis=1)

    everything, filtered = Nodes(g), Nodes(g)
    all_of_it = everything.Identity(probabilities)
    kept = likeliest(filtered, probabilities)
    restricts = g.Or(g.Greater("top_k", g.constant(0, np.int64)), g.Less("top_p", one))
    probabilities = g.If(
        restricts,
        then_branch=filtered.body("filtered", [], [tensor(kept, "float", "batch", "symbols")]),
        else_branch=everything.body("everything", [], [tensor(all_of_it, "float", "batch", "symbols")]),
    )
    cumulative = g.CumSum(probabilities, g.constant(1, np.int64))
    total = g.ReduceSum(probabilities, column, keepdims=1)
    passed = g.LessOrEqual(cumulative, g.Mul(g.Unsqueeze(uniforms, column), total))
    drawn = g.ReduceSum(g.Cast(passed, to=TensorProto.INT64), column, keepdims=0)
    # Rounding may push the draw behind the last symbol that has any probability: step back to that one.
    positive = g.Cast(g.Greater(probabilities, zero), to=TensorProto.FLOAT)
    last = g.ArgMax(positive, axis=1, keepdims=0, select_last_index=1)
    return g.Where(is_greedy, g.ArgMax(logits, axis=1, keepdims=0), g.Min(drawn, last))


def likeliest(g: Nodes, probabilities: str) -> str:
    """Probabilities (batch, V) with zeros outside the `top_k` likeliest symbols and, of those, the `top_p` nucleus.

    The nucleus (Holtzman et al. 2020) is the smallest set of likeliest symbols with a share of at least `top_p`.
    """
    zero, column = g.constant(0.0, np.float32), g.constant([1], np.int64)
    symbols = g.Slice(g.Shape(probabilities), g.constant([1], np.int64), g.constant([2], np.int64))
    sorted_probabilities, _ = g.TopK(probabilities, symbols, axis=1, outputs=2)
    ranks = g.Range(g.constant(0, np.int64), g.Squeeze(symbols), g.constant(1, np.int64))
    no_limit = g.Equal("top_k", g.constant(0, np.int64))
    within_k = g.Or(g.Less(ranks, "top_k"), no_limit)
    first_k = g.Where(within_k, sorted_probabilities, zero)
    shares = g.Div(first_k, g.ReduceSum(first_k, column, keepdims=1))
    before = g.CumSum(shares, g.constant(1, np.int64), exclusive=1)
    in_nucleus = g.And(g.Less(before, "top_p"), g.Greater(first_k, zero))
    smallest = g.ReduceMin(g.Where(in_nucleus, first_k, g.constant(2.0, np.float32)), column, keepdims=1)
    return g.Where(g.GreaterOrEqual(probabilities, smallest), probabilities, zero)


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
    width = model.head.project(features_of_zero(model)).shape[-1]
    inputs = [
        tf.TensorSpec((None, width), name="projected"),
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


def features_of_zero(model: TextVAE) -> Any:
    """What the expander makes of one zero code: features of the shapes and types that the head gets."""
    return model.expander(tf.zeros((1, model.parts.code_size)), training=False)
