"""Sizes that are known at export become constants of a converted graph, and shapes are declared.

Only the batch size is unknown when a model is exported. tf2onnx nevertheless writes most sizes as
chains of nodes that start at a `Shape`, and they run with every text. So the graph runs once with
each of two batch sizes. A whole number that depends on shapes alone and is equal in both runs
becomes a constant, and one that equals the batch size is read from the first input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from kvae.serving.runtime import session

from .simplify import drop_unused

BATCHES = (2, 5)
"""Two batch sizes. A size that equals both is the batch size."""

BATCH_SIZE = "batch_size"
"""Name of the batch size (1,) in a converted graph."""

LARGEST_UNIT_MATRIX = 512
"""Largest number of symbols whose one-hot vectors are rows of a unit matrix (a megabyte). With more
symbols they are comparisons."""

REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum")

NEUTRAL = ("Expand", "Pad", "Reshape", "Slice", "Tile")
"""Operations that change nothing where the shape stays the same, if a slice has no steps and a pad
adds nothing."""


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold sizes into constants, rewrite nodes that few runtimes have, and declare the shapes of
    all tensors, in place; return the model.

    The free axes of all inputs must be the batch.
    """
    graph = Observed.of(model)
    sizes = graph.sizes()
    graph.fold(sizes)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if sizes.isdisjoint(node.output):
            nodes += shorter_sizes(graph, node, sizes)
        nodes += rewritten(graph, node)
    del model.graph.node[:]
    model.graph.node.extend([*batch_size_nodes(graph), *nodes])
    drop_unused(model.graph)
    graph.declare_shapes()
    return model


@dataclass(frozen=True)
class Observed:
    """The main graph of a model, with the values of all its tensors for a batch of each of
    `BATCHES` zeros."""

    graph: onnx.GraphProto
    runs: Sequence[Mapping[str, np.ndarray]]
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Observed:
        observed = onnx.ModelProto.FromString(model.SerializeToString())
        outputs = {value.name for value in observed.graph.output}
        names = {name for node in observed.graph.node for name in node.output if name} - outputs
        observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
        running = session(observed.SerializeToString())
        found = [output.name for output in running.get_outputs()]
        runs = []
        for batch in BATCHES:
            inputs = {value.name: zeros(value, batch) for value in observed.graph.input}
            runs.append(inputs | dict(zip(found, running.run(None, inputs), strict=True)))
        constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        return cls(model.graph, runs, constants)

    def values(self, name: str) -> list[np.ndarray]:
        """The values of a tensor in the two runs."""
        if name in self.constants:
            return [self.constants[name]] * len(self.runs)
        return [run[name] for run in self.runs]

    def shapes(self, name: str) -> list[tuple[int, ...]]:
        """The shapes of a tensor in the two runs."""
        return [value.shape for value in self.values(name)]

    def add_constant(self, name: str, value: np.ndarray) -> str:
        """Add a constant to the graph and return its name."""
        self.constants[name] = value
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def sizes(self) -> set[str]:
        """The names of whole numbers that depend on shapes and constants alone."""
        known, sizes = {*self.constants, ""}, set()
        for node in self.graph.node:
            follows = node.op_type == "Shape" or known.issuperset(node.input)
            whole = all(self.runs[0][name].dtype.kind in "iu" for name in node.output if name)
            if follows and whole and not any(item.HasField("g") for item in node.attribute):
                sizes.update(node.output)
                known.update(node.output)
        return sizes

    def fold(self, sizes: set[str]) -> None:
        """Replace nodes whose outputs are `sizes` that do not depend on the batch by constants."""
        outputs = {value.name for value in self.graph.output}
        for node in list(self.graph.node):
            names = [name for name in node.output if name]
            if sizes.issuperset(names) and outputs.isdisjoint(names):
                values = [self.values(name) for name in names]
                if all(np.array_equal(one, other) for one, other in values):
                    self.graph.node.remove(node)
                    for name, (value, _) in zip(names, values, strict=True):
                        self.add_constant(name, value)

    def declare_shapes(self) -> None:
        """Declare the shapes of all tensors that nodes compute. An axis that is neither fixed nor
        the batch has no size."""
        outputs = {value.name for value in self.graph.output}
        del self.graph.value_info[:]
        for name in (name for node in self.graph.node for name in node.output):
            if name in self.runs[0] and name not in outputs:
                value = self.runs[0][name]
                kind = helper.np_dtype_to_tensor_dtype(value.dtype)
                axes = [axis_size(sizes) for sizes in zip(*self.shapes(name), strict=True)]
                self.graph.value_info.append(helper.make_tensor_value_info(name, kind, axes))


def zeros(value: onnx.ValueInfoProto, batch: int) -> np.ndarray:
    """Zeros for an input, with `batch` elements along its free axes."""
    declared = value.type.tensor_type
    shape = [axis.dim_value if axis.HasField("dim_value") else batch for axis in declared.shape.dim]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(declared.elem_type))


def axis_size(sizes: tuple[int, ...]) -> int | str | None:
    """The size of an axis from its sizes in the two runs: a number, "batch", or None."""
    return sizes[0] if len(set(sizes)) == 1 else "batch" if sizes == BATCHES else None


def batch_size_nodes(graph: Observed) -> list[onnx.NodeProto]:
    """Nodes that read the batch size (1,) from the first input."""
    first_axis = graph.add_constant("first_axis", np.zeros(1, np.int64))
    return [
        helper.make_node("Shape", [graph.graph.input[0].name], ["input_shape"], "input_shape"),
        helper.make_node("Gather", ["input_shape", first_axis], [BATCH_SIZE], BATCH_SIZE),
    ]


def shorter_sizes(
    graph: Observed, node: onnx.NodeProto, sizes: set[str]
) -> Iterator[onnx.NodeProto]:
    """Let a node read sizes that depend on the batch in the shortest way; yields nodes for it."""
    for place, name in enumerate(node.input):
        if name not in sizes or name in graph.constants:
            continue
        values = graph.values(name)
        if values[0].ndim != 1 or values[0].shape != values[1].shape:
            continue
        elements = list(zip(*(value.tolist() for value in values), strict=True))
        free = [element for element in elements if len(set(element)) > 1]
        short = f"{node.output[0]}_size_{place}"
        shape = shape_with_one_free_axis(graph, node.output[0])
        if node.op_type == "Reshape" and shape is not None:
            graph.add_constant(short, shape)
        elif set(free) == {BATCHES} and graph.runs[0][name].dtype == np.int64:
            parts = [
                BATCH_SIZE
                if one != other
                else graph.add_constant(f"{short}_{axis}", np.array([one], np.int64))
                for axis, (one, other) in enumerate(elements)
            ]
            yield helper.make_node("Concat", parts, [short], short, axis=0)
        else:
            continue
        node.input[place] = short


def shape_with_one_free_axis(graph: Observed, name: str) -> np.ndarray | None:
    """The shape of a tensor with -1 for the axis whose size is not fixed; None if there are
    several."""
    sizes = list(zip(*graph.shapes(name), strict=True))
    shape = [one if one == other else -1 for one, other in sizes]
    return np.array(shape, np.int64) if shape.count(-1) == 1 else None


def rewritten(graph: Observed, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that take the place of a node."""
    inputs = [graph.constants.get(name) for name in node.input]
    if node.op_type in NEUTRAL and changes_nothing(graph, node, inputs):
        return [helper.make_node("Identity", node.input[:1], node.output, node.name)]
    if node.op_type == "OneHot" and is_plain_one_hot(node, inputs):
        return one_hot(graph, node, inputs[1])
    if node.op_type == "Slice" and all(value is not None for value in inputs[1:]):
        keep_cut_axes(graph, node, inputs)
    if node.op_type in REDUCTIONS and inputs[1:] and inputs[1] is not None:
        return reduction(graph, node, inputs[1])
    return [node]


def changes_nothing(
    graph: Observed, node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]
) -> bool:
    """Whether a node returns its first input."""
    if graph.shapes(node.input[0]) != graph.shapes(node.output[0]):
        return False
    if node.op_type == "Slice":
        return len(inputs) < 5 or (inputs[4] is not None and bool((inputs[4] == 1).all()))
    return node.op_type != "Pad" or (inputs[1] is not None and not inputs[1].any())


def keep_cut_axes(
    graph: Observed, node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]
) -> None:
    """Leave the axes out of a slice with constant bounds that it does not cut."""
    starts, ends, *rest = (value for value in inputs[1:] if value is not None)
    axes = rest[0] if rest else np.arange(starts.size)
    steps = rest[1] if rest[1:] else np.ones_like(starts)
    (before, after), out = graph.shapes(node.input[0]), graph.shapes(node.output[0])
    cut = [
        place
        for place, (axis, step) in enumerate(zip(axes.tolist(), steps.tolist(), strict=True))
        if step != 1 or before[axis] != out[0][axis] or after[axis] != out[1][axis]
    ]
    if len(cut) < axes.size:
        name = node.output[0]
        bounds = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
        node.input[1:] = [graph.add_constant(f"{name}_{k}", v[cut]) for k, v in bounds.items()]


def reduction(graph: Observed, node: onnx.NodeProto, axes: np.ndarray) -> list[onnx.NodeProto]:
    """A reduction as runtimes compute it rightly.

    onnxruntime up to 1.31.1 reduces an input of no rows wrongly along an axis that is counted from
    the last. OpenVINO 2026.4.1 merges a product and a sum with the reduction before them, and adds
    along the wrong axis if the reduction has removed the last of three
    (findings/openvino_reduction_merged_with_product.sh). So the axis is removed afterwards.
    """
    output, rank = node.output[0], len(graph.shapes(node.input[0])[0])
    node.input[1] = graph.add_constant(f"{output}_axes", axes % rank)
    keepdims = next((item for item in node.attribute if item.name == "keepdims"), None)
    if rank < 3 or axes.size == 0 or keepdims is None or keepdims.i:
        return [node]
    keepdims.i = 1
    node.output[0] = f"{output}_kept"
    return [node, helper.make_node("Squeeze", [node.output[0], node.input[1]], [output], output)]


def is_plain_one_hot(node: onnx.NodeProto, inputs: Sequence[np.ndarray | None]) -> bool:
    """Whether a node makes rows of zeros with a one, along a new last axis."""
    axis = next((item.i for item in node.attribute if item.name == "axis"), -1)
    return (
        axis == -1
        and inputs[1] is not None
        and inputs[2] is not None
        and inputs[2].dtype == np.float32
        and inputs[2].tolist() == [0.0, 1.0]
    )


def one_hot(
    graph: Observed, node: onnx.NodeProto, depth: np.ndarray | None
) -> list[onnx.NodeProto]:
    """One-hot vectors without `OneHot`, which some runtimes lack: rows of a unit matrix, or for
    many symbols comparisons."""
    assert depth is not None
    (ids, *_), (output,), name, size = node.input, node.output, node.name, int(depth.item())
    if size <= LARGEST_UNIT_MATRIX:
        matrix = graph.add_constant(f"{output}_unit_matrix", np.eye(size, dtype=np.float32))
        return [helper.make_node("Gather", [matrix, ids], [output], name, axis=0)]
    every = np.arange(size).astype(graph.values(ids)[0].dtype)
    symbols = graph.add_constant(f"{output}_symbols", every)
    last = graph.add_constant(f"{output}_last", np.array([-1], np.int64))
    column, equal = f"{output}_column", f"{output}_equal"
    return [
        helper.make_node("Unsqueeze", [ids, last], [column], f"{name}/column"),
        helper.make_node("Equal", [column, symbols], [equal], f"{name}/equal"),
        helper.make_node("Cast", [equal], [output], name, to=TensorProto.FLOAT),
    ]
