#!/usr/bin/env bash
# Keras 3.15.1 (JAX 0.10.2; the TensorFlow backend with another error): `RematScope` and a layer that calls layers.
#
# A good engineer guesses: a functional model built within `keras.RematScope(mode="full")` computes what it computes without, with less
# memory, also where one of its layers holds others.
# What happens: the model cannot be built. On TensorFlow the error is "The custom_gradient decorator currently supports keywords
# arguments only when eager execution is enabled". Without the scope it is built, and layers without others within train with it.
# Seen on Linux x86_64, Python 3.11, 2026-11-28:
#
#     flat: trains
#     nested: AttributeError 'str' object has no attribute '_error_repr'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check keras==3.15.1 jax==0.10.2 numpy==2.4.6
cd "$folder"
KERAS_HOME="$folder" KERAS_BACKEND=jax "$folder/venv/bin/python" - <<'PROGRAM'
import keras
import numpy as np


class Block(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense, self.dropout = keras.layers.Dense(4), keras.layers.Dropout(0.1)

    def call(self, inputs, training=False):
        return self.dropout(self.dense(inputs), training=training)


def trains(layers):
    with keras.RematScope(mode="full"):
        inputs = outputs = keras.Input((4,))
        for layer in layers():
            outputs = layer(outputs)
        model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 4)), verbose=0)


trains(lambda: [keras.layers.Dense(4)])
print("flat: trains")
keras.Model(inputs := keras.Input((4,)), Block()(inputs))  # valid without the scope
try:
    trains(lambda: [Block()])
except Exception as error:
    print("nested:", type(error).__name__, [line for line in str(error).splitlines() if "attribute" in line or "custom_gradient" in line])
else:
    raise SystemExit("changed: layers within layers train under RematScope now")
PROGRAM
