#!/usr/bin/env bash
# TensorFlow 2.21.0 (Keras 3.15.1), CPU: oneDNN and the first call of a model in eager mode.
#
# A good engineer guesses: the oneDNN operations, which are on by default on x86, cost nothing where the tensors are tiny.
# What happens: they cost a process more than its first call. Before an operation of a new kind runs in eager mode, the layout
# pass of oneDNN asks whether it has an operation of its own for it, and the answer is a walk through all registered kernels. Of
# a small model, building and the first call take 1.5 to 2 times the processor time that they take with
# TF_ENABLE_ONEDNN_OPTS=0. Programs and tests that make many small models in new processes pay it each time.
# Seen on Linux x86_64, Python 3.11, 2026-11-28, median of 5 runs in turn:
#
#     oneDNN on: 0.67 s of processor time, off: 0.40 s, 1.7 times
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tensorflow==2.21.0 keras==3.15.1 numpy==2.4.6
cd "$folder"
cat > model.py <<'PROGRAM'
import time

import keras
import numpy as np

start = time.process_time()
inputs = hidden = keras.Input((16, 8))
for _ in range(10):
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv1D(8, 3, padding="same")(hidden))
model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.LSTM(8)(hidden)))
model(np.zeros((2, 16, 8), "float32"))
print(time.process_time() - start)
PROGRAM
"$folder/venv/bin/python" - <<'PROGRAM'
import os
import statistics
import subprocess
import sys


def seconds(onednn):
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    return float(subprocess.run([sys.executable, "model.py"], env=environment, capture_output=True, text=True, check=True).stdout)


on, off = (statistics.median(column) for column in zip(*((seconds("1"), seconds("0")) for _ in range(5))))
print(f"oneDNN on: {on:.2f} s of processor time, off: {off:.2f} s, {on / off:.1f} times")
if on / off < 1.2:
    raise SystemExit("changed: oneDNN no longer slows the first call of a small model")
PROGRAM
