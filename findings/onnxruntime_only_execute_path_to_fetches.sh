#!/usr/bin/env bash
# onnxruntime 1.31.1 and 1.32.0 (the wheels for the CPU): RunOptions.only_execute_path_to_fetches.
#
# A good engineer guesses: with the option set, a run computes only what its outputs need, as its documentation says. So a cheap
# output of a graph costs little, although the graph has an expensive one, too.
# What happens: the option is accepted and changes nothing. Every node runs, whichever outputs are asked for, and the time is
# that of all outputs. A graph without the expensive output, made by onnx.utils.Extractor, takes almost none.
# Seen on Linux x86_64, Python 3.11, 2026-11-29 (times vary):
#
#     onnxruntime 1.31.1
#     all outputs                    40.2 ms
#     the cheap one                  40.8 ms
#     the cheap one, with the option 40.6 ms
#     a graph with the cheap one      0.0 ms
#
# and the like for 1.32.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/program.py" <<'PROGRAM'
import statistics
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SIZE = 1000
x, expensive = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIZE, SIZE]) for name in ("x", "expensive"))
cheap = helper.make_tensor_value_info("first", TensorProto.FLOAT, [1, SIZE])
nodes = [
    helper.make_node("Gather", ["x", "rows"], ["first"], axis=0),
    helper.make_node("MatMul", ["x", "x"], ["square"]),
    helper.make_node("MatMul", ["square", "x"], ["expensive"]),
]
rows = helper.make_tensor("rows", TensorProto.INT64, [1], [0])
graph = helper.make_graph(nodes, "graph", [x], [cheap, expensive], [rows])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
part = onnx.utils.Extractor(model).extract_model(["x"], ["first"])
feed = {"x": np.zeros((SIZE, SIZE), np.float32)}
option = onnxruntime.RunOptions()
option.only_execute_path_to_fetches = True


def milliseconds(graph, names, options=None):
    """Median processor time of a run that asks for some outputs."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session, found = onnxruntime.InferenceSession(graph.SerializeToString(), settings), []
    for _ in range(9):
        started = time.process_time()
        session.run(names, feed, options)
        found.append(1000 * (time.process_time() - started))
    return statistics.median(found)


everything, one, with_option, alone = (
    milliseconds(model, None),
    milliseconds(model, ["first"]),
    milliseconds(model, ["first"], option),
    milliseconds(part, ["first"]),
)
print("onnxruntime", onnxruntime.__version__)
print(f"all outputs                    {everything:4.1f} ms")
print(f"the cheap one                  {one:4.1f} ms")
print(f"the cheap one, with the option {with_option:4.1f} ms")
print(f"a graph with the cheap one     {alone:4.1f} ms")
if with_option < 0.5 * everything:
    raise SystemExit("changed: the option leaves out what the outputs do not need")
if alone > 0.1 * everything:
    raise SystemExit("changed: a graph with the cheap output alone is no longer cheap")
PROGRAM
for version in 1.31.1 1.32.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
    "$folder/$version/bin/python" "$folder/program.py"
done
