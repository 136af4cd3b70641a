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
from kvae.serving.bundle import Bundle, read_graph
from kvae.serving.errors import CheckFailed
from kvae.serving.random_numbers import normals
from kvae.serving.sampler import Sampler, choices

from .graphs import LOGITS

TOLERANCE = 1e-4
"""Largest difference of a logit or a code between Keras and the bundle."""

ROUNDINGS = 10
"""A logit may also differ by so many times what one rounding of the code changes in Keras itself at that position: in a
wide recurrence that grows from position to position (1e-6 becomes 1e-3 in 128 steps of 1,000 untrained units), whatever
computes it. At the first positions it is far below `TOLERANCE`, and a graph that is not the model shows there."""

ROWS = 200
"""Codes of the test grid that are drawn from the prior at seed 0, and at most as many encodings of held-out texts."""

STREAMED = 20
"""Rows that are also decoded step by step."""

TEMPERATURES = (0.0, 1.0)
"""The grid is decoded greedily and by drawing, so that also texts which greedy decoding would end early are compared."""


def compare(model: TextVAE, bundle: Bundle, held_out: np.ndarray | None = None) -> dict[str, Any]:
    """Run a bundle's graphs beside the Keras model on a grid of codes: the record that goes into the manifest.

    The codes are drawn from the prior and, where `held_out` tokens (n, T) are given, encoded from up to `ROWS` of them.
    Compared are the prior's codes (with Threefry and Box-Muller in numpy), the logits of every step and the log-probability of
    every text (with the teacher-forced pass of Keras on the same symbols), greedy text (with decoding in Keras), the step
    by step decoding of a stream, and the encoder and the scorer on the texts that came out and on those held out. Raises
    `CheckFailed` at the first that differs by more than `TOLERANCE` (logits: or `ROUNDINGS`) or is no number; greedy symbols
    may differ where two logits tie within it.
    """
    sampler = Sampler(bundle)
    z = sampler.draw_codes(ROWS, seed=0)
    noise = normals(0, np.arange(ROWS), model.parts.noise_size)
    require("prior", "code", difference(z, np.array(model.codes(noise))))
    texts = np.zeros((0, model.model_config.length), np.int32)
    if held_out is not None and model.hierarchy.shapes:
        texts = np.asarray(held_out[:ROWS], np.int32)
        z = np.concatenate([z, np.array(model.encode(texts)["mean"])])
    written = [compare_texts(model, bundle, z, temperature) for temperature in TEMPERATURES]
    compare_steps(sampler, z[:STREAMED])
    tokens = np.concatenate([texts, *(readable(each["ids"], sampler) for each in written)])
    codes = model.encode(tokens)
    code = (
        max(
            require("encoder", "code", difference(part, np.array(codes[name])))
            for part, name in zip(sampler.posterior_of_tokens(tokens), ("mean", "log_variance"), strict=True)
        )
        if model.hierarchy.shapes
        else 0.0
    )
    return {
        "rows": len(z),
        "held_out_rows": len(texts),
        "symbols": sum(each["symbols"] for each in written),
        "largest_logit_difference": max(each["logit"] for each in written),
        "largest_logit_difference_of_one_rounding": max(each["own"] for each in written),
        "largest_code_difference": code,
        "largest_bound_difference": compare_bounds(model, sampler, tokens[:: len(TEMPERATURES)]),
        "greedy_rows_equal": written[0]["equal"],
        "tolerance": TOLERANCE,
    }


def compare_texts(model: TextVAE, bundle: Bundle, z: np.ndarray, temperature: float) -> dict[str, Any]:
    """The sampler on codes `z`, its logits and log-probabilities against those of Keras for the same symbols."""
    ids, logits, log_probability = watched(read_graph(bundle, "sampler"), z, model.model_config.length, temperature)
    forced, again = (forced_logits(model, codes, ids) for codes in (z, rounded_otherwise(z)))
    counted = ids != PAD
    gaps, own = (by_position(logits_there, forced, counted) for logits_there in (logits, again))
    allowed = tolerated(own)
    worst = int(np.argmax(gaps - allowed))
    require("sampler", "logit", gaps[worst], allowed[worst])
    gains, gains_again = (gains_of(forced_there, ids, counted) for forced_there in (forced, again))
    require("sampler", "log-probability", share(log_probability, gains), float(tolerated(share(gains_again, gains))))
    equal = len(z)
    if temperature == 0.0:
        reference = np.array(decode(model, z))
        equal = sum(same_choices(ids[row], reference[row], forced[row], allowed) for row in range(len(z)))
        if equal != len(z):
            raise CheckFailed(
                f"the sampler is not the model: greedy decoding differs in {len(z) - equal} of {len(z)} rows"
            )
    return {
        "ids": ids,
        "logit": float(gaps.max()),
        "own": float(own.max()),
        "symbols": int(counted.sum()),
        "equal": equal,
    }


def tolerated(own: Any) -> np.ndarray:
    """What a difference may be where one rounding makes one of `own`; a model of infinities and NaN has no excuse."""
    return np.maximum(TOLERANCE, np.where(np.isfinite(own), ROUNDINGS * np.asarray(own), 0.0))


def forced_logits(model: TextVAE, z: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Keras' logits (B, T, V) of codes behind the symbols before each position; what may not be written is out of reach."""
    features = model.expander(z, training=False)
    logits = np.array(model.head(features, shifted(ids), training=False))
    return logits + np.array(writable(logits.shape[-1]))


def rounded_otherwise(z: np.ndarray) -> np.ndarray:
    """Codes whose last bit fell the other way, up or down by chance."""
    up = np.random.default_rng(0).random(z.shape) < 0.5
    return np.nextafter(z, np.where(up, np.inf, -np.inf).astype(z.dtype))


def by_position(found: np.ndarray, expected: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The largest difference of logits (B, T, V) at each position (T,) of texts; infinite where one is no number."""
    gap = np.abs(found.astype(np.float64) - expected).max(axis=-1)
    return np.where(counted, np.where(np.isfinite(gap), gap, np.inf), 0.0).max(axis=0)


def gains_of(logits: np.ndarray, ids: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Log-probabilities (B,) of the symbols under logits (B, T, V), nats."""
    each = np.take_along_axis(np.array(ops.log_softmax(logits)), ids[..., None], axis=-1)[..., 0]
    return (each * counted).sum(axis=1)


def compare_steps(sampler: Sampler, z: np.ndarray) -> None:
    """The texts that `expand` and `step` write one symbol at a time, against the sampler's at the same place of randomness."""
    place = (np.full(len(z), 5), np.arange(len(z)))
    chosen = choices(sampler.manifest)
    together, _ = sampler.write_ids(z, *place, chosen)
    symbols = list(sampler.write_steps(z, *place, chosen))
    ids = np.stack(symbols, axis=1)
    for row, text in enumerate(together):
        end = np.flatnonzero(ids[row] == END)
        alone = ids[row, : end[0] + 1] if end.size else ids[row]
        if not np.array_equal(alone, text[text != PAD]):
            raise CheckFailed(f"step is not the sampler: row {row} is written otherwise symbol by symbol")


def compare_bounds(model: TextVAE, sampler: Sampler, tokens: np.ndarray) -> float:
    """The scorer's two halves of the bound of tokens (n, T) against those of Keras with the same noise; the largest
    difference, as a share."""
    rows = np.arange(len(tokens))
    reconstruction, kl, _ = sampler.score_tokens(tokens, np.zeros_like(rows), rows)
    expected = model.bound(tokens, normals(0, rows, model.parts.noise_size))
    return max(
        require("scorer", "reconstruction", share(reconstruction, np.array(expected["reconstruction"]))),
        require("scorer", "KL", share(kl, np.array(expected["kl"]))),
    )


def share(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of sums over a text, as a share of them."""
    return difference(found / (1 + abs(expected)), expected / (1 + abs(expected)))


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite where either is no number."""
    gap = np.abs(np.asarray(found, np.float64) - expected)
    return float(np.where(np.isfinite(gap), gap, np.inf).max(initial=0.0))


def require(endpoint: str, what: str, gap: float, allowed: float = TOLERANCE) -> float:
    """`gap`, if it is within what is allowed."""
    if not gap <= allowed:
        raise CheckFailed(
            f"the {endpoint} is not the model: a {what} differs by {gap:.2g}, at most {allowed:.2g} is allowed"
        )
    return gap


def watched(
    sampler_graph: bytes, z: np.ndarray, length: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids (B, T), the logits (B, T, V) they were chosen from, and log-probabilities (B,); PAD and zeros behind an early end."""
    graph = with_logits(onnx.load_from_string(sampler_graph)).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = {"temperature": np.float32(temperature), "top_k": 0, "top_p": np.float32(1.0), "min_length": 0}
    inputs |= {"z": z, "seed": np.zeros(len(z), np.int64), "row": np.arange(len(z)), "max_length": length}
    ids, logits, log_probability = session.run(
        ["ids", LOGITS, "log_probability"], {name: np.asarray(value) for name, value in inputs.items()}
    )
    missing = length - ids.shape[1]
    padded = np.pad(logits.transpose(1, 0, 2), ((0, 0), (0, missing), (0, 0)))
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=PAD), padded, log_probability


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler or the scorer with one output more: the loop's logits, (time, batch, V). All else stays as it is."""
    loop, body = next((node, body) for node in model.graph.node for body in bodies(node) if makes(body, LOGITS))
    body.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    loop.output.append(LOGITS)
    model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
    return model


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The body of a loop; of other nodes none."""
    return [attribute.g for attribute in node.attribute if node.op_type == "Loop" and attribute.name == "body"]


def makes(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a node of the graph gives this."""
    return any(name in node.output for node in graph.node)


def same_choices(ids: np.ndarray, expected: np.ndarray, logits: np.ndarray, allowed: np.ndarray) -> bool:
    """Whether two greedy rows agree, or part where the reference logits (T, V) tie within what is `allowed` (T,)."""
    apart = np.flatnonzero(ids != expected)
    if not apart.size:
        return True
    position = apart[0]
    return bool(abs(logits[position, ids[position]] - logits[position, expected[position]]) <= 2 * allowed[position])


def readable(ids: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Generated rows as the encoder reads them: in `lines` mode a text that fills the row gives its last place to END."""
    tokens = ids.astype(np.int32)
    if sampler.manifest["mode"] == "lines":
        tokens[:, -1] = np.where((tokens == END).any(axis=1), PAD, END)
    return tokens
