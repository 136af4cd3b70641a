#!/usr/bin/env bash
# tinygrad 0.14.0: one OnnxRunner and batches of different sizes.
#
# A good engineer guesses: a graph whose first axis is free ("batch") runs batches of any size, one after another, as in other
# runtimes.
# What happens: the first call gives "batch" its number, and the runner keeps it. A later call with another size raises
# RuntimeError. A second runner of the same file takes the other size.
# Seen on Linux x86_64, Python 3.11, 2026-11-29 (device PYTHON, which needs no compiler):
#
#     tinygrad 0.14.0
#     first runner, batch 1: (1, 3)
#     first runner, batch 5: RuntimeError: input x has mismatch on dim=0. Expected 1, received 5.
#     second runner, batch 5: (5, 3)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/environment"
"$folder/environment/bin/pip" install --quiet --disable-pip-version-check tinygrad==0.14.0 onnx==1.23.2 numpy==2.4.6
cat >"$folder/program.py" <<'PROGRAM'
import sys
from importlib.metadata import version

import numpy as np
import onnx
from onnx import TensorProto, helper
from tinygrad import Tensor
from tinygrad.nn.onnx import OnnxRunner

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "graph", [x], [y])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), sys.argv[1])


def outcome(runner, batch):
    """The shape of the output, or the error."""
    try:
        return str(runner({"x": Tensor(np.ones((batch, 3), np.float32))})["y"].shape)
    except RuntimeError as error:
        return f"RuntimeError: {error}"


print("tinygrad", version("tinygrad"))
first, second = OnnxRunner(sys.argv[1]), OnnxRunner(sys.argv[1])
found = [outcome(first, 1), outcome(first, 5), outcome(second, 5)]
for words, result in zip(("first runner, batch 1", "first runner, batch 5", "second runner, batch 5"), found):
    print(f"{words}: {result}")
if found[0] != "(1, 3)" or found[2] != "(5, 3)" or "Expected 1, received 5" not in found[1]:
    raise SystemExit("changed: a runner takes batches of another size")
PROGRAM
DEV=PYTHON "$folder/environment/bin/python" "$folder/program.py" "$folder/graph.onnx"
