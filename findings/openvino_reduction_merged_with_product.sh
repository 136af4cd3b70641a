#!/usr/bin/env bash
# OpenVINO 2026.4.1 and 2026.2.0 on a CPU: a product or a sum behind a reduction that removes the last of three axes.
#
# A good engineer guesses: ReduceSum over axis 2 with keepdims=0, and a Mul and an Add of K numbers behind it, give in OpenVINO
# what they give in onnxruntime, but for the last bits.
# What happens: OpenVINO merges Mul and Add into the reduction, and takes the numbers along the wrong axis: row i of the (B, K)
# result gets number i, instead of column k number k. There is no error and no warning. One of Mul and Add suffices, and
# ReduceMean and ReduceMax do the same. Over axis 0 or 1, and with four axes, the results of 2026.4.1 were right. With
# keepdims=1 and a Squeeze behind it they are right, too.
# Seen on Linux x86_64, Python 3.11, 2026-11-29:
#
#     OpenVINO 2026.4.1
#     expected            [[10.0, 20.0, 30.0], [10.0, 20.0, 30.0]]
#     keepdims=0          [[10.0, 10.0, 10.0], [20.0, 20.0, 20.0]]
#     keepdims=1, Squeeze [[10.0, 20.0, 30.0], [10.0, 20.0, 30.0]]
#     largest difference for random numbers of 4 x 4 x 4: keepdims=0 5.007, Squeeze 0.000
#
# and the same for 2026.2.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/intel"
echo -n 0 >"$folder/intel/openvino_telemetry" # as `opt_in_out --opt_out`: the import writes nothing to the home folder
cat >"$folder/program.py" <<'PROGRAM'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper

KINDS = {0: "keepdims=0", 1: "keepdims=1, Squeeze"}


def graph(shape, keepdims, factors, terms):
    nodes = [helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=keepdims)]
    if keepdims:
        nodes.append(helper.make_node("Squeeze", ["sum", "axis"], ["squeezed"]))
    nodes.append(helper.make_node("Mul", [nodes[-1].output[0], "factors"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "terms"], ["y"]))
    numbers = {"factors": factors, "terms": terms}
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape[:2])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [2])]
        + [helper.make_tensor(name, TensorProto.FLOAT, [len(v)], v) for name, v in numbers.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def results(x, factors, terms):
    """What numpy gives, and what OpenVINO gives for both kinds of the graph."""
    expected = x.sum(axis=2) * factors + terms
    found = {}
    for keepdims in KINDS:
        model, core = graph(x.shape, keepdims, factors, terms), openvino.Core()
        [reference] = onnxruntime.InferenceSession(model).run(None, {"x": x})
        np.testing.assert_allclose(reference, expected, atol=1e-5)
        compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found[keepdims] = compiled({"x": x})[0]
    return expected, found


print("OpenVINO", openvino.__version__.split("-")[0])
expected, found = results(np.zeros((2, 3, 4), "float32"), np.ones(3, "float32"), np.array([10, 20, 30], "float32"))
print(f"{'expected':19}", expected.tolist())
for keepdims, kind in KINDS.items():
    print(f"{kind:19}", found[keepdims].tolist())
random = np.random.default_rng(0)
expected, found = results(*(random.standard_normal(shape).astype("float32") for shape in ((4, 4, 4), 4, 4)))
wrong, right = (float(abs(found[keepdims] - expected).max()) for keepdims in KINDS)
print(f"largest difference for random numbers of 4 x 4 x 4: keepdims=0 {wrong:.3f}, Squeeze {right:.3f}")
if wrong < 1e-3:
    raise SystemExit("changed: the reduction and the product give what onnxruntime gives")
if right > 1e-4:
    raise SystemExit("changed: a Squeeze behind the reduction is no way around it any more")
PROGRAM
for version in 2026.4.1 2026.2.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
        "openvino==$version" onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
    HOME="$folder" "$folder/$version/bin/python" "$folder/program.py"
done
