"""Is the exported graph the model? Keras and the bundle side by side, on the very bytes that are shipped."""

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

from .graphs import LOGITS

TOLERANCE = 1e-4
"""Largest difference of a logit or a code between Keras and the bundle."""

ROWS = 200
"""Codes of the test grid that are drawn from the prior at seed 0, and at most as many encodings of held-out texts."""

STREAMED = 20
"""Rows that are also decoded step by step."""

AT_ONCE = 100
"""Rows whose states at all positions are held in memory."""

TEMPERATURES = (0.0, 1.0)
"""The grid is decoded greedily and by drawing, so that also texts which greedy decoding would end early are compared."""


def compare(model: TextVAE, bundle: Bundle, held_out: np.ndarray | None = None) -> dict[str, Any]:
    """Run a bundle's graphs beside the Keras model on a grid of codes: the record that goes into the manifest.

    The codes are drawn from the prior and, where `held_out` tokens (n, T) are given, encoded from up to `ROWS` of them.
    Compared are the prior's codes (with Threefry and Box-Muller in numpy), every turn of the sampler's loop (with one of Keras
    from the same state), the log-probability of every text (with the teacher-forced pass of Keras on the same symbols),
    greedy text (with decoding in Keras), the step by step decoding of a stream, and the encoder and the scorer on the texts
    that came out and on those held out. Raises `CheckFailed` at the first that differs by more than `TOLERANCE` or is no
    number; greedy texts may part where two logits tie within the difference.
    """
    sampler = Sampler(bundle)
    z = sampler.draw_codes(ROWS, seed=0)
    noise = normals(0, np.arange(ROWS), model.parts.noise_size)
    require("prior", "code", difference(z, np.array(model.codes(noise))))
    texts = np.zeros((0, model.model_config.length), np.int32)
    if held_out is not None and model.hierarchy.shapes:
        texts = np.asarray(held_out[:ROWS], np.int32)
        z = np.concatenate([z, np.array(model.encode(texts)["mean"])])
    graph = checked_graph(bundle, "sampler").read_bytes()
    written = [compare_texts(model, graph, z, temperature) for temperature in TEMPERATURES]
    compare_steps(sampler, z[:STREAMED])
    tokens = np.concatenate([texts, *(readable(each["ids"], sampler) for each in written)])
    codes = model.encode(tokens)
    code = (
        max(
            require("encoder", "code", difference(part, np.array(codes[name])))
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
        "symbols": sum(each["symbols"] for each in written),
        "largest_logit_difference": max(each["logit"] for each in written),
        "largest_turn_difference": max(each["turn"] for each in written),
        "largest_code_difference": code,
        "largest_bound_difference": compare_bounds(model, sampler, tokens[:: len(TEMPERATURES)]),
        "greedy_rows_equal": written[0]["equal"],
        "tolerance": TOLERANCE,
    }


def compare_texts(
    model: TextVAE, graph: bytes, z: np.ndarray, temperature: float
) -> dict[str, Any]:
    """The sampler on codes `z`: its turns, and its logits and log-probabilities against those of Keras for the same symbols."""
    length = model.model_config.length
    runs = [
        watched(graph, z[start : start + AT_ONCE], start, length, temperature)
        for start in range(0, len(z), AT_ONCE)
    ]
    turn = max(
        compare_turns(model, z[number * AT_ONCE :][:AT_ONCE], *run[:2], run[3])
        for number, run in enumerate(runs)
    )
    ids, logits, log_probability = (
        np.concatenate([run[part] for run in runs]) for part in range(3)
    )
    forced = np.array(model.head(model.expander(z, training=False), shifted(ids), training=False))
    forced += np.array(writable(forced.shape[-1]))
    counted = ids != PAD
    gaps = np.where(counted, np.abs(logits - forced).max(axis=-1), 0.0).max(axis=0)
    gains = np.take_along_axis(np.array(ops.log_softmax(forced)), ids[..., None], axis=-1)[..., 0]
    require("sampler", "log-probability", share(log_probability, (gains * counted).sum(axis=1)))
    equal = len(z)
    if temperature == 0.0:
        reference = np.array(decode(model, z, min_length=0))
        equal = sum(
            same_choices(ids[row], reference[row], forced[row], gaps) for row in range(len(z))
        )
        if equal != len(z):
            raise CheckFailed(
                f"the sampler is not the model: greedy decoding differs in {len(z) - equal} of {len(z)} rows"
            )
    return {
        "ids": ids,
        "turn": turn,
        "logit": float(gaps.max()),
        "symbols": int(counted.sum()),
        "equal": equal,
    }


def compare_turns(
    model: TextVAE, z: np.ndarray, ids: np.ndarray, logits: np.ndarray, states: list[np.ndarray]
) -> float:
    """Every turn of the sampler's loop, from the state (T, B, ...) it was in, against one of Keras: logits and next state.

    Turn by turn, because a wide recurrence may multiply a rounding a thousandfold from the first position to the last,
    whatever computes it; within a turn nothing excuses a difference.
    """
    features = model.expander(z, training=False)
    projected, previous = np.array(model.head.project(features)), np.array(shifted(ids))
    expected: list[Any] = model.head.initial_state(features)
    barrier, largest = np.array(writable(logits.shape[-1])), 0.0
    for position in range(logits.shape[1]):
        written = ids[:, position] != PAD
        if not written.any():
            break
        here = [state[position] for state in states]
        for found, wanted in zip(here, expected, strict=True):
            require("sampler", "state", share(found[written], np.array(wanted)[written]))
        wanted, expected = model.head.step(projected[:, position], previous[:, position], here)
        gap = difference(logits[written, position], (np.array(wanted) + barrier)[written])
        largest = max(largest, require("sampler", "logit", gap))
    return largest


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
            raise CheckFailed(
                f"step is not the sampler: row {row} is written otherwise symbol by symbol"
            )


def compare_bounds(model: TextVAE, sampler: Sampler, tokens: np.ndarray) -> float:
    """The scorer's two halves of the bound of tokens (n, T) against those of Keras with the same noise; the largest
    difference, as a share."""
    rows = np.arange(len(tokens))
    reconstruction, kl, _ = sampler.score_tokens(tokens, np.zeros_like(rows), rows)
    expected = model.bound(tokens, normals(0, rows, model.parts.noise_size))
    return max(
        require(
            "scorer", "reconstruction", share(reconstruction, np.array(expected["reconstruction"]))
        ),
        require("scorer", "KL", share(kl, np.array(expected["kl"]))),
    )


def share(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of sums over a text, as a share of them."""
    return difference(found / (1 + abs(expected)), expected / (1 + abs(expected)))


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
    graph: bytes, z: np.ndarray, first_row: int, length: int, temperature: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """What the sampler did: ids (B, T), the logits (B, T, V) they were chosen from, log-probabilities (B,), and each state
    (T, B, ...) before its turn; PAD and zeros behind an early end."""
    watching = with_scans(onnx.load_from_string(graph))
    session = onnxruntime.InferenceSession(
        watching.SerializeToString(), providers=["CPUExecutionProvider"]
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
    missing = length - ids.shape[1]
    padded = np.pad(logits.transpose(1, 0, 2), ((0, 0), (0, missing), (0, 0)))
    return np.pad(ids, ((0, 0), (0, missing)), constant_values=PAD), padded, log_probability, states


def with_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler with the loop's logits (time, batch, V) and states (time, batch, ...) as further outputs."""
    _, body = watched_loop(model)
    states = [value.name for value in body.input if value.name.startswith("state_")]
    body.node.extend(
        onnx.helper.make_node("Identity", [name], [f"before_{name}"]) for name in states
    )
    return with_outputs(model, [LOGITS, *(f"before_{name}" for name in states)])


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """The sampler or the scorer with the loop's logits, (time, batch, V), as a further output."""
    return with_outputs(model, [LOGITS])


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A model whose loop gives out what its body calls so at every turn; all else stays as it is."""
    loop, body = watched_loop(model)
    for name in names:
        declaration = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        body.output.append(declaration)
        loop.output.append(name)
        model.graph.output.append(declaration)
    return model


def watched_loop(model: onnx.ModelProto) -> tuple[onnx.NodeProto, onnx.GraphProto]:
    """The loop over positions, and its body."""
    return next(
        (node, body) for node in model.graph.node for body in bodies(node) if makes(body, LOGITS)
    )


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The body of a loop; of other nodes none."""
    return [
        attribute.g
        for attribute in node.attribute
        if node.op_type == "Loop" and attribute.name == "body"
    ]


def makes(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a node of the graph gives this."""
    return any(name in node.output for node in graph.node)


def same_choices(
    ids: np.ndarray, expected: np.ndarray, logits: np.ndarray, gaps: np.ndarray
) -> bool:
    """Whether two greedy rows agree, or part where the reference logits (T, V) tie: within twice the tolerance, or twice the
    `gaps` (T,) that roundings have grown to there."""
    apart = np.flatnonzero(ids != expected)
    if not apart.size:
        return True
    position = apart[0]
    tie = abs(logits[position, ids[position]] - logits[position, expected[position]])
    return bool(tie <= 2 * max(TOLERANCE, gaps[position]))


def readable(ids: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Generated rows as the encoder reads them: in `lines` mode a text that fills the row gives its last place to END."""
    tokens = ids.astype(np.int32)
    if sampler.manifest["mode"] == "lines":
        tokens[:, -1] = np.where((tokens == END).any(axis=1), PAD, END)
    return tokens
