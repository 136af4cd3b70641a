#!/usr/bin/env bash
# Keras 3.15.1 on TensorFlow 2.21.0: the graph of a training step after its model is gone.
#
# A good engineer guesses: `del model`, `keras.backend.clear_session()` and `gc.collect()` free what training a model took.
# What happens: the weights are freed, the traced graphs of the training step are not. Each model that was trained leaves all of
# its graphs behind, here some 50 MB for 30 small layers. A search over settings in one process grows with each model.
# Training each model in a process of its own is the way around it.
# Seen on Linux x86_64, Python 3.11, 2026-11-29:
#
#     graphs left after 1, 2 and 3 models: 362, 724, 1086
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 tensorflow==2.21.0
TF_CPP_MIN_LOG_LEVEL=3 KERAS_BACKEND=tensorflow "$folder/venv/bin/python" - 2>/dev/null <<'PROGRAM'
import gc

import keras
import numpy as np
from tensorflow.python.framework.func_graph import FuncGraph

rows = np.zeros((32, 8), np.float32)


def graphs_after_a_model():
    model = keras.Sequential([keras.layers.Dense(8) for _ in range(30)])
    model.compile("adam", "mse")
    model.fit(rows, rows, verbose=0)
    del model
    keras.backend.clear_session()
    gc.collect()
    return sum(isinstance(item, FuncGraph) for item in gc.get_objects())


first, second, third = (graphs_after_a_model() for _ in range(3))
print(f"graphs left after 1, 2 and 3 models: {first}, {second}, {third}")
if not 0 < first < second < third:
    print("changed: the graphs of a training step are freed with its model")
    raise SystemExit(1)
PROGRAM
