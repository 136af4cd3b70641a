"""Is the exported graph the model? Keras and the bundle side by side, on the very bytes that are shipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from kvae.decoding import decode, writable
from kvae.model import TextVAE, shifted
from kvae.serving.alphabet import END, PAD
from kvae.serving.errors import CheckFailed
from kvae.serving.sampler import Sampler

from .graphs import LOGITS

TOLERANCE = 1e-4
"""Largest difference of a logit or of a code between Keras and the bundle."""

ROWS = 200
"""Rows of the test grid: codes drawn from the prior at seed 0."""


def compare(model: TextVAE, sampler: Sampler, sampler_graph: bytes) -> dict[str, Any]:
    """Decode a grid of codes both ways and read the texts back in: the record that goes into the manifest.

    Raises `CheckFailed` when a logit or a code differs by more than `TOLERANCE`, or when greedy decoding chooses
    another symbol anywhere (but for symbols whose logits tie within the tolerance).
    """
    z = sampler.draw_codes(ROWS, seed=0)
    ids, logits = greedy_logits(sampler_graph, z, model.model_config.length)
    expected_ids = np.array(decode(model, z))
    features = model.expander(z, training=False)
    expected_logits = np.array(model.head(features, shifted(ids), training=False)) + np.array(
        writable(logits.shape[-1])
    )

    counted = ids != PAD
    difference = float(np.abs(logits - expected_logits)[counted].max())
    disagreeing = [row for row in range(ROWS) if not same_choices(ids[row], expected_ids[row], expected_logits[row])]
    tokens = readable(ids, sampler)
    exported, reference = sampler.posterior_of_tokens(tokens), model.encoder(tokens, training=False)
    code_difference = max(
        float(np.abs(part - np.array(reference[name])).max())
        for part, name in zip(exported, ("mean", "log_variance"), strict=True)
    )
    record = {
        "rows": ROWS,
        "largest_logit_difference": difference,
        "largest_code_difference": code_difference,
        "greedy_rows_equal": ROWS - len(disagreeing),
        "tolerance": TOLERANCE,
    }
    if not difference <= TOLERANCE:
        raise CheckFailed(
            f"the sampler is not the model: a logit differs by {difference:.2g}, at most {TOLERANCE:g} is allowed"
        )
    if not code_difference <= TOLERANCE:
        raise CheckFailed(
            f"the encoder is not the model: a code differs by {code_difference:.2g}, at most {TOLERANCE:g} is allowed"
        )
    if disagreeing:
        raise CheckFailed(f"the sampler is not the model: greedy decoding differs in {len(disagreeing)} of {ROWS} rows")
    return record


def greedy_logits(sampler_graph: bytes, z: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy ids (B, T) and the logits (B, T, V) they were chosen from, PAD and zeros behind the graph's early exit."""
    watched = with_logits(onnx.load_from_string(sampler_graph))
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    whole = {
        name: np.array(value, np.int64)
        for name, value in {"seed": 0, "first_row": 0, "top_k": 0, "max_length": length}.items()
    }
    real = {name: np.array(value, np.float32) for name, value in {"temperature": 0.0, "top_p": 1.0}.items()}
    ids, logits = session.run(["ids", LOGITS], {"z": z, **whole, **real})
    missing = length - ids.shape[1]
    logits = logits.transpose(1, 0, 2)
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=PAD), np.pad(logits, ((0, 0), (0, missing), (0, 0)))


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler with one output more: the loop's logits, (time, batch, V). Weights and nodes stay as they are."""
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    body.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    loop.output.append(LOGITS)
    model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    return model


def same_choices(ids: np.ndarray, expected: np.ndarray, logits: np.ndarray) -> bool:
    """Whether two greedy rows agree, or part at a symbol where the reference logits (T, V) tie within the tolerance."""
    apart = np.flatnonzero(ids != expected)
    if not apart.size:
        return True
    position = apart[0]
    return bool(abs(logits[position, ids[position]] - logits[position, expected[position]]) <= 2 * TOLERANCE)


def readable(ids: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Generated rows as the encoder reads them: in `lines` mode a text that fills the row gives its last place to END."""
    tokens = ids.astype(np.int32)
    if sampler.manifest["mode"] == "lines":
        tokens[:, -1] = np.where((tokens == END).any(axis=1), PAD, END)
    return tokens
