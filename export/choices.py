"""Choice of the next token as nodes of an ONNX graph: argmax, or sampling with temperature, top-k
and top-p."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import TensorProto

from .nodes import Nodes, part, tensor


@part("choice")
def choose(g: Nodes, logits: str, uniforms: str) -> str:
    """Choose token ids (batch,) int64 from logits (batch, V): the argmax at temperature 0,
    otherwise a sample by the inverse distribution function at `uniforms` (batch, 1), multiples of
    2^-24 below 1."""
    one, column = g.constant(1.0, np.float32), g.constant([1], np.int64)
    is_greedy = g.Equal("temperature", g.constant(0.0, np.float32))
    scaled = g.Div(logits, g.Where(is_greedy, one, "temperature"))
    filters = g.Or(g.Greater("top_k", g.constant(0, np.int64)), g.Less("top_p", one))

    def filtered(g: Nodes) -> str:
        return if_else(
            g,
            is_greedy,
            lambda g: one_hot_of_argmax(g, logits),
            lambda g: top_k_and_top_p(g, g.Softmax(scaled, axis=1), filters),
        )

    probabilities = if_else(
        g, g.Or(is_greedy, filters), filtered, lambda g: g.Softmax(scaled, axis=1)
    )
    cumulative = g.CumSum(probabilities, g.constant(1, np.int64))
    total = g.Gather(cumulative, g.constant([-1], np.int64), axis=1)
    # The largest uniform times the total rounds to less than the total, so the sample never passes
    # the last token with a probability above 0.
    at_or_below = g.LessOrEqual(cumulative, g.Mul(uniforms, total))
    # Sums of ones are exact in float32 up to 2^24, and onnxruntime adds them faster than integers.
    count = g.ReduceSum(g.Cast(at_or_below, to=TensorProto.FLOAT), column, keepdims=0)
    return g.Cast(count, to=TensorProto.INT64)


def if_else(
    g: Nodes, condition: str, then: Callable[[Nodes], str], otherwise: Callable[[Nodes], str]
) -> str:
    """Probabilities (batch, V) of one of two branches. The other branch is not computed, unless the
    graph must have no branches."""
    if not g.branches:
        return g.Where(condition, then(g), otherwise(g))
    branches = {}
    for name, build in {"then_branch": then, "else_branch": otherwise}.items():
        branch = Nodes(g)
        output = build(branch)
        branches[name] = branch.body(name, [], [tensor(output, "float", "rows", "symbols")])
    selected: str = g.If(condition, **branches)
    return selected


def one_hot_of_argmax(g: Nodes, logits: str) -> str:
    """One-hot (batch, V) of the argmax of logits (batch, V); the first one if several are equal."""
    ids = numbers_below(g, symbol_count(g, logits))
    return g.Cast(g.Equal(ids, g.ArgMax(logits, axis=1, keepdims=1)), to=TensorProto.FLOAT)


def top_k_and_top_p(g: Nodes, probabilities: str, filters: str) -> str:
    """Probabilities (batch, V), set to 0 outside the `top_k` most probable tokens and, within
    these, the `top_p` nucleus. Without a branch around it only the first token is sorted, in vain,
    unless there are `filters`.

    The nucleus (Holtzman et al. 2020) is the smallest set of the most probable tokens whose
    probabilities, renormalised within the top k, sum to at least `top_p`.
    """
    zero, column = g.constant(0.0, np.float32), g.constant([1], np.int64)
    every = symbol_count(g, probabilities)
    count = every if g.branches else g.Where(filters, every, column)
    ranks = numbers_below(g, count)
    sorted_probabilities, _ = g.TopK(probabilities, count, axis=1, outputs=2)
    no_limit = g.Equal("top_k", g.constant(0, np.int64))
    within_k = g.Or(g.Less(ranks, "top_k"), no_limit)
    first_k = g.Where(within_k, sorted_probabilities, zero)
    shares = g.Div(first_k, g.ReduceSum(first_k, column, keepdims=1))
    mass_before = g.CumSum(shares, g.constant(1, np.int64), exclusive=1)
    in_nucleus = g.And(g.Less(mass_before, "top_p"), g.Greater(first_k, zero))
    smallest = g.ReduceMin(
        g.Where(in_nucleus, first_k, g.constant(2.0, np.float32)), column, keepdims=1
    )
    return g.Where(g.GreaterOrEqual(probabilities, smallest), probabilities, zero)


def symbol_count(g: Nodes, table: str) -> str:
    """V (1,) of a table (batch, V)."""
    return g.Slice(g.Shape(table), g.constant([1], np.int64), g.constant([2], np.int64))


def numbers_below(g: Nodes, count: str) -> str:
    """The numbers 0 to count - 1, for `count` (1,)."""
    return g.Range(g.constant(0, np.int64), g.Squeeze(count), g.constant(1, np.int64))
