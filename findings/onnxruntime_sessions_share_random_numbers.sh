#!/usr/bin/env bash
# onnxruntime 1.32.0 and 1.31.1 on a CPU: random numbers of several sessions in one process.
#
# A good engineer guesses: without a `seed`, a random node draws other numbers in each session, so a pool of sessions for a
# sampler, one for each thread, gives as many independent samples.
# What happens: onnxruntime takes one seed for the process, and each session starts at it. The first runs of all sessions give
# the same numbers, so do the second ones, and so on, for RandomNormal, RandomUniform and Multinomial, also with a file loaded
# twice and however long one waits. Four sessions give each text four times. A session that is made anew for each request always
# gives the first one. With another process the numbers are others, so that two runs of a program look independent. Ways around:
# one session for all threads, random numbers as an input, or `onnxruntime.set_seed` with another number before each session is
# made (it has no effect on those that exist).
# Seen on Linux x86_64, Python 3.11, 2026-12-01, with 1.31.1 the same but for the numbers:
#
#     onnxruntime 1.32.0
#     session 1, first runs: 13032223323323233221  23011331232332102211  32223131122133221323
#     session 2, first runs: 13032223323323233221  23011331232332102211  32223131122133221323
#     session 3, first runs: 13032223323323233221  23011331232332102211  32223131122133221323
#     session 4, first runs: 13032223323323233221  23011331232332102211  32223131122133221323
#     a pool: 4 sessions of 100 runs, different results 100
#     a pool with set_seed: 4 sessions of 100 runs, different results 400
#     a new session for each of 4 runs: different results 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/program.py" <<'PROGRAM'
import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

SESSIONS, RUNS = 4, 100
LOGITS = np.log(np.array([[0.1, 0.2, 0.3, 0.4]], "float32"))

graph = helper.make_graph(
    [
        helper.make_node("Multinomial", ["logits"], ["tokens"], sample_size=20),
        helper.make_node("RandomNormalLike", ["logits"], ["noise"]),
        helper.make_node("RandomUniformLike", ["logits"], ["numbers"]),
    ],
    "graph",
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
    [
        helper.make_tensor_value_info("tokens", TensorProto.INT32, [1, 20]),
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, [1, 4]),
        helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [1, 4]),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.checker.check_model(model, full_check=True)


def session(seed=None):
    if seed is not None:
        onnxruntime.set_seed(seed)
    time.sleep(0.2)
    return onnxruntime.InferenceSession(model.SerializeToString())


def drawn(sessions):
    """What each session draws in each run."""
    return [[tuple(part.tobytes() for part in s.run(None, {"logits": LOGITS})) for _ in range(RUNS)] for s in sessions]


def text(result):
    return "".join(map(str, np.frombuffer(result[0], "int32")))


print(f"onnxruntime {onnxruntime.__version__}")
plain = drawn([session() for _ in range(SESSIONS)])
for number, runs in enumerate(plain, start=1):
    print(f"session {number}, first runs: {'  '.join(text(result) for result in runs[:3])}")
anew = {drawn([session()])[0][0] for _ in range(SESSIONS)}
seeded = drawn([session(seed) for seed in range(SESSIONS)])
for title, rows in (("a pool", plain), ("a pool with set_seed", seeded)):
    different = {result for runs in rows for result in runs}
    print(f"{title}: {SESSIONS} sessions of {RUNS} runs, different results {len(different)}")
print(f"a new session for each of {SESSIONS} runs: different results {len(anew)}")
if any(runs != plain[0] for runs in plain) or anew != {plain[0][0]} or len(set(plain[0])) != RUNS:
    raise SystemExit("changed: the sessions of a process draw other numbers")
if len({result for runs in seeded for result in runs}) != SESSIONS * RUNS:
    raise SystemExit("changed: set_seed before a session is made is no way around it any more")
PROGRAM
for version in 1.32.0 1.31.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "onnxruntime==$version" onnx==1.23.2 numpy==2.4.6
    "$folder/$version/bin/python" "$folder/program.py"
done
