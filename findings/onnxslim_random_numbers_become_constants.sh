#!/usr/bin/env bash
# onnxslim 0.1.98: a model that draws its random numbers itself.
#
# A good engineer guesses: `onnxslim.slim` makes a sampler smaller, and it still draws new numbers in each run. RandomNormal has
# no input, but it is no constant. onnxsim 0.8.1, onnxoptimizer 0.4.2 and onnxruntime leave such a node alone.
# What happens: onnxslim runs every node without variable inputs once and puts the result into the file, also RandomNormal and
# RandomUniform, and RandomNormalLike and Multinomial behind constants or behind the shape of an input whose size is fixed. The
# sampler gives the same text, molecule or picture in each run and for everyone who has the file, and another one after the next
# call of `slim`. There is no warning. A way around it is `skip_optimizations=["constant_folding"]`.
# Seen on Linux x86_64, Python 3.11, 2026-12-01:
#
#     different results in 10 runs  before  slim  without constant folding
#     RandomNormal                      10     1                        10
#     RandomUniform                     10     1                        10
#     RandomNormalLike                  10     1                        10
#     Multinomial                       10     1                        10
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnxslim==0.1.98 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
import onnxslim
from onnx import TensorProto, helper, numpy_helper

onnxruntime.set_default_logger_severity(3)
PROBABILITIES = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], "float32"))


def model(nodes):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(PROBABILITIES, "logits")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def with_noise(*nodes):
    return model([*nodes, helper.make_node("Add", ["x", "noise"], ["y"])])


MODELS = {
    "RandomNormal": with_noise(helper.make_node("RandomNormal", [], ["noise"], shape=[2, 4])),
    "RandomUniform": with_noise(helper.make_node("RandomUniform", [], ["noise"], shape=[2, 4])),
    "RandomNormalLike": with_noise(
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("RandomNormalLike", ["zeros"], ["noise"]),
    ),
    "Multinomial": with_noise(
        helper.make_node("Multinomial", ["logits"], ["tokens"], sample_size=4),
        helper.make_node("Cast", ["tokens"], ["noise"], to=TensorProto.FLOAT),
    ),
}


def different(made):
    """The number of different results of ten runs of one session."""
    session = onnxruntime.InferenceSession(made.SerializeToString())
    x = np.zeros((2, 4), "float32")
    return len({session.run(None, {"x": x})[0].tobytes() for _ in range(10)})


def slim(made, **options):
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    return onnxslim.slim(copy, **options)


print(f"{'different results in 10 runs':29} before  slim  without constant folding")
found = {}
for name, made in MODELS.items():
    before, after = different(made), different(slim(made))
    kept = different(slim(made, skip_optimizations=["constant_folding"]))
    found[name] = before, after, kept
    print(f"{name:29} {before:6} {after:5} {kept:25}")
if any(before < 9 or kept < 9 for before, _, kept in found.values()):
    raise SystemExit("changed: the model draws the same numbers before, or without constant folding")
for name, (_, after, _) in found.items():
    if after != 1:
        raise SystemExit(f"changed: onnxslim keeps {name}")
PROGRAM
