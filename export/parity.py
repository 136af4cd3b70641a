"""Is the exported graph the model? Keras and the bundle side by side, on the very bytes that are
shipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from keras import ops

from kvae.decoding import decode, writable
from kvae.model import TextVAE
from kvae.parts import shifted
from kvae.serving.alphabet import END, PAD
from kvae.serving.bundle import Bundle, checked_graph
from kvae.serving.errors import CheckFailed
from kvae.serving.random_numbers import normals
from kvae.serving.sampler import Sampler, choices
from kvae.tensors import Tensor

from .graphs import LOGITS

TOLERANCE = 1e-4
"""Largest difference of a logit or a code between Keras and the bundle."""

ROWS = 200
"""Codes of the test grid that are drawn from the prior at seed 0, and at most as many encodings of
held-out texts."""

STREAMED_ROWS = 20
"""Rows that are also decoded step by step."""

ROWS_PER_RUN = 100
"""Rows whose states at all positions are held in memory."""

TEMPERATURES = (0.0, 1.0)
"""The grid is decoded greedily and by drawing, so that also texts which greedy decoding would end
early are compared."""


def compare(model: TextVAE, bundle: Bundle, held_out: np.ndarray | None = None) -> dict[str, Any]:
    """Run a bundle's graphs beside the Keras model on a grid of codes: the record that goes into
    the manifest.

    The codes are drawn from the prior and, where `held_out` tokens (n, T) are given, encoded from
    up to `ROWS` of them. Compared are the prior's codes (with Threefry and Box-Muller in numpy),
    every turn of the sampler's loop (with one of Keras from the same state), the log-probability of
    every text (with the teacher-forced pass of Keras on the same symbols), greedy text (with
    decoding in Keras), the step by step decoding of a stream, and the encoder and the scorer on the
    texts that came out and on those held out. Raises `CheckFailed` at the first that differs by
    more than `TOLERANCE` or is no number; greedy texts may part where two logits tie within the
    difference.
    """
    sampler = Sampler(bundle)
    z = sampler.draw_codes(ROWS, seed=0)
    noise = normals(0, np.arange(ROWS), model.parts.noise_size)
    checked_difference("prior", "code", largest_difference(z, np.array(model.codes(noise))))
    texts = np.zeros((0, model.model_config.length), np.int32)
    if held_out is not None and model.hierarchy.shapes:
        texts = np.asarray(held_out[:ROWS], np.int32)
        z = np.concatenate([z, np.array(model.encode(texts)["mean"])])
    graph = checked_graph(bundle, "sampler").read_bytes()
    samples = [compare_texts(model, graph, z, temperature) for temperature in TEMPERATURES]
    compare_steps(sampler, z[:STREAMED_ROWS])
    tokens = np.concatenate(
        [texts, *(as_encoder_input(sample["ids"], sampler) for sample in samples)]
    )
    codes = model.encode(tokens)
    code = (
        max(
            checked_difference("encoder", "code", largest_difference(part, np.array(codes[name])))
            for part, name in zip(
                sampler.posterior_of_tokens(tokens), ("mean", "log_variance"), strict=True
            )
        )
        if model.hierarchy.shapes
        else 0.0
    )
    return {
        "rows": len(z),
        "held_out_rows": len(texts),
        "symbols": sum(sample["symbols"] for sample in samples),
        "largest_logit_difference": max(sample["logit"] for sample in samples),
        "largest_turn_difference": max(sample["turn"] for sample in samples),
        "largest_code_difference": code,
        "largest_bound_difference": compare_bounds(model, sampler, tokens[:: len(TEMPERATURES)]),
        "greedy_rows_equal": samples[0]["equal"],
        "tolerance": TOLERANCE,
    }


def compare_texts(
    model: TextVAE, graph: bytes, z: np.ndarray, temperature: float
) -> dict[str, Any]:
    """The sampler on codes `z`: its turns, and its logits and log-probabilities against those of
    Keras for the same symbols."""
    length = model.model_config.length
    runs = [
        run_with_scans(graph, z[start : start + ROWS_PER_RUN], start, length, temperature)
        for start in range(0, len(z), ROWS_PER_RUN)
    ]
    turn = max(
        compare_turns(model, z[number * ROWS_PER_RUN :][:ROWS_PER_RUN], *run[:2], run[3])
        for number, run in enumerate(runs)
    )
    ids, logits, log_probability = (
        np.concatenate([run[part] for run in runs]) for part in range(3)
    )
    forced = np.array(model.head(model.expander(z, training=False), shifted(ids), training=False))
    forced += np.array(writable(forced.shape[-1]))
    counted = ids != PAD
    differences = np.where(counted, np.abs(logits - forced).max(axis=-1), 0.0).max(axis=0)
    log_probabilities = np.take_along_axis(
        np.array(ops.log_softmax(forced)), ids[..., None], axis=-1
    )[..., 0]
    checked_difference(
        "sampler",
        "log-probability",
        relative_difference(log_probability, (log_probabilities * counted).sum(axis=1)),
    )
    equal = len(z)
    if temperature == 0.0:
        reference = np.array(decode(model, z, min_length=0))
        equal = sum(
            greedy_rows_agree(ids[row], reference[row], forced[row], differences)
            for row in range(len(z))
        )
        if equal != len(z):
            raise CheckFailed(
                f"the sampler is not the model: greedy decoding differs in {len(z) - equal} of "
                f"{len(z)} rows"
            )
    return {
        "ids": ids,
        "turn": turn,
        "logit": float(differences.max()),
        "symbols": int(counted.sum()),
        "equal": equal,
    }


def compare_turns(
    model: TextVAE, z: np.ndarray, ids: np.ndarray, logits: np.ndarray, states: list[np.ndarray]
) -> float:
    """Every turn of the sampler's loop, from the state (T, B, ...) it was in, against one of Keras:
    logits and next state.

    Turn by turn, because a wide recurrence may multiply a rounding a thousandfold from the first
    position to the last, whatever computes it; within a turn nothing excuses a difference.
    """
    features = model.expander(z, training=False)
    projected, previous = np.array(model.head.project(features)), np.array(shifted(ids))
    expected: list[Tensor] = model.head.initial_state(features)
    logit_mask, largest = np.array(writable(logits.shape[-1])), 0.0
    for position in range(logits.shape[1]):
        active = ids[:, position] != PAD
        if not active.any():
            break
        here = [scan[position] for scan in states]
        for state, reference in zip(here, expected, strict=True):
            checked_difference(
                "sampler", "state", relative_difference(state[active], np.array(reference)[active])
            )
        reference, expected = model.head.step(projected[:, position], previous[:, position], here)
        difference = largest_difference(
            logits[active, position], (np.array(reference) + logit_mask)[active]
        )
        largest = max(largest, checked_difference("sampler", "logit", difference))
    return largest


def compare_steps(sampler: Sampler, z: np.ndarray) -> None:
    """The texts that `expand` and `step` write one symbol at a time, against the sampler's at the
    same place of randomness."""
    place = (np.full(len(z), 5), np.arange(len(z)))
    chosen = choices(sampler.manifest)
    together, _ = sampler.write_ids(z, *place, chosen)
    symbols = list(sampler.write_steps(z, *place, chosen))
    ids = np.stack(symbols, axis=1)
    for row, text in enumerate(together):
        end = np.flatnonzero(ids[row] == END)
        alone = ids[row, : end[0] + 1] if end.size else ids[row]
        if not np.array_equal(alone, text[text != PAD]):
            raise CheckFailed(
                f"step is not the sampler: row {row} is written otherwise symbol by symbol"
            )


def compare_bounds(model: TextVAE, sampler: Sampler, tokens: np.ndarray) -> float:
    """The scorer's two halves of the bound of tokens (n, T) against those of Keras with the same
    noise; the largest difference, as a share."""
    rows = np.arange(len(tokens))
    reconstruction, kl, _ = sampler.score_tokens(tokens, np.zeros_like(rows), rows)
    expected = model.bound(tokens, normals(0, rows, model.parts.noise_size))
    return max(
        checked_difference(
            "scorer",
            "reconstruction",
            relative_difference(reconstruction, np.array(expected["reconstruction"])),
        ),
        checked_difference("scorer", "KL", relative_difference(kl, np.array(expected["kl"]))),
    )


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of sums over a text, as a share of them."""
    return largest_difference(found / (1 + abs(expected)), expected / (1 + abs(expected)))


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite where either is no number."""
    difference = np.abs(np.asarray(found, np.float64) - expected)
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def checked_difference(endpoint: str, what: str, difference: float) -> float:
    """`gap`, if it is within the tolerance."""
    if difference > TOLERANCE:
        raise CheckFailed(
            f"the {endpoint} is not the model: a {what} differs by {difference:.2g}, at most "
            f"{TOLERANCE:g} is allowed"
        )
    return difference


def run_with_scans(
    graph: bytes, z: np.ndarray, first_row: int, length: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """What the sampler did: ids (B, T), the logits (B, T, V) they were chosen from,
    log-probabilities (B,), and each state (T, B, ...) before its turn; PAD and zeros behind an
    early end."""
    model = with_logits_and_states(onnx.load_from_string(graph))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    inputs = {
        "temperature": np.float32(temperature),
        "top_k": 0,
        "top_p": np.float32(1.0),
        "min_length": 0,
    }
    inputs |= {
        "z": z,
        "seed": np.zeros(len(z), np.int64),
        "row": first_row + np.arange(len(z)),
        "max_length": length,
    }
    ids, _, log_probability, logits, *states = session.run(
        None, {name: np.asarray(value) for name, value in inputs.items()}
    )
    padding = length - ids.shape[1]
    padded = np.pad(logits.transpose(1, 0, 2), ((0, 0), (0, padding), (0, 0)))
    return np.pad(ids, ((0, 0), (0, padding)), constant_values=PAD), padded, log_probability, states


def with_logits_and_states(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler with the loop's logits (time, batch, V) and states (time, batch, ...) as further
    outputs."""
    _, body = decoding_loop(model)
    states = [value.name for value in body.input if value.name.startswith("state_")]
    body.node.extend(
        onnx.helper.make_node("Identity", [name], [f"before_{name}"]) for name in states
    )
    return with_outputs(model, [LOGITS, *(f"before_{name}" for name in states)])


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler or the scorer with the loop's logits, (time, batch, V), as a further output."""
    return with_outputs(model, [LOGITS])


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A model whose loop gives out what its body calls so at every turn; all else stays as it
    is."""
    loop, body = decoding_loop(model)
    for name in names:
        declaration = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        body.output.append(declaration)
        loop.output.append(name)
        model.graph.output.append(declaration)
    return model


def decoding_loop(model: onnx.ModelProto) -> tuple[onnx.NodeProto, onnx.GraphProto]:
    """The loop over positions, and its body."""
    return next(
        (node, body)
        for node in model.graph.node
        for body in loop_bodies(node)
        if has_output(body, LOGITS)
    )


def loop_bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The body of a loop; of other nodes none."""
    return [
        attribute.g
        for attribute in node.attribute
        if node.op_type == "Loop" and attribute.name == "body"
    ]


def has_output(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a node of the graph gives this."""
    return any(name in node.output for node in graph.node)


def greedy_rows_agree(
    ids: np.ndarray, expected: np.ndarray, logits: np.ndarray, differences: np.ndarray
) -> bool:
    """Whether two greedy rows agree, or part where the reference logits (T, V) tie: within twice
    the tolerance, or twice the `gaps` (T,) that roundings have grown to there."""
    apart = np.flatnonzero(ids != expected)
    if not apart.size:
        return True
    position = apart[0]
    tie = abs(logits[position, ids[position]] - logits[position, expected[position]])
    return bool(tie <= 2 * max(TOLERANCE, differences[position]))


def as_encoder_input(ids: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Generated rows as the encoder reads them: in `lines` mode a text that fills the row gives its
    last place to END."""
    tokens = ids.astype(np.int32)
    if sampler.manifest["mode"] == "lines":
        tokens[:, -1] = np.where((tokens == END).any(axis=1), PAD, END)
    return tokens
