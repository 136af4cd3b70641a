#!/usr/bin/env bash
# OpenVINO 2026.4.1 and 2026.2.0 on a CPU: the operator Multinomial without a seed.
#
# A good engineer guesses: a Multinomial node of an ONNX file that has no `seed` draws other classes in each run ("if not
# specified we will auto generate one"), as in onnxruntime, and as RandomUniform and RandomNormal without a seed do in OpenVINO
# itself.
# What happens: OpenVINO takes the clock in whole seconds for a seed, in each run anew. All runs within one second draw the same
# classes, also from two compiled models: thousands of requests of a server get the same sample. Where a loop draws one token a
# run, each token of that second belongs to the same random number. Classes that are drawn in one run follow the probabilities,
# and a run a second later gives others, so that tests of frequencies and a look at two outputs pass. A way around it:
# RandomUniform, and a comparison with the cumulative probabilities.
# Seen on Linux x86_64, Python 3.11, 2026-12-01:
#
#     OpenVINO 2026.4.1: 288 samples of 24 tokens in 3 seconds, different ones: 4
#         230323233231112112102112
#         230323233231112112102112
#         230323233231112112102112
#         shares in a sample of 100000 tokens: 0.10 0.20 0.30 0.40
#     onnxruntime 1.31.1: 284 samples of 24 tokens in 3 seconds, different ones: 284
#         323221332333032312311133
#         031321013221323112333212
#         333323312212210303111023
#         shares in a sample of 100000 tokens: 0.10 0.20 0.30 0.40
#     OpenVINO 2026.2.0: 256 samples of 24 tokens in 3 seconds, different ones: 4
#         012111223303222112213312
#         012111223303222112213312
#         012111223303222112213312
#         shares in a sample of 100000 tokens: 0.10 0.20 0.30 0.40
#     onnxruntime 1.31.1: 267 samples of 24 tokens in 3 seconds, different ones: 267
#         313132311002313222032112
#         213332310303103201032013
#         203221223033121333203322
#         shares in a sample of 100000 tokens: 0.10 0.20 0.30 0.40
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/intel"
echo -n 0 >"$folder/intel/openvino_telemetry" # as `opt_in_out --opt_out`: the import writes nothing to the home folder
cat >"$folder/program.py" <<'PROGRAM'
import time

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

LOGITS = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], "float32"))
SECONDS = 3


def model(size):
    graph = helper.make_graph(
        [helper.make_node("Multinomial", ["logits"], ["tokens"], sample_size=size)],
        "graph",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["texts", 4])],
        [helper.make_tensor_value_info("tokens", TensorProto.INT32, ["texts", size])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def in_openvino(size):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model(size)), "CPU")
    return lambda: "".join(map(str, compiled({"logits": LOGITS})[0][0]))


def in_onnxruntime(size):
    session = onnxruntime.InferenceSession(model(size))
    return lambda: "".join(map(str, session.run(None, {"logits": LOGITS})[0][0]))


openvino_name = "OpenVINO " + openvino.__version__.split("-")[0]
found = {}
for name, made in ((openvino_name, in_openvino), ("onnxruntime " + onnxruntime.__version__, in_onnxruntime)):
    run = made(24)
    time.sleep(1.1 - time.time() % 1)  # to the start of a second
    begin, results = time.time(), []
    while time.time() < begin + SECONDS:
        results.append(run())
        time.sleep(0.01)
    at_once = made(100_000)()
    shares = [at_once.count(token) / len(at_once) for token in "0123"]
    found[name] = results, shares
    print(f"{name}: {len(results)} samples of 24 tokens in {SECONDS} seconds, different ones: {len(set(results))}")
    for text in results[:3]:
        print("   ", text)
    print("    shares in a sample of 100000 tokens:", " ".join(f"{share:.2f}" for share in shares))
first, second = in_openvino(24), in_openvino(24)
time.sleep(1.1 - time.time() % 1)
if first() != second():
    raise SystemExit("changed: two compiled models draw other samples in one second")
results, shares = found[openvino_name]
if len(set(results)) > SECONDS + 1 or len(results) < 10 * SECONDS:
    raise SystemExit("changed: the samples of OpenVINO within a second differ")
if abs(np.array(shares) - [0.1, 0.2, 0.3, 0.4]).max() > 0.02:
    raise SystemExit("changed: a sample of OpenVINO does not follow the probabilities")
PROGRAM
for version in 2026.4.1 2026.2.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check \
        "openvino==$version" onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
    HOME="$folder" "$folder/$version/bin/python" "$folder/program.py"
done
