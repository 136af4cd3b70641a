#!/usr/bin/env bash
# tf2onnx 1.17.0 with TensorFlow 2.21.0: indices that are -1 or that come twice.
#
# A good engineer guesses: a function that tf2onnx converts without a warning gives in onnxruntime what it gives in TensorFlow.
# What happens: the operators for indices are replaced by those of ONNX with the same name, which mean something else at the
# edges. For TensorFlow -1 is no class, and `tf.one_hot` gives a row of zeros, which is what padding or missing labels of -1
# rely on. In ONNX -1 is the last class: padding becomes the last token. `tf.scatter_nd` adds the numbers of one index, as a
# histogram of tokens needs it; the ScatterND of the graph overwrites them, and each token counts once. An index beyond the last
# one gives zeros in both, and `tf.tensor_scatter_nd_add` and `tf.math.bincount` are right.
# Seen on Linux x86_64, Python 3.11, 2026-12-01:
#
#     tf2onnx 1.17.0, TensorFlow 2.21.0, onnxruntime 1.31.1
#     one_hot                  of [0, 2, 2, -1]
#         TensorFlow  [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
#         onnxruntime [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
#     one_hot, 3 instead of -1 of [0, 2, 2, 3]
#         TensorFlow  [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
#         onnxruntime [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
#     scatter_nd               of [0, 2, 2, 1]
#         TensorFlow  [1, 1, 2]
#         onnxruntime [1, 1, 1]
#     tensor_scatter_nd_add    of [0, 2, 2, 1]
#         TensorFlow  [1, 1, 2]
#         onnxruntime [1, 1, 2]
#     bincount                 of [0, 2, 2, 1]
#         TensorFlow  [1, 1, 2]
#         onnxruntime [1, 1, 2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tf2onnx==1.17.0 tensorflow==2.21.0 onnx==1.23.2 onnxruntime==1.31.1 protobuf==7.36.2 numpy==2.4.6
cat >"$folder/program.py" <<'PROGRAM'
import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx

TOKENS = np.array([0, 2, 2, -1], "int32")
TWICE = np.array([0, 2, 2, 1], "int32")


def ones(tokens):
    return tf.ones_like(tokens, tf.float32)


CASES = {  # name: function, tokens, whether the results differ
    "one_hot": (lambda tokens: tf.one_hot(tokens, 3), TOKENS, True),
    "one_hot, 3 instead of -1": (lambda tokens: tf.one_hot(tokens, 3), np.where(TOKENS < 0, 3, TOKENS), False),
    "scatter_nd": (lambda t: tf.scatter_nd(t[:, None], ones(t), [3]), TWICE, True),
    "tensor_scatter_nd_add": (
        lambda t: tf.tensor_scatter_nd_add(tf.zeros(3), t[:, None], ones(t)),
        TWICE,
        False,
    ),
    "bincount": (lambda t: tf.math.bincount(t), TWICE, False),
}
changed = []
print(f"tf2onnx {tf2onnx.__version__}, TensorFlow {tf.__version__}, onnxruntime {onnxruntime.__version__}")
for name, (function, tokens, expected) in CASES.items():
    signature = [tf.TensorSpec([None], tf.int32, name="tokens")]
    traced = tf.function(function, input_signature=signature)
    model, _ = tf2onnx.convert.from_function(traced, input_signature=signature, opset=18)
    before = traced(tokens).numpy()
    [after] = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"tokens": tokens})
    print(f"{name:24} of {tokens.tolist()}")
    print(f"    TensorFlow  {before.astype(int).tolist()}")
    print(f"    onnxruntime {after.astype(int).tolist()}")
    if np.array_equal(before, after) == expected:
        changed.append(name)
if changed:
    raise SystemExit(f"changed: {', '.join(changed)}")
PROGRAM
CUDA_VISIBLE_DEVICES="" TF_CPP_MIN_LOG_LEVEL=3 "$folder/venv/bin/python" "$folder/program.py" 2>"$folder/errors" ||
    { cat "$folder/errors"; exit 1; }
