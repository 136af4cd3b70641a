"""Is the exported graph the model? Keras and the bundle side by side, on the very bytes that are shipped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from keras import ops

from kvae.decoding import decode, writable
from kvae.model import TextVAE
from kvae.parts import shifted
from kvae.serving.alphabet import END, PAD
from kvae.serving.bundle import Bundle
from kvae.serving.errors import CheckFailed
from kvae.serving.sampler import Sampler

from .graphs import LOGITS
from .random_numbers import reference_normals

TOLERANCE = 1e-4
"""Largest difference of a logit or a code between Keras and the bundle."""

ROWS = 200
"""Rows of the test grid: codes drawn from the prior at seed 0."""

TEMPERATURES = (0.0, 1.0)
"""The grid is decoded greedily and by drawing, so that also texts which greedy decoding would end early are compared."""


def compare(model: TextVAE, bundle: Bundle) -> dict[str, Any]:
    """Run a bundle's graphs beside the Keras model on a grid of codes: the record that goes into the manifest.

    Compared are the codes of the prior (with Threefry and Box-Muller in numpy), the logits of every step and the
    log-probability of every text (with the teacher-forced pass of Keras on the same symbols), greedy text (with decoding
    in Keras), and the encoder on the texts that came out. Raises `CheckFailed` at the first that differs by more than
    `TOLERANCE` or is no number; greedy symbols may differ where two logits tie within it.
    """
    sampler = Sampler(bundle)
    z = sampler.draw_codes(ROWS, seed=0)
    noise = reference_normals(0, np.arange(ROWS), model.parts.noise_size)
    require("prior", "code", difference(z, np.array(model.codes(noise))))
    largest, compared = 0.0, 0
    features = model.expander(z, training=False)
    for temperature in TEMPERATURES:
        ids, logits, log_probability = watched(bundle.graphs["sampler"], z, model.model_config.length, temperature)
        forced = np.array(model.head(features, shifted(ids), training=False)) + np.array(writable(logits.shape[-1]))
        counted = ids != PAD
        gains = np.array(ops.log_softmax(forced))[np.arange(ROWS)[:, None], np.arange(ids.shape[1]), ids]
        largest = max(largest, require("sampler", "logit", difference(logits[counted], forced[counted])))
        expected = (gains * counted).sum(axis=1)
        require(
            "sampler",
            "log-probability",
            difference(log_probability / (1 + abs(expected)), expected / (1 + abs(expected))),
        )
        compared += int(counted.sum())
        if temperature == 0.0:
            reference = np.array(decode(model, z))
            equal = [same_choices(ids[row], reference[row], forced[row]) for row in range(ROWS)]
            if not all(equal):
                raise CheckFailed(
                    f"the sampler is not the model: greedy decoding differs in {equal.count(False)} of {ROWS} rows"
                )
        tokens = readable(ids, sampler)
        codes = model.encode(tokens)
        code = max(
            require("encoder", "code", difference(part, np.array(codes[name])))
            for part, name in zip(sampler.posterior_of_tokens(tokens), ("mean", "log_variance"), strict=True)
        )
    return {
        "rows": ROWS,
        "symbols": compared,
        "largest_logit_difference": largest,
        "largest_code_difference": code,
        "greedy_rows_equal": equal.count(True),
        "tolerance": TOLERANCE,
    }


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite where either is no number."""
    gap = np.abs(np.asarray(found, np.float64) - expected)
    return float(np.where(np.isfinite(gap), gap, np.inf).max(initial=0.0))


def require(endpoint: str, what: str, gap: float) -> float:
    """`gap`, if it is within the tolerance."""
    if gap > TOLERANCE:
        raise CheckFailed(
            f"the {endpoint} is not the model: a {what} differs by {gap:.2g}, at most {TOLERANCE:g} is allowed"
        )
    return gap


def watched(
    sampler_graph: bytes, z: np.ndarray, length: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (B, T), the logits (B, T, V) they were chosen from, and log-probabilities (B,); PAD and zeros behind an early end."""
    graph = with_logits(onnx.load_from_string(sampler_graph)).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    choices = {"seed": 0, "first_row": 0, "temperature": temperature, "top_k": 0, "top_p": 1.0, "max_length": length}
    kinds = {"temperature": np.float32, "top_p": np.float32}
    inputs = {name: np.array(value, kinds.get(name, np.int64)) for name, value in choices.items()}
    ids, logits, log_probability = session.run(["ids", LOGITS, "log_probability"], {"z": z, **inputs})
    missing = length - ids.shape[1]
    padded = np.pad(logits.transpose(1, 0, 2), ((0, 0), (0, missing), (0, 0)))
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=PAD), padded, log_probability


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
