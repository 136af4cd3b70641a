#!/usr/bin/env bash
# keras-nlp 0.32.0 (keras-hub 0.32.0, Keras 3.15.1, JAX 0.10.2): `PositionEmbedding` within a layer and an open length cannot be
# built on JAX.
#
# A good engineer guesses: `PositionEmbedding` takes texts of any length up to its own, so a layer that adds it to its rows works
# in a functional model whose length is None, on every backend of Keras.
# What happens: for a layer without `compute_output_shape` Keras finds the shape on JAX by tracing with symbolic sizes, and the
# slice of the positions that `PositionEmbedding` takes needs a size that is known. It raises an error. With a length that is
# known, or used directly in the model, the layer works; so does a `keras.layers.Embedding` of `keras.ops.arange`.
# Seen on Linux x86_64, Python 3.11, 2026-11-30:
#
#     own layer, length 8          (None, 8, 4)
#     own layer, length None       InconclusiveDimensionOperation
#     directly, length None        (None, None, 4)
#     Embedding, length None       (None, None, 4)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    keras==3.15.1 keras-nlp==0.32.0 keras-hub==0.32.0 jax==0.10.2 tensorflow==2.21.0 tensorflow-text==2.21.1
cd "$folder"
KERAS_HOME="$folder" KERAS_BACKEND=jax TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" - <<'PROGRAM'
import keras
import keras_nlp


class Own(keras.layers.Layer):
    """Rows plus positions, by a layer of keras-nlp or by an Embedding."""

    def __init__(self, embed):
        super().__init__()
        self.embed = keras.layers.Embedding(16, 4) if embed else keras_nlp.layers.PositionEmbedding(16)

    def build(self, shape):
        self.embed.build(shape)
        self.built = True

    def call(self, rows):
        if isinstance(self.embed, keras.layers.Embedding):
            return rows + self.embed(keras.ops.arange(keras.ops.shape(rows)[1]))
        return rows + self.embed(rows)


def shape(layer, length):
    try:
        return str(layer(keras.Input((length, 4))).shape)
    except Exception as error:
        return type(error).__name__


seen = [
    shape(Own(embed=False), 8),
    shape(Own(embed=False), None),
    shape(keras_nlp.layers.PositionEmbedding(16), None),
    shape(Own(embed=True), None),
]
print(*seen, sep="\n")
if seen != ["(None, 8, 4)", "InconclusiveDimensionOperation", "(None, None, 4)", "(None, None, 4)"]:
    raise SystemExit("changed: PositionEmbedding of an open length behaves differently now")
PROGRAM
