"""ONNX graphs as expressions: `g.Add(a, b)` appends a node and returns the name of its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Protocol, TypeVar, cast, overload

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


Builder = TypeVar("Builder", bound=Callable[..., Any])


class Operation(Protocol):
    """Append a node of one operation and return the name of its output, or a list of `outputs`
    names."""

    @overload
    def __call__(self, *inputs: str, outputs: int, **attributes: Any) -> list[str]: ...

    @overload
    def __call__(self, *inputs: str, outputs: None = None, **attributes: Any) -> str: ...


class Nodes:
    """A list of nodes under construction. The body of a loop or a branch is a separate `Nodes` that
    shares the constants of `outer`. Names begin with `prefix`. With `signed_words` the random
    numbers are right in runtimes that have signed 32-bit integers only. Without `branches` both
    ways of a choice are computed."""

    def __init__(
        self,
        outer: Nodes | None = None,
        prefix: str = "",
        signed_words: bool = False,
        branches: bool = True,
    ) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []
        self.prefix: str = outer.prefix if outer else prefix
        self.signed_words: bool = outer.signed_words if outer else signed_words
        self.branches: bool = outer.branches if outer else branches
        self.initializers: list[onnx.TensorProto] = outer.initializers if outer else []
        self._names: list[int] = outer._names if outer else [0]

    def __getattr__(self, op: str) -> Operation:
        if not op[0].isupper():
            raise AttributeError(op)

        def append(*inputs: str, outputs: int | None = None, **attributes: Any) -> Any:
            names = [self.new(op) for _ in range(outputs or 1)]
            self.nodes.append(helper.make_node(op, list(inputs), names, names[0], **attributes))
            return names[0] if outputs is None else names

        return append

    def new(self, stem: str) -> str:
        """A new, unique name."""
        self._names[0] += 1
        return f"{self.prefix}{stem}_{self._names[0]}"

    def constant(
        self, value: npt.ArrayLike, dtype: npt.DTypeLike | None = None, name: str = ""
    ) -> str:
        """Add a constant tensor to the outermost graph and return its name, a new one or `name`."""
        name = name or self.new("constant")
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def named(self, source: str, name: str) -> str:
        """Give the tensor `source` the name `name` as well, for example that of a graph's
        output."""
        self.nodes.append(helper.make_node("Identity", [source], [name], name))
        return name

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Names made in this context tell that they belong to a part of the model."""
        before = self.prefix
        self.prefix = f"{before}{name}/"
        yield
        self.prefix = before

    def inline(
        self, model: onnx.ModelProto, inputs: dict[str, str], prefix: str, rows: str = "batch"
    ) -> list[str]:
        """Insert a whole model with its inputs bound to existing names, and return the names of its
        outputs. `rows` is the name of its batch axis.

        Its weights move to the outermost graph, so that the runtime of a loop packs them once.
        """
        graph = onnx.compose.add_prefix(model, prefix).graph
        for name, source in inputs.items():
            self.named(source, prefix + name)
        self.initializers.extend(graph.initializer)
        self.nodes.extend(graph.node)
        for value in graph.value_info:
            for axis in value.type.tensor_type.shape.dim:
                if axis.dim_param == "batch":
                    axis.dim_param = rows
        self.shapes.extend(graph.value_info)
        return [output.name for output in graph.output]

    def body(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.GraphProto:
        """These nodes as the body of a `Loop` or a branch of an `If`."""
        return helper.make_graph(
            self.nodes, name, list(inputs), list(outputs), value_info=self.shapes
        )

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """These nodes as a model."""
        graph = helper.make_graph(
            self.nodes,
            name,
            list(inputs),
            list(outputs),
            self.initializers,
            value_info=self.shapes,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="kvae",
        )


def part(name: str) -> Callable[[Builder], Builder]:
    """Decorate a function that builds a part of the model, so that its nodes are named after it."""

    def decorate(build: Builder) -> Builder:
        @wraps(build)
        def named(g: Nodes, *inputs: Any, **options: Any) -> Any:
            with g.part(name):
                return build(g, *inputs, **options)

        return cast(Builder, named)

    return decorate


def tensor(name: str, dtype: str, *shape: int | str) -> onnx.ValueInfoProto:
    """The declaration of an input or output. A string in the shape is the name of a free
    dimension."""
    return helper.make_tensor_value_info(name, TYPES[dtype], list(shape))
