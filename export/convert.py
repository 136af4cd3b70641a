"""TensorFlow functions as ONNX models, with the checks that tf2onnx leaves out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import onnx
import tensorflow as tf
import tf2onnx

from kvae.serving.bundle import OPSET
from kvae.serving.errors import CheckFailed, ConfigError

from .simplify import simplified


def check_backend() -> None:
    """Raise `ConfigError` where Keras runs on another backend than TensorFlow, whose functions are what is converted."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"export runs on TensorFlow, KERAS_BACKEND is {backend!r}: use KERAS_BACKEND=tensorflow kvae export ... "
            "(it reads the runs of every backend)"
        )


def converted(function: Callable[..., Any], inputs: Sequence[tf.TensorSpec], outputs: Sequence[str]) -> onnx.ModelProto:
    """`function` of tensors like `inputs` (named) as an ONNX model whose outputs are called `outputs`.

    tf2onnx writes operations it does not know into the file and raises nothing; here they raise `CheckFailed`.
    """
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    traced = tf.function(lambda *tensors: function(*tensors), input_signature=list(inputs), autograph=False)
    model, _ = tf2onnx.convert.from_function(traced, input_signature=list(inputs), opset=OPSET)
    graph = model.graph
    foreign = sorted({node.op_type for node in graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise CheckFailed(f"export: operations that ONNX does not have: {', '.join(foreign)}")
    simplified(model)
    rename(graph, [spec.name for spec in inputs], list(outputs))
    return checked(model)


def checked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, if onnx's full check passes; `CheckFailed` otherwise."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise CheckFailed(f"export: an invalid graph: {error}") from error
    return model


def rename(graph: onnx.GraphProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Call a graph's inputs and outputs by the given names and its first free dimension `batch`."""
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
    del graph.value_info[:]
