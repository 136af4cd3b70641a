"""Conversion of TensorFlow functions to ONNX, with checks that tf2onnx does not make."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

import keras
import onnx
import tensorflow as tf
import tf2onnx

from kvae.serving.bundle import OPERATIONS, OPSET
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.serving.onnx_files import STANDARD

from .folding import folded
from .recurrences import with_gru_nodes
from .simplify import bodies_of, drop_identities, drop_unused, simplified


def check_backend() -> None:
    """Raise `ConfigError` if Keras runs on another backend than TensorFlow; only TensorFlow
    functions can be converted."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"export runs on TensorFlow, KERAS_BACKEND is {backend!r}: use "
            "KERAS_BACKEND=tensorflow kvae export ... (it reads the runs of every backend)"
        )


def to_onnx(
    function: Callable[..., tf.Tensor | Sequence[tf.Tensor]],
    inputs: Sequence[tf.TensorSpec],
    outputs: Sequence[str],
    gru_nodes: bool = False,
) -> onnx.ModelProto:
    """Convert `function` to an ONNX model with `inputs` (specifications with names) and outputs
    named `outputs`. With `gru_nodes` GRU layers are nodes instead of loops.

    Raises `CheckFailed` for operations that ONNX does not have (tf2onnx writes them into the file
    without an error) and for operations that samplers do not run.
    """
    # The checks below raise the errors that tf2onnx only logs.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    traced = tf.function(
        lambda *tensors: function(*tensors), input_signature=list(inputs), autograph=False
    )
    model, _ = tf2onnx.convert.from_function(traced, input_signature=list(inputs), opset=OPSET)
    graph = model.graph
    simplified(model)
    check_operations(graph)
    folded(model)
    model = with_gru_nodes(model) if gru_nodes else model
    graph = model.graph
    del model.opset_import[:]  # tf2onnx imports ai.onnx.ml, which no node uses
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    rename(graph, [spec.name for spec in inputs], list(outputs))
    return checked_model(model)


def check_operations(graph: onnx.GraphProto) -> None:
    """Raise `CheckFailed` for operations that samplers do not run, with the layers that use them.
    An encoder or a head with such an operation can be trained but not exported."""
    unsupported = [
        node
        for node in nodes_of(graph)
        if node.domain not in STANDARD or node.op_type not in OPERATIONS
    ]
    unknown = [node for node in unsupported if not onnx.defs.has(node.op_type, node.domain)]
    if unknown:
        raise CheckFailed(
            f"export: ONNX has no such operations: {operations_with_layers(unknown)}; write those "
            "layers with other operations"
        )
    if unsupported:
        raise CheckFailed(
            "export: this model uses operations that samplers do not run: "
            f"{operations_with_layers(unsupported)}; write those layers with other operations, or "
            "add these to kvae.serving.bundle.OPERATIONS where bundles are written and where "
            "they are used"
        )


def operations_with_layers(nodes: Iterable[onnx.NodeProto]) -> str:
    """The operations of nodes for an error message, each with one node that uses it."""
    return ", ".join(
        f"{operation} ({name})"
        for operation, name in sorted({n.op_type: n.name for n in nodes}.items())
    )


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph, including those of its loops and branches."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from nodes_of(body)


def checked_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, with a name of its own for every node, if the full check of onnx passes.
    Raises `CheckFailed` otherwise. Nodes that nothing reads or that change nothing are removed."""
    drop_identities(model.graph)
    drop_unused(model.graph)
    name_nodes(model.graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"export: an invalid graph: {error}") from error
    return model


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name nodes without a name after their first output, and number names that occur twice."""
    taken: set[str] = set()
    for node in nodes_of(graph):
        stem = name = node.name or node.output[0]
        number = 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        node.name = name
        taken.add(name)


def rename(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename the inputs and outputs of a graph, and call their first dimension `batch` if it is
    free."""
    old = [value.name for value in (*graph.input, *graph.output)]
    names = dict(zip(old, (*inputs, *outputs), strict=True))
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        dimensions = value.type.tensor_type.shape.dim
        if dimensions and not dimensions[0].dim_value:
            dimensions[0].dim_param = "batch"
