"""The functions of a SavedModel for LiteRT: converted by TensorFlow, with what they give there.

`benchmarks/runtimes.py` runs them in LiteRT and compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FUNCTIONS = ("encode", "decode", "sample", "score")
"""The signatures of `kvae.export.saved_model`."""

BUILT_IN, WITH_TENSORFLOW = ".tflite", ".tf.tflite"
"""Endings of the files whose operations are LiteRT's own, and of those that may have TensorFlow's
too."""


def convert(saved_model: Path) -> None:
    """Write each function of a SavedModel in both ways into its folder, or what went wrong as a
    text file."""
    import tensorflow as tf

    own = [tf.lite.OpsSet.TFLITE_BUILTINS]
    kinds = {BUILT_IN: own, WITH_TENSORFLOW: [*own, tf.lite.OpsSet.SELECT_TF_OPS]}
    for name in FUNCTIONS:
        for ending, operations in kinds.items():
            converter = tf.lite.TFLiteConverter.from_saved_model(
                str(saved_model), signature_keys=[name]
            )
            converter.target_spec.supported_ops = operations
            file = saved_model / f"{name}{ending}"
            try:
                file.write_bytes(converter.convert())
            except Exception as error:  # the converter may raise anything
                file.with_name(f"{file.name}.txt").write_text(cause(error), encoding="utf-8")


def cause(error: Exception) -> str:
    """The operations that LiteRT lacks or, if none is named, the first line of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lacking = [line for line in lines if re.match(r"(Custom|Flex|TF Select) ops: ", line)]
    plain = [re.sub(r"^loc\(.*\): (error: )?", "", line) for line in lines]
    return next(iter([*lacking, *plain]), type(error).__name__)


def record(saved_model: Path, vocabulary_size: int, attempts: tuple[int, ...]) -> None:
    """Run each function in TensorFlow for batches of so many rows and write its cases."""
    import tensorflow as tf

    signatures = tf.saved_model.load(str(saved_model)).signatures
    for name in FUNCTIONS:
        arrays: dict[str, np.ndarray] = {}
        shapes = signatures[name].structured_input_signature[1]
        for number, inputs in enumerate(cases(shapes, vocabulary_size, attempts)):
            found = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
            arrays |= {f"{number}|in|{key}": value for key, value in inputs.items()}
            arrays |= {f"{number}|out|{key}": found[key].numpy() for key in sorted(found)}
        np.savez(saved_model / f"{name}.npz", **arrays)


def cases(
    shapes: Mapping[str, Any], vocabulary_size: int, attempts: tuple[int, ...]
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs of a function, by the names and shapes of its arguments."""
    generator = np.random.default_rng(0)
    for batch in attempts:
        made: dict[str, np.ndarray] = {}
        for name, spec in shapes.items():
            if name == "tokens":
                size = (batch, spec.shape[1])
                made[name] = generator.integers(4, vocabulary_size, size).astype(np.int32)
                made[name][:, -1] = 2
            elif name == "z":
                made[name] = generator.normal(size=(batch, spec.shape[1])).astype(np.float32)
            else:
                value = {"seed": 7, "count": batch, "temperature": 1.0}[name]
                made[name] = np.array(value, spec.dtype.as_numpy_dtype)
        yield made
