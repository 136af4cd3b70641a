"""What a program needs to run a graph in each runtime that `benchmarks/runtimes.py` compares.

Each function takes a file and returns a function of the inputs by name. docs/runtimes.md shows
them.

MNN is not among them. The Python module of its converter runs pip when it is imported, with the pip
of the path, and has code that reports usage.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
from runtime_litert import BUILT_IN, FUNCTIONS, WITH_TENSORFLOW

Arrays = list[Any]
Runner = Callable[[dict[str, np.ndarray]], Arrays]
"""Inputs by name -> outputs in the order of the graph."""


def onnxruntime_runner(file: str) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)


def openvino_runner(file: str) -> Runner:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would take bfloat16
    compiled = openvino.compile_model(file, "CPU", settings)

    def run(inputs: dict[str, np.ndarray]) -> Arrays:
        found = compiled(inputs)
        return [found[output] for output in compiled.outputs]

    return run


def reference_runner(file: str) -> Runner:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(file)
    return lambda inputs: evaluator.run(None, inputs)


def tract_runner(file: str) -> Runner:
    import onnx
    import tract

    graph = onnx.load(file).graph
    names = [value.name for value in graph.input]
    whole = [value.type.tensor_type.elem_type == onnx.TensorProto.INT64 for value in graph.output]
    runnable = tract.onnx().load(file).into_model().into_runnable()

    def run(inputs: dict[str, np.ndarray]) -> Arrays:
        found = runnable.run([inputs[name] for name in names])
        for place in np.flatnonzero(whole):  # tract computes with sizes of its own type
            found[place] = found[place].convert_to(tract.DatumType.I64)
        return [each.to_numpy() for each in found]

    return run


def leave_out_torchvision() -> None:
    """Converters need torchvision for images only, and that of a torch for the CPU alone does not
    load."""
    for name in ("torchvision", "torchvision.io", "torchvision.ops"):
        sys.modules[name] = mock.Mock()


def onnx2torch_runner(file: str) -> Runner:
    import onnx
    import torch

    leave_out_torchvision()
    from onnx2torch import convert

    names = [value.name for value in onnx.load(file).graph.input]
    module = convert(file).eval()

    def run(inputs: dict[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.array(inputs[name])) for name in names))
        return [each.numpy() for each in (found if isinstance(found, list | tuple) else [found])]

    return run


def onnx2pytorch_runner(file: str) -> Runner:
    import onnx
    import torch

    leave_out_torchvision()
    from onnx2pytorch import ConvertModel

    model = onnx.load(file)
    names = [value.name for value in model.graph.input]
    module = ConvertModel(model, experimental=True).eval()  # batches of any size

    def run(inputs: dict[str, np.ndarray]) -> Arrays:
        with torch.no_grad():
            found = module(*(torch.from_numpy(np.array(inputs[name])) for name in names))
        return [each.numpy() for each in (found if isinstance(found, list | tuple) else [found])]

    return run


def litert_runner(file: str) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file)
    (name,) = interpreter.get_signature_list()
    run = interpreter.get_signature_runner(name)

    def outputs(inputs: dict[str, np.ndarray]) -> Arrays:
        found = run(**inputs)
        return [found[key] for key in sorted(found)]

    return outputs


@dataclass(frozen=True)
class Runtime:
    """A runtime in one version."""

    packages: tuple[str, ...]
    """What pip installs."""
    runner: Callable[[str], Runner]
    """A file -> a function that runs it. The page shows its source."""
    functions: tuple[str, ...] = ()
    """The functions of a SavedModel that it runs; empty: it runs the graphs of bundles."""
    ending: str = ".onnx"
    """Ending of the files that it runs."""


NUMPY = "numpy==2.4.6"
RUNTIMES: dict[str, Runtime] = {
    **{
        f"onnxruntime {version}": Runtime((f"onnxruntime=={version}", NUMPY), onnxruntime_runner)
        for version in ("1.21.0", "1.28.0", "1.32.0")
    },
    **{
        f"OpenVINO {version}": Runtime((f"openvino=={version}", NUMPY), openvino_runner)
        for version in ("2026.2.0", "2026.4.1")
    },
    "onnx ReferenceEvaluator 1.23.2": Runtime(("onnx==1.23.2", NUMPY), reference_runner),
    "tract 0.23.9": Runtime(("tract==0.23.9", "onnx==1.23.2", NUMPY), tract_runner),
    "onnx2torch 1.5.15": Runtime(
        ("onnx2torch==1.5.15", "torch==2.13.0", "torchvision==0.28.0", "onnx==1.23.2", NUMPY),
        onnx2torch_runner,
    ),
    "onnx2pytorch 0.6.0": Runtime(
        (
            "onnx2pytorch==0.6.0",
            "torch==2.13.0",
            "onnx==1.23.2",
            "setuptools==80.9.0",
            NUMPY,
        ),
        onnx2pytorch_runner,
    ),
    "LiteRT 2.3.0": Runtime(("ai-edge-litert==2.3.0", NUMPY), litert_runner, FUNCTIONS, BUILT_IN),
    "LiteRT 2.3.0, TensorFlow's operations": Runtime(
        ("ai-edge-litert==2.3.0", NUMPY), litert_runner, FUNCTIONS, WITH_TENSORFLOW
    ),
}
