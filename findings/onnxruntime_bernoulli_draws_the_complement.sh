#!/usr/bin/env bash
# onnxruntime 1.32.0 and 1.31.1 on a CPU: the operator Bernoulli.
#
# A good engineer guesses: Bernoulli draws 1 with the probability that its input gives, as its documentation says ("an output of
# 1 is produced with probability p"), so an input of 0 always gives 0 and an input of 1 always gives 1.
# What happens: onnxruntime draws 1 with probability 1 - p. An input of 0 always gives 1. A mask that keeps nine tokens of ten
# keeps one of ten. There is no error and no warning, `onnx.checker` accepts the model, and the reference evaluator of onnx
# draws it right. Why: onnxruntime has no kernel for the operator and runs the function that the schema in onnx has for it,
# whose comparison is the wrong way round: Greater(random, p). onnx 1.23.2 has it, too, so every runtime that expands the
# operator this way draws the complement. RandomUniformLike and Less(random, p) are a way around it.
# Seen on Linux x86_64, Python 3.11, 2026-12-01, with 1.31.1 the same but for the last digits:
#
#     onnxruntime 1.32.0, onnx 1.23.2
#     function of the schema        RandomUniformLike, Greater(X_random, input), Cast
#     p                             0.00   0.10   0.50   0.90   1.00
#     onnxruntime, Bernoulli       1.000  0.902  0.499  0.099  0.000
#     reference evaluator          0.000  0.100  0.497  0.900  1.000
#     onnxruntime, random < p      0.000  0.100  0.503  0.901  1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/program.py" <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

PROBABILITIES = (0.0, 0.1, 0.5, 0.9, 1.0)
DRAWS = 100_000


def model(nodes):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def shares(run):
    """The share of ones for each of the probabilities."""
    p = np.repeat(np.array(PROBABILITIES, "float32"), DRAWS)
    return run(None, {"p": p})[0].reshape(len(PROBABILITIES), DRAWS).mean(axis=1)


bernoulli = helper.make_node("Bernoulli", ["p"], ["y"])
by_hand = [
    helper.make_node("RandomUniformLike", ["p"], ["random"]),
    helper.make_node("Less", ["random", "p"], ["smaller"]),
    helper.make_node("Cast", ["smaller"], ["y"], to=TensorProto.FLOAT),
]
float_tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [1]).SerializeToString()
schema = onnx.defs.get_schema("Bernoulli", 15)
function = onnx.FunctionProto.FromString(
    schema.get_context_dependent_function(bernoulli.SerializeToString(), [float_tensor])
)
texts = [f"Greater({', '.join(n.input)})" if n.op_type == "Greater" else n.op_type for n in function.node]

print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}")
print(f"{'function of the schema':29} {', '.join(texts)}")
print(f"{'p':29}", "   ".join(f"{p:.2f}" for p in PROBABILITIES))
found = {
    "onnxruntime, Bernoulli": shares(onnxruntime.InferenceSession(model([bernoulli]).SerializeToString()).run),
    "reference evaluator": shares(ReferenceEvaluator(model([bernoulli])).run),
    "onnxruntime, random < p": shares(onnxruntime.InferenceSession(model(by_hand).SerializeToString()).run),
}
for name, values in found.items():
    print(f"{name:28}", "  ".join(f"{value:.3f}" for value in values))
drawn, reference, way_around = found.values()
if abs(drawn - 1 + PROBABILITIES).max() > 0.02:
    raise SystemExit("changed: onnxruntime does not draw the complement any more")
if max(abs(reference - PROBABILITIES).max(), abs(way_around - PROBABILITIES).max()) > 0.02:
    raise SystemExit("changed: the reference evaluator or the way around does not draw with probability p")
PROGRAM
for version in 1.32.0 1.31.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
    "$folder/$version/bin/python" "$folder/program.py"
done
