#!/usr/bin/env bash
# onnx 1.23.2: LSTM, GRU and RNN in `onnx.reference.ReferenceEvaluator`.
#
# A good engineer guesses: the reference evaluator of onnx computes each operator as its specification says, or raises an error,
# so that it can judge a runtime. onnxruntime and the evaluator agree on a plain LSTM, and on one that reads backwards.
# What happens: the evaluator takes `sequence_lens`, `activations`, `clip` and `input_forget` and does nothing with them,
# without an error or a warning. A batch of padded texts is read to the end of the padding, and a text's last state depends on
# how long the other texts are. An LSTM with Relu is computed with Tanh. Only RNN raises an error for activations that it does
# not know. onnxruntime follows the specification for all of them.
# Seen on Linux x86_64, Python 3.11, 2026-12-01:
#
#     largest difference of the last states, onnx 1.23.2 and onnxruntime 1.31.1
#     LSTM  plain           0.000
#     LSTM  reverse         0.000
#     LSTM  sequence_lens   0.338
#     LSTM  clip=0.3        0.406
#     LSTM  Relu            0.212
#     LSTM  input_forget=1  0.177
#     GRU   plain           0.000
#     GRU   reverse         0.000
#     GRU   sequence_lens   0.379
#     GRU   clip=0.3        0.613
#     GRU   Relu            0.954
#     RNN   plain           0.000
#     RNN   reverse         0.000
#     RNN   sequence_lens   1.317
#     RNN   clip=0.3        1.139
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PROGRAM'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

TIME, TEXTS, SIZE = 5, 2, 3
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
RELU = {"LSTM": ["Sigmoid", "Relu", "Relu"], "GRU": ["Sigmoid", "Relu"]}
random = np.random.default_rng(0)
x = random.standard_normal((TIME, TEXTS, SIZE)).astype("float32")
lengths = np.array([TIME, 2], "int32")


def last_states(operator, with_lengths=False, **attributes):
    """The last states in onnxruntime and in the reference evaluator."""
    shape = 1, GATES[operator] * SIZE, SIZE
    weights = {
        "w": random.standard_normal(shape).astype("float32"),
        "r": random.standard_normal(shape).astype("float32"),
        "b": random.standard_normal((1, 2 * shape[1])).astype("float32"),
        "lengths": lengths,
    }
    inputs = ["x", "w", "r", "b"] + ["lengths"] * with_lengths
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y", "last"], hidden_size=SIZE, **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, [1, TEXTS, SIZE])],
        [numpy_helper.from_array(weights[name], name) for name in inputs[1:]],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    [runtime] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    [reference] = ReferenceEvaluator(model).run(None, {"x": x})
    return runtime, reference


cases = {"plain": {}, "reverse": {"direction": "reverse"}}
ignored = {"sequence_lens": {"with_lengths": True}, "clip=0.3": {"clip": 0.3}}
print(f"largest difference of the last states, onnx {onnx.__version__} and onnxruntime {onnxruntime.__version__}")
changed = []
for operator in GATES:
    more = {"Relu": {"activations": RELU[operator]}} if operator in RELU else {}
    more |= {"input_forget=1": {"input_forget": 1}} if operator == "LSTM" else {}
    for name, options in (cases | ignored | more).items():
        runtime, reference = last_states(operator, **options)
        difference = float(abs(runtime - reference).max())
        print(f"{operator:5} {name:15} {difference:.3f}")
        if (difference > 1e-4) == (name in cases):
            changed.append(f"{operator} {name}")
if changed:
    raise SystemExit(f"changed: {', '.join(changed)}")
PROGRAM
