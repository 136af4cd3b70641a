"""GRU layers as `GRU` nodes. tf2onnx makes LSTM nodes by itself, but writes a GRU as a loop.

The nodes add in another order than the loop, so the last bits of codes differ. Texts do not: graphs
that draw codes or sample texts keep their loops.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from kvae.serving.runtime import session

from .simplify import Graph, drop_unused

CELL = {"Gather": 1, "MatMul": 2, "Sigmoid": 2, "Split": 2, "Tanh": 1}
"""Operations in the loop of a GRU with its default activations, and how often."""

TOLERANCE = 1e-5
"""Largest difference between a loop and its node, relative to 1 + |value|."""


@dataclass(frozen=True)
class Recurrence:
    """The parts of a loop that is a GRU of u units: names of tensors around the loop."""

    rows: str
    """Inputs (T, batch, C)."""
    kernel: np.ndarray
    """(C, 3u): update gate, reset gate, candidate."""
    recurrent_kernel: np.ndarray
    """(u, 3u)."""
    bias: np.ndarray
    """(2, 3u): of the inputs and of the state."""
    first_state: str
    """(batch, u)."""
    last_state: str
    states: str
    """Outputs (T, batch, u)."""


def with_gru_nodes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose loops that are GRUs are nodes, or the model itself if there are none
    or the copy computes something else."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph, nodes = Graph(copy.graph), []
    for node in copy.graph.node:
        found = recurrence_of(graph, node) if node.op_type == "Loop" else None
        nodes += [node] if found is None else gru_nodes(graph, node.name, found)
    if len(nodes) == len(model.graph.node):
        return model
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    drop_unused(copy.graph)
    return copy if same_outputs(model, copy) else model


def recurrence_of(graph: Graph, loop: onnx.NodeProto) -> Recurrence | None:
    """The parts of a loop if it is a GRU whose other results nobody reads."""
    body = next(item.g for item in loop.attribute if item.name == "body")
    count = Counter(node.op_type for node in body.node)
    if any(count[name] != number for name, number in CELL.items()):
        return None
    around = dict(zip((value.name for value in body.input), loop.input, strict=True))
    (gather,) = (node for node in body.node if node.op_type == "Gather")
    products = [node for node in body.node if node.op_type == "MatMul"]
    of_rows = [node for node in products if node.input[0] == gather.output[0]]
    of_state = [node for node in products if node.input[0] in around]
    if len(of_rows) != 1 or len(of_state) != 1 or gather.input[0] in around:
        return None
    kernel, recurrent_kernel = (
        graph.constant(around.get(node.input[1], node.input[1])) for node in (*of_rows, *of_state)
    )
    biases = [
        graph.constant(around.get(node.input[0], node.input[0]))
        for node in body.node
        if node.op_type == "Split"
    ]
    bias = next((value for value in biases if value is not None), None)
    place = list(around).index(of_state[0].input[0])
    carried = len(loop.input) - 2
    if kernel is None or recurrent_kernel is None or bias is None:
        return None
    if len(loop.output) != carried + 1:
        return None
    return Recurrence(
        gather.input[0],
        kernel,
        recurrent_kernel,
        bias,
        loop.input[place],
        loop.output[place - 2],
        loop.output[carried],
    )


def gru_nodes(graph: Graph, name: str, found: Recurrence) -> list[onnx.NodeProto]:
    """The nodes of a GRU."""

    def constant(stem: str, value: np.ndarray) -> str:
        graph.graph.initializer.append(numpy_helper.from_array(value, f"{name}/{stem}"))
        return f"{name}/{stem}"

    weights = [
        constant(stem, np.ascontiguousarray(value.T)[None])
        for stem, value in (("kernel", found.kernel), ("recurrent_kernel", found.recurrent_kernel))
    ]
    bias = constant("bias", found.bias.reshape(1, -1))
    axes = [constant(f"axis_{axis}", np.array([axis], np.int64)) for axis in (0, 1)]
    first, states, last = (f"{name}/{stem}" for stem in ("first", "states", "last"))
    return [
        helper.make_node("Unsqueeze", [found.first_state, axes[0]], [first], first),
        helper.make_node(
            "GRU",
            [found.rows, *weights, bias, "", first],
            [states, last],
            name,
            hidden_size=len(found.recurrent_kernel),
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", [states, axes[1]], [found.states], f"{name}/rows"),
        helper.make_node("Squeeze", [last, axes[0]], [found.last_state], f"{name}/row"),
    ]


def same_outputs(model: onnx.ModelProto, other: onnx.ModelProto) -> bool:
    """Whether two models give the same outputs for random inputs."""
    generator = np.random.default_rng(0)
    inputs = {}
    for value in model.graph.input:
        declared = value.type.tensor_type
        shape = [axis.dim_value or 3 for axis in declared.shape.dim]
        numbers = generator.normal(size=shape)
        kind = helper.tensor_dtype_to_np_dtype(declared.elem_type)
        inputs[value.name] = (np.abs(numbers) if kind.kind in "iu" else numbers).astype(kind)
    found, expected = (
        session(each.SerializeToString()).run(None, inputs) for each in (model, other)
    )
    return all(
        bool((np.abs(one - two) <= TOLERANCE * (1 + np.abs(two))).all())
        for one, two in zip(found, expected, strict=True)
    )
