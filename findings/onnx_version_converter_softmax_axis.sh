#!/usr/bin/env bash
# onnx 1.23.2: `version_converter.convert_version` and a Softmax over an axis that is not the last one.
#
# A good engineer guesses: a model that `convert_version` takes from opset 13 to an older one gives the same results, or the
# conversion raises an error, as it does for operators without an older form (Gelu, ScatterND with reduction="add").
# What happens: Softmax before opset 13 is another function: it flattens all axes from `axis` on and divides by the sum over all
# of them. The converter keeps the node and its `axis`. Over the last axis both are the same. Over another one, say that of the
# positions in attention weights of (texts, positions, heads), the sums of the new model are wrong, without an error or a
# warning, and `onnx.checker` accepts it. LogSoftmax is the same. In the other direction Softmax and LogSoftmax are rewritten as
# they should be, but Hardmax of opset 11 keeps its node and changes its meaning in opset 13.
# Seen on Linux x86_64, Python 3.11, 2026-12-01:
#
#     onnx 1.23.2, of (2, 3, 4) numbers
#     Softmax    axis 1, opset 13 to 11: largest difference 0.55, sums over the axis 1.00 and 0.14
#     Softmax    axis 1, opset 13 to 12: largest difference 0.55, sums over the axis 1.00 and 0.14
#     Softmax    axis 2, opset 13 to 11: largest difference 0.00, sums over the axis 1.00 and 1.00
#     LogSoftmax axis 1, opset 13 to 11: largest difference 2.20
#     Softmax    axis 1, opset 11 to 13: largest difference 0.00
#     LogSoftmax axis 1, opset 11 to 13: largest difference 0.00
#     Hardmax    axis 1, opset 11 to 13: largest difference 1.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, version_converter

SHAPE = [2, 3, 4]
x = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")


def model(operator, opset, axis):
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"], axis=axis)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(made, full_check=True)
    return made


def result(made):
    return onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})[0]


CASES = {  # operator, opset, new opset, axis: whether the results differ
    ("Softmax", 13, 11, 1): True,
    ("Softmax", 13, 12, 1): True,
    ("Softmax", 13, 11, 2): False,
    ("LogSoftmax", 13, 11, 1): True,
    ("Softmax", 11, 13, 1): False,
    ("LogSoftmax", 11, 13, 1): False,
    ("Hardmax", 11, 13, 1): True,
}
changed = []
print(f"onnx {onnx.__version__}, of {tuple(SHAPE)} numbers")
for (operator, opset, new, axis), expected in CASES.items():
    before = model(operator, opset, axis)
    after = version_converter.convert_version(before, new)
    onnx.checker.check_model(after, full_check=True)
    old, converted = result(before), result(after)
    difference = float(abs(old - converted).max())
    sums = f", sums over the axis {old.sum(axis=axis)[0, 0]:.2f} and {converted.sum(axis=axis)[0, 0]:.2f}"
    print(
        f"{operator:10} axis {axis}, opset {opset} to {new}: largest difference {difference:.2f}"
        + (sums if operator == "Softmax" and opset == 13 else "")
    )
    if (difference > 1e-4) != expected:
        changed.append(f"{operator} from opset {opset} to {new} with axis {axis}")
if changed:
    raise SystemExit(f"changed: {', '.join(changed)}")
PROGRAM
