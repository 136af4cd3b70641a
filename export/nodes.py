"""ONNX graphs as expressions: `g.Add(a, b)` appends a node and returns the name of its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, overload

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from kvae.serving.bundle import OPSET

IR_VERSION = 10
"""IR version that every supported onnxruntime can read."""

TYPES = {
    "float": TensorProto.FLOAT,
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}


class Operation(Protocol):
    """Append a node of one operation and return the name of its output, or a list of `outputs`
    names."""

    @overload
    def __call__(self, *inputs: str, outputs: int, **attributes: Any) -> list[str]: ...

    @overload
    def __call__(self, *inputs: str, outputs: None = None, **attributes: Any) -> str: ...


class Nodes:
    """A list of nodes under construction. The body of a loop or a branch is a separate `Nodes` that
    shares the constants of `outer`."""

    def __init__(self, outer: Nodes | None = None, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.prefix: str = outer.prefix if outer else prefix
        self.initializers: list[onnx.TensorProto] = outer.initializers if outer else []
        self._names: list[int] = outer._names if outer else [0]

    def __getattr__(self, op: str) -> Operation:
        if not op[0].isupper():
            raise AttributeError(op)

        def append(*inputs: str, outputs: int | None = None, **attributes: Any) -> Any:
            names = [self.new(op) for _ in range(outputs or 1)]
            self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
            return names[0] if outputs is None else names

        return append

    def new(self, stem: str) -> str:
        """A new, unique name."""
        self._names[0] += 1
        return f"{self.prefix}{stem}_{self._names[0]}"

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Add a constant tensor to the outermost graph and return its name."""
        name = self.new("constant")
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def named(self, source: str, name: str) -> str:
        """Give the tensor `source` the name `name` as well, for example that of a graph's
        output."""
        self.nodes.append(helper.make_node("Identity", [source], [name]))
        return name

    def inline(self, model: onnx.ModelProto, inputs: dict[str, str], prefix: str) -> list[str]:
        """Insert a whole model with its inputs bound to existing names, and return the names of its
        outputs.

        Its weights move to the outermost graph, so that the runtime of a loop packs them once.
        """
        graph = onnx.compose.add_prefix(model, prefix).graph
        for name, source in inputs.items():
            self.named(source, prefix + name)
        self.initializers.extend(graph.initializer)
        self.nodes.extend(graph.node)
        return [output.name for output in graph.output]

    def body(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """These nodes as the body of a `Loop` or a branch of an `If`."""
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs))

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """These nodes as a model."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.initializers)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kvae",
        )


def tensor(name: str, dtype: str, *shape: int | str) -> onnx.ValueInfoProto:
    """The declaration of an input or output. A string in the shape is the name of a free
    dimension."""
    return helper.make_tensor_value_info(name, TYPES[dtype], list(shape))
