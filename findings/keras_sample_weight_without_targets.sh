#!/usr/bin/env bash
# Keras 3.15.1 (JAX 0.10.2; the TensorFlow backend alike): `fit(x, sample_weight=w)` without targets drops the weights.
#
# A good engineer guesses: a model whose `train_step` needs no targets, as an autoencoder, gets (x, None, sample_weight) from
# `fit(x, sample_weight=w)`, since it does from `train_on_batch(x, sample_weight=w)` and from a dataset of (x, None, w).
# What happens: `keras.utils.pack_x_y_sample_weight(x, None, w)` is x alone, so `fit` and `evaluate` hand over the inputs without
# a word, and the model trains as if all weights were 1. Targets of no width, np.zeros((n, 0)), keep the place.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     fit(x, sample_weight=w)                       ['x']
#     train_on_batch(x, sample_weight=w)            ['x', None, 'w']
#     fit(x, np.zeros((n, 0)), sample_weight=w)     ['x', 'y', 'w']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_HOME="$folder" KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PROGRAM'
import warnings

import keras
import numpy as np

x, w = np.ones((4, 3), "float32"), np.array([1, 0, 0, 2], "float32")
seen = []


class Autoencoder(keras.Model):
    def __init__(self):
        inputs = keras.Input((3,))
        super().__init__(inputs, keras.layers.Dense(3)(inputs))

    def train_step(self, state, data):
        parts = data if isinstance(data, tuple) else (data,)
        seen.append([None if part is None else name for name, part in zip("xyw", parts)])
        return {"loss": 0.0}, state


model = Autoencoder()
model.compile("sgd", jit_compile=False)
with warnings.catch_warnings():
    warnings.simplefilter("error")  # a word would end this
    model.fit(x, sample_weight=w, batch_size=4, verbose=0)
    model.train_on_batch(x, sample_weight=w)
    model.fit(x, np.zeros((4, 0), "float32"), sample_weight=w, batch_size=4, verbose=0)
print(*seen, sep="\n")
if seen != [["x"], ["x", None, "w"], ["x", "y", "w"]]:
    raise SystemExit("changed: fit without targets hands over something else now")
PROGRAM
