"""Quantization of weights to eight bits: a quarter of the size, and integer matrix products in the
decoding loop.

Every matrix is stored as int8 with one scale per column. Products with a wide matrix use integer
arithmetic. Their inputs are quantized per row, each row with its own scale, so that a text does not
depend on its batch. (Dynamic quantization usually has one scale for the whole batch.) Hidden states
of a recurrence are in [-1, 1] and need no scale. All other weights are converted to float32 when
the graph is loaded.

`INT8_LATENCY` is for a few rows: the products of a step are an operation of onnxruntime that takes
eight-bit weights in blocks. No other runtime has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from kvae.serving.alphabet import PAD
from kvae.serving.bundle import ONNXRUNTIME_DOMAIN
from kvae.serving.runtime import OWN, session

from .convert import checked_model
from .loops import LOGITS, STEP_PREFIX
from .nodes import Nodes
from .parity import with_logits
from .simplify import bodies_of

SMALLEST = 512
"""Tensors with fewer elements stay in float32: biases, scales, normalisations."""

WEIGHT_LEVELS = 63
"""Weights are integers from -63 to 63. Processors without 8-bit dot products add two products with
bytes in 16 bits; with this range they never overflow, so all processors give the same sums."""

WIDE_IN_STEP, WIDE_IN_SEQUENCE = 2**20, 2**19
"""Smallest matrices, in elements, for which integer products are faster at every batch size: in the
decoding step, and for all positions at once. For smaller ones, quantizing the inputs takes more
time than the product saves (measured with LSTMs of 128, 500 and 1,000 units, and with the features
of the last)."""

FLOAT32, INT8, INT8_LATENCY = KINDS = "float32", "int8", "int8-latency"
"""The kinds of weights: exact, in eight bits for every runtime, and in eight bits for a few rows at
once in onnxruntime."""

SMALLEST_BLOCKWISE = 2**15
"""Smallest matrices of a step, in elements, that `INT8_LATENCY` stores by blocks."""

BLOCK_ROWS = 128
"""Rows of a block of `INT8_LATENCY`."""

LARGEST_INPUT = 127 / 128
"""The largest input of a product of `INT8_LATENCY`. Divided by 127 levels it is a power of two."""

INTEGER_INPUTS = 4
"""The accuracy level of `MatMulNBits` with integer products. The default one converts every weight
to float32 again and takes twenty times as long."""

ZERO_POINT, INPUT_LEVELS = 128, 127
"""Inputs are quantized to uint8 with 128 for 0 and 127 levels on each side."""


def quantize(
    model: onnx.ModelProto, symbols: int, unit_range: Collection[str] = (), kind: str = INT8
) -> onnx.ModelProto:
    """Return a copy of a graph of `kvae.export.graphs` with its weights in eight bits, of the kind
    `INT8` or `INT8_LATENCY`.

    `unit_range` names tensors with values in [-1, 1]. With `INT8`, the product that gives the
    logits of `symbols` tokens stays in float32: it is small, and its rounding errors would change
    the argmax.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    large = {
        item.name: numpy_helper.to_array(item) for item in graph.initializer if is_weight(item)
    }
    prologue = Nodes(prefix="eight_bits_")
    # Inner graphs first: `replace_uses` replaces the nodes of a graph by copies.
    inside_out = reversed([graph, *nested(graph)])
    replaced = {
        name
        for part in inside_out
        for name in replace_uses(part, large, prologue, symbols, unit_range, kind)
    }
    dequantized = {
        name for part in (graph, *nested(graph)) for node in part.node for name in node.input
    } & large.keys()
    for name in sorted(dequantized):
        dequantize(prologue, name, large[name])
    weights = [item for item in graph.initializer if item.name not in dequantized | replaced]
    nodes = [*prologue.nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend([*weights, *prologue.initializers])
    graph.node.extend(nodes)
    if kind == INT8_LATENCY:
        copy.opset_import.append(onnx.helper.make_opsetid(ONNXRUNTIME_DOMAIN, 1))
    return checked_model(copy)


def is_weight(item: onnx.TensorProto) -> bool:
    """Whether a constant is a matrix, or a stack of matrices, of at least `SMALLEST` elements."""
    return (
        item.data_type == TensorProto.FLOAT
        and len(item.dims) >= 2
        and int(np.prod(item.dims)) >= SMALLEST
    )


def nested(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside the nodes of a graph, at any depth."""
    for node in graph.node:
        for body in bodies_of(node):
            yield body
            yield from nested(body)


def replace_uses(
    graph: onnx.GraphProto,
    large: dict[str, np.ndarray],
    prologue: Nodes,
    symbols: int,
    unit_range: Collection[str],
    kind: str,
) -> set[str]:
    """Replace products with wide matrices by integer products, in place; return the names of these
    matrices."""
    replaced: set[str] = set()
    nodes: list[onnx.NodeProto] = []
    bounded = {*unit_range, *next_values(graph, unit_range)}
    for node in graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        in_step = node.output[0].startswith(STEP_PREFIX)
        blockwise = kind == INT8_LATENCY and in_step
        if name not in large or not (
            uses_blocks(large[name])
            if blockwise
            else uses_integer_matmul(large[name], symbols, in_step)
        ):
            nodes.append(node)
            continue
        g, (inputs, _) = Nodes(prologue), node.input
        product = (
            blockwise_matmul(g, inputs, large[name], inputs in bounded)
            if blockwise
            else integer_matmul(g, inputs, large[name], inputs in unit_range)
        )
        g.named(product, node.output[0])
        nodes += g.nodes
        replaced.add(name)
    del graph.node[:]
    graph.node.extend(nodes)
    return replaced


def next_values(graph: onnx.GraphProto, names: Collection[str]) -> set[str]:
    """The values after a step of states with these names, in the body of a loop or the graph of a
    step."""
    carried = zip(graph.input[1:], graph.output, strict=False)
    in_loop = {after.name for before, after in carried if before.name in names}
    return in_loop | {f"new_{name}" for name in names}


def uses_integer_matmul(matrix: np.ndarray, symbols: int, in_step: bool) -> bool:
    """Whether products with this matrix use integers: it is wide and does not give logits."""
    return (
        matrix.ndim == 2
        and matrix.size >= (WIDE_IN_STEP if in_step else WIDE_IN_SEQUENCE)
        and matrix.shape[1] != symbols
    )


def uses_blocks(matrix: np.ndarray) -> bool:
    """Whether the products of a step with this matrix use blocks."""
    return matrix.ndim == 2 and matrix.size >= SMALLEST_BLOCKWISE


def blockwise_matmul(g: Nodes, inputs: str, matrix: np.ndarray, unit_range: bool = False) -> str:
    """Matrix product of inputs (n, rows) and matrix (rows, columns) in integers of eight bits, by
    an operation of onnxruntime: (n, columns) float32. With `unit_range` inputs must be in [-1, 1].

    The operation quantizes each block of inputs by its largest element and adds the blocks in an
    order that depends on the batch. So the last element of each block is the largest one possible,
    with weights of 0, and scales are powers of two. Then all sums are of whole numbers, which
    float32 holds exactly up to 2^24: those of 1,040 rows always, those of more in practice.
    """
    rows, columns = matrix.shape
    places = block_places(rows)
    shares, largest = shares_of_rows(g, inputs, unit_range)
    top = g.constant(LARGEST_INPUT, np.float32)
    clipped = g.Clip(shares, g.constant(-LARGEST_INPUT, np.float32), top)
    padded = g.Pad(clipped, g.constant([0, 0, 0, 1], np.int64), top)
    scales = 2.0 ** np.ceil(np.log2(np.maximum(np.abs(matrix).max(axis=0), 1e-20) / INPUT_LEVELS))
    whole = np.concatenate([np.round(matrix / scales), np.zeros((1, columns))])[places]
    product: str = g.MatMulNBits(
        g.Gather(padded, g.constant(places.reshape(-1), np.int64), axis=1),
        g.constant(whole.transpose(2, 0, 1) + ZERO_POINT, np.uint8),
        g.constant(np.repeat(scales[:, None], len(places), axis=1), np.float32),
        domain=ONNXRUNTIME_DOMAIN,
        K=places.size,
        N=columns,
        bits=8,
        block_size=BLOCK_ROWS,
        accuracy_level=INTEGER_INPUTS,
    )
    return g.Mul(product, largest) if largest else product


def block_places(rows: int) -> np.ndarray:
    """The rows of a matrix in blocks (blocks, BLOCK_ROWS). The last element of each block, and what
    is left over, is `rows`: the row behind the last."""
    blocks = -(-rows // (BLOCK_ROWS - 1))
    places = np.full((blocks, BLOCK_ROWS), rows)
    numbers = np.arange(blocks * (BLOCK_ROWS - 1)).reshape(blocks, -1)
    places[:, :-1] = np.minimum(numbers, rows)
    return places


def shares_of_rows(g: Nodes, inputs: str, unit_range: bool) -> tuple[str, str]:
    """Inputs (..., n) divided by the largest absolute value of each row, and these values (..., 1).
    With `unit_range` the inputs stay as they are, and the second name is empty."""
    if unit_range:
        return inputs, ""
    largest = g.ReduceMax(g.Abs(inputs), g.constant([-1], np.int64), keepdims=1)
    return g.Div(inputs, g.Max(largest, g.constant(1e-20, np.float32))), largest


def integer_matmul(g: Nodes, inputs: str, matrix: np.ndarray, unit_range: bool = False) -> str:
    """Integer matrix product of inputs (..., n) and matrix (n, m): (..., m) float32. With
    `unit_range` inputs must be in [-1, 1].

    The graph multiplies quantized and dequantized tensors; onnxruntime computes this as an integer
    product.
    """
    integers, scales = quantize_weights(matrix, axis=0)
    shares, largest = shares_of_rows(g, inputs, unit_range)
    level = g.constant(1 / INPUT_LEVELS, np.float32), g.constant(ZERO_POINT, np.uint8)
    columns = g.constant(scales.reshape(-1)), g.constant(np.zeros(scales.size, np.int8))
    weights = g.DequantizeLinear(g.constant(integers, np.int8), *columns, axis=1)
    found = g.MatMul(g.DequantizeLinear(g.QuantizeLinear(shares, *level), *level), weights)
    return g.Mul(found, largest) if largest else found


def dequantize(g: Nodes, name: str, weights: np.ndarray) -> None:
    """Add int8 weights and their conversion to float32 under `name`. A runtime converts them once,
    when it loads the graph."""
    shared = {2: 0, 3: 2}.get(weights.ndim, tuple(range(1, weights.ndim)))
    integers, scales = quantize_weights(weights, axis=shared, levels=127)
    g.named(
        g.Mul(
            g.Cast(g.constant(integers, np.int8), to=TensorProto.FLOAT),
            g.constant(scales, np.float32),
        ),
        name,
    )


def quantize_weights(
    weights: np.ndarray, axis: int | tuple[int, ...], levels: int = WEIGHT_LEVELS
) -> tuple[np.ndarray, np.ndarray]:
    """Quantize weights to int8 from -levels to levels; return them and their scales. Elements along
    `axis` share a scale."""
    scales = np.maximum(np.abs(weights).max(axis=axis, keepdims=True), 1e-20) / levels
    return np.round(weights / scales).astype(np.int8), scales.astype(np.float32)


def measure_agreement(
    float32_graphs: Mapping[str, onnx.ModelProto],
    int8_graphs: Mapping[str, onnx.ModelProto],
    tokens: np.ndarray,
    kind: str = INT8,
) -> dict[str, Any]:
    """Measure the effect of weights in eight bits on tokens (n, T): the bound in nats, the top-1
    agreement of teacher-forced logits, and the size of all graphs."""
    inputs: dict[str, np.ndarray] = {
        "tokens": tokens,
        "seed": np.zeros(len(tokens), np.int64),
        "row": np.arange(len(tokens)),
    }
    if any(value.name == "attribute" for value in float32_graphs["scorer"].graph.input):
        inputs["attribute"] = np.full(len(tokens), -1, np.int32)
    runs = [run_scorer(graphs["scorer"], inputs) for graphs in (float32_graphs, int8_graphs)]
    counted = tokens[:, : runs[0][1].shape[1]] != PAD
    argmax = [logits.argmax(axis=-1)[counted] for _, logits in runs]
    bounds = [float(bound.mean()) for bound, _ in runs]
    sizes = [
        sum(graph.ByteSize() for graph in graphs.values())
        for graphs in (float32_graphs, int8_graphs)
    ]
    return {
        "kind": kind,
        "texts": len(tokens),
        "symbols": int(counted.sum()),
        "likeliest_symbols_unchanged": float((argmax[0] == argmax[1]).mean()),
        "bound": bounds[1],
        "bound_in_float32": bounds[0],
        "size_ratio": sizes[1] / sizes[0],
        **({"runtime": OWN} if kind == INT8_LATENCY else {}),
    }


def run_scorer(
    scorer: onnx.ModelProto, inputs: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Run a scorer and return the bound (n,) in nats and the logits (n, time, V)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(scorer)
    running = session(with_logits(copy).SerializeToString())
    reconstruction, kl, logits = running.run(["reconstruction", "kl", LOGITS], dict(inputs))
    return reconstruction + kl, logits.transpose(1, 0, 2)
