"""Simplification of ONNX graphs: one node for patterns that tf2onnx writes as many, and
loop-invariant nodes before the loop.

A decoding loop runs each node once per token. In a small batch the overhead of a node exceeds the
cost of its computation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

Pattern: TypeAlias = "str | tuple[Pattern, ...]"
"""A variable, which matches any tensor but the same one at each occurrence, or an operation and the
patterns of its inputs."""

MEAN = ("ReduceMean", "values", "axes")
DEVIATION = ("Sub", "values", MEAN)
VARIANCE = ("ReduceMean", ("Mul", DEVIATION, DEVIATION), "axes")
FACTOR = ("Mul", ("Reciprocal", ("Sqrt", ("Add", VARIANCE, "epsilon"))), "scale")
CENTRE = ("Mul", ("Neg", MEAN), FACTOR)
NORMALIZATIONS: tuple[Pattern, ...] = (
    ("Add", ("Mul", "values", FACTOR), ("Add", CENTRE, "shift")),
    ("Add", ("Mul", "values", FACTOR), CENTRE),
)
"""`keras.layers.LayerNormalization`, and its form without a shift, which is folded away if it is
0."""

BELOW = ("Less", ("Cast", "index"), "zero")
LOOKUP: Pattern = (
    "Gather",
    "table",
    (
        "Add",
        ("Mul", ("Cast", BELOW), ("Add", "index", "rows")),
        ("Mul", "index", ("Cast", ("Not", BELOW))),
    ),
)
"""Look-up of rows where negative indices count from the end, which `Gather` does by itself."""


PRODUCTS = ("DequantizeLinear", "Gemm", "MatMul", "MatMulNBits")
"""Operations that read the constant factor of a matrix product."""


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace each layer normalisation and each look-up by one node, in place; return the model."""
    graph = Graph(model.graph)
    for node in list(model.graph.node):
        for pattern in NORMALIZATIONS:
            if bindings := graph.match(node.output[0], pattern):
                graph.normalize(node, bindings)
                break
        if bindings := graph.match(node.output[0], LOOKUP):
            node.input[1] = bindings["index"]
    drop_unused(model.graph)
    return model


def hoisted(model: onnx.ModelProto) -> onnx.ModelProto:
    """Move loop-invariant nodes of the model's loops before the loops, out of loops in loops too,
    in place; return the model."""
    hoist(model.graph)
    return model


def hoist(graph: onnx.GraphProto) -> None:
    """Move loop-invariant nodes of the loops in a graph before the loops, in place."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "Loop":
            (body,) = bodies_of(node)
            hoist(body)
            moved = loop_invariant_nodes(body)
            move_shapes(body, graph, {name for each in moved for name in each.output})
            nodes += moved
        nodes.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def with_packed_matrices(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model in which the outer loop's body makes the matrices that only a loop inside
    it multiplies by, from flat constants.

    onnxruntime up to 1.31.1 packs a matrix of a loop's body only if it is a constant of that body
    or of the graph around it, and unpacked products of a few rows take twice the time. A `Reshape`
    of a constant becomes such a constant, in less memory than one that is in the body of the file.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    graph = copy.graph
    read = Counter(input_names(graph))
    for body in (body for node in graph.node for body in bodies_of(node)):
        inside = [inner for node in body.node for inner in bodies_of(node)]
        inner = Counter(name for each in inside for name in input_names(each))
        products = [node for each in inside for node in each.node if node.op_type in PRODUCTS]
        own = {name for node in products for name in node.input if inner[name] == read[name]}
        matrices = [item for item in graph.initializer if item.name in own and len(item.dims) > 1]
        body.node.extend(unflattened(graph, matrices))
        body.node.sort(key=lambda node: node.op_type != "Reshape" or node.output[0] not in own)
    return copy


def unflattened(
    graph: onnx.GraphProto, matrices: Sequence[onnx.TensorProto]
) -> Iterator[onnx.NodeProto]:
    """Flatten constants of a graph in place, and make nodes that give them their shape again."""
    for item in matrices:
        name, shape = item.name, np.array(item.dims, np.int64)
        item.name = f"{name}/flat"
        item.dims[:] = [int(np.prod(shape))]
        graph.initializer.append(numpy_helper.from_array(shape, f"{name}/shape"))
        inputs = [item.name, f"{name}/shape"]
        yield helper.make_node("Reshape", inputs, [name], f"{name}/matrix")


def loop_invariant_nodes(body: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Remove the loop-invariant nodes from a loop's body and return them. Outputs of the body and
    nodes with branches stay."""
    variant = {value.name for value in (*body.input, *body.output)}
    invariant = []
    for node in list(body.node):
        branches = any(attribute.HasField("g") for attribute in node.attribute)
        if branches or variant.intersection(node.input) or variant.intersection(node.output):
            variant.update(node.output)
        else:
            invariant.append(node)
            body.node.remove(node)
    return invariant


def move_shapes(body: onnx.GraphProto, outer: onnx.GraphProto, names: set[str]) -> None:
    """Move the declared shapes of tensors from a loop's body to the graph around it."""
    for value in [value for value in body.value_info if value.name in names]:
        outer.value_info.append(value)
        body.value_info.remove(value)


class Graph:
    """Index of a graph: nodes by the names of their outputs, and constants by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.producers = {name: node for node in graph.node for name in node.output}
        self.constants = {item.name: item for item in graph.initializer}

    def match(self, name: str, pattern: Pattern) -> Mapping[str, str] | None:
        """The bindings of the variables of `pattern` if it matches the tensor `name`, else None."""
        return next(self.matches(name, pattern, {}), None)

    def matches(
        self, name: str, pattern: Pattern, bindings: Mapping[str, str]
    ) -> Iterator[Mapping[str, str]]:
        """All bindings with which `pattern` matches the tensor `name`, as extensions of
        `bindings`."""
        if isinstance(pattern, str):
            if bindings.get(pattern, name) == name:
                yield {**bindings, pattern: name}
            return
        operation, *patterns = pattern
        node = self.producers.get(name)
        if node is None or node.op_type != operation or len(node.input) != len(patterns):
            return
        orders = [list(node.input)]
        if operation in ("Add", "Mul"):
            orders.append(orders[0][::-1])
        for inputs in orders:
            yield from self.all_match(inputs, patterns, bindings)

    def all_match(
        self, names: list[str], patterns: list[Pattern], bindings: Mapping[str, str]
    ) -> Iterator[Mapping[str, str]]:
        """All bindings with which `patterns` match the tensors `names`, one by one."""
        if not names:
            yield bindings
            return
        for first in self.matches(names[0], patterns[0], bindings):
            yield from self.all_match(names[1:], patterns[1:], first)

    def normalize(self, node: onnx.NodeProto, bindings: Mapping[str, str]) -> None:
        """Turn `node` into the matched layer normalisation if it is one over the last axis with
        constant scale and shift."""
        axes, epsilon, scale = (
            self.constant(bindings[name]) for name in ("axes", "epsilon", "scale")
        )
        if (
            axes is None
            or epsilon is None
            or scale is None
            or axes.tolist() != [-1]
            or epsilon.size != 1
        ):
            return
        shift = self.constant(bindings["shift"]) if "shift" in bindings else np.zeros_like(scale)
        if shift is None or not scale.size == scale.shape[-1] == shift.size == shift.shape[-1]:
            return
        weights = [
            self.add_constant(array, f"{node.output[0]}_{name}")
            for name, array in (("scale", scale), ("shift", shift))
        ]
        replacement = helper.make_node(
            "LayerNormalization",
            [bindings["values"], *weights],
            list(node.output),
            node.name,
            axis=-1,
            epsilon=float(epsilon.item()),
        )
        node.CopyFrom(replacement)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a constant, or None for another tensor."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def add_constant(self, array: np.ndarray, name: str) -> str:
        """Add a vector to the constants of the graph and return its name."""
        self.graph.initializer.append(numpy_helper.from_array(array.reshape(-1), name))
        return name


def drop_identities(graph: onnx.GraphProto) -> None:
    """Remove `Identity` nodes from a graph and the bodies of its nodes, in place.

    A tensor keeps its later name. Those stay that make an output of an input, a constant or another
    output.
    """
    for node in graph.node:
        for body in bodies_of(node):
            drop_identities(body)
    outputs = {value.name for value in graph.output}
    computed = {name for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        (source,), (name,) = node.input, node.output
        if name in outputs and (source in outputs or source not in computed):
            continue
        graph.node.remove(node)
        keep_source = source in outputs or source not in computed
        rename_tensor(graph, *((name, source) if keep_source else (source, name)))
        computed = {name for node in graph.node for name in node.output}


def rename_tensor(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Give a tensor another name in all nodes of a graph, and in the bodies of these nodes."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for body in bodies_of(node):
            rename_tensor(body, old, new)
    declared = {value.name for value in graph.value_info}
    for value in graph.value_info:
        if value.name == old and new not in declared:
            value.name = new


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that no node reads and that are no outputs."""
    outputs = {value.name for value in graph.output}
    while True:
        read = Counter(input_names(graph))
        unread = [
            node
            for node in graph.node
            if not any(read[name] or name in outputs for name in node.output)
        ]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    used = [item for item in graph.initializer if read[item.name] or item.name in outputs]
    del graph.initializer[:]
    graph.initializer.extend(used)
    computed = {name for node in graph.node for name in node.output}
    shapes = [value for value in graph.value_info if value.name in computed]
    del graph.value_info[:]
    graph.value_info.extend(shapes)


def bodies_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The body of a loop, or the branches of a choice; nothing for other nodes."""
    for attribute in node.attribute:
        yield from (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs


def input_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names that the nodes of a graph read, including those in the bodies of its nodes."""
    for node in graph.node:
        yield from node.input
        for body in bodies_of(node):
            yield from input_names(body)
            yield from (value.name for value in body.output)
