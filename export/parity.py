"""Parity: comparison of Keras and an exported bundle, on the files that are shipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from keras import ops

from kvae.decoding import decode
from kvae.model import TextVAE
from kvae.parts import shifted
from kvae.serving.alphabet import END, PAD
from kvae.serving.bundle import Bundle, checked_graph
from kvae.serving.choices import choices
from kvae.serving.errors import CheckFailed
from kvae.serving.logit_masks import logit_mask
from kvae.serving.random_numbers import normals
from kvae.serving.runtime import session
from kvae.serving.sampler import Sampler
from kvae.tensors import Tensor

from .loops import BLOCK, LOGITS
from .simplify import bodies_of

TOLERANCE = 1e-4
"""Largest allowed difference of a logit or a code between Keras and the bundle."""

ROWS = 200
"""Number of codes sampled from the prior at seed 0, and largest number of codes of held-out
texts."""

STREAMED_ROWS = 20
"""Number of codes that are also decoded step by step."""

ROWS_PER_RUN = 100
"""Largest number of codes per run."""

STATE_BYTES, STATE_BYTES_PER_RUN = 2**31, 2**29
"""Largest size of the states at all positions that are compared at each temperature, and of those
that are in memory at a time. An LSTM of 1,000 units and 128 positions has 1 MB of them a text; the
keys and values of a Transformer grow with the square of the length."""

TEMPERATURES = (0.0, 1.0)
"""The codes are decoded greedily and by sampling, because greedy texts may end early."""


def compare(model: TextVAE, bundle: Bundle, held_out: np.ndarray | None = None) -> dict[str, Any]:
    """Compare the graphs of a bundle with the Keras model; return the record for the manifest.

    The codes are sampled from the prior and, if `held_out` tokens (n, T) are given, encoded from up
    to `ROWS` of them. The comparison covers

    - codes of the prior, with noise from Threefry and Box-Muller in numpy,
    - every step of the sampler's loop, with a step of Keras from the same state, for as many codes
      as `STATE_BYTES` allow,
    - the log-probability of every text, with the teacher-forced pass of Keras on the same tokens,
    - greedy texts, with decoding in Keras,
    - step by step decoding of a stream, with the sampler,
    - texts of the plain graphs, with the sampler,
    - encoder and scorer, on the sampled and the held-out texts.

    Raises `CheckFailed` at the first value that differs by more than `TOLERANCE` or is not finite.
    Greedy texts may differ where the difference of two logits is below the rounding error.
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
    compare_stream(sampler, z[:STREAMED_ROWS])
    if "sampler_plain" in bundle.manifest["endpoints"]:
        compare_plain(sampler, z)
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
    """Compare the sampler on codes `z` (n, d) with Keras: each step, and logits and
    log-probabilities for the same tokens. Raises `CheckFailed`."""
    length, turn = model.model_config.length, 0.0
    with_states, per_run = rows_with_states(model, z[:1])
    runs = []
    for rows, has_states in row_ranges(len(z), with_states, per_run):
        run, states = run_with_scans(graph, z, rows, length, temperature, has_states)
        if has_states:
            turn = max(turn, compare_loop_steps(model, z[rows], run[0], run[1], states))
        runs.append(run)
    ids, logits, log_probability = (np.concatenate(parts) for parts in zip(*runs, strict=True))
    forced = np.array(model.head(model.expander(z, training=False), shifted(ids), training=False))
    forced += logit_mask(forced.shape[-1])
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


def rows_with_states(model: TextVAE, z: np.ndarray) -> tuple[int, int]:
    """The numbers of codes whose states are compared, in all and in a run, at least one; `z` is one
    code (1, d)."""
    state = model.head.initial_state(model.expander(z, training=False))
    size = model.model_config.length * sum(np.array(part).nbytes for part in state)
    in_all, per_run = (
        max(1, limit // max(1, size)) for limit in (STATE_BYTES, STATE_BYTES_PER_RUN)
    )
    return in_all, min(per_run, ROWS_PER_RUN)


def row_ranges(rows: int, with_states: int, per_run: int) -> Iterator[tuple[slice, bool]]:
    """The rows of each run, and whether their states are compared: the first `with_states` of
    them."""
    start = 0
    while start < rows:
        has_states = start < with_states
        stop = min(start + per_run, with_states) if has_states else start + ROWS_PER_RUN
        yield slice(start, min(stop, rows)), has_states
        start = stop


def compare_loop_steps(
    model: TextVAE, z: np.ndarray, ids: np.ndarray, logits: np.ndarray, states: list[np.ndarray]
) -> float:
    """Compare every step of the sampler's loop with a step of Keras from the same state (T, B,
    ...): logits and next state. Returns the largest difference of a logit; raises `CheckFailed`
    above `TOLERANCE`.

    The comparison is per step because a wide recurrence can amplify a rounding error a thousandfold
    over a text. Within one step the results must agree.
    """
    features = model.expander(z, training=False)
    projected, previous = np.array(model.head.project(features)), np.array(shifted(ids))
    expected: list[Tensor] = model.head.initial_state(features)
    mask, largest = logit_mask(logits.shape[-1]), 0.0
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
            logits[active, position], (np.array(reference) + mask)[active]
        )
        largest = max(largest, checked_difference("sampler", "logit", difference))
    return largest


def compare_stream(sampler: Sampler, z: np.ndarray) -> None:
    """Compare texts of `expand` and `step`, one token at a time, with those of the sampler for the
    same seeds and rows. Raises `CheckFailed`."""
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
                f"the step is not the sampler: row {row} differs if sampled token by token"
            )


def compare_plain(sampler: Sampler, z: np.ndarray) -> None:
    """Compare texts of the graphs without random numbers with those of the sampler for the same
    codes, seeds and rows, greedy and sampled. Raises `CheckFailed`."""
    plain = Sampler(sampler.bundle, plain=True)
    place = (np.full(len(z), 5), np.arange(len(z)))
    for temperature in TEMPERATURES:
        chosen = choices(sampler.manifest, greedy=temperature == 0.0)
        expected, log_probability = sampler.write_ids(z, *place, chosen)
        found, its_log_probability = plain.write_ids(z, *place, chosen)
        if not np.array_equal(found, expected):
            raise CheckFailed("the plain sampler is not the sampler: a text differs")
        checked_difference(
            "plain sampler",
            "log-probability",
            relative_difference(its_log_probability, log_probability),
        )
    compare_stream(plain, z[:STREAMED_ROWS])


def compare_bounds(model: TextVAE, sampler: Sampler, tokens: np.ndarray) -> float:
    """Compare reconstruction and KL of the scorer with Keras, on tokens (n, T) and the same noise.
    Returns the largest relative difference; raises `CheckFailed` above `TOLERANCE`."""
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
    """The largest difference, relative to 1 + |expected|."""
    return largest_difference(found / (1 + abs(expected)), expected / (1 + abs(expected)))


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite if a value is not finite."""
    difference = np.abs(np.asarray(found, np.float64) - expected)
    return float(np.where(np.isfinite(difference), difference, np.inf).max(initial=0.0))


def checked_difference(endpoint: str, what: str, difference: float) -> float:
    """Return `difference` if it is at most `TOLERANCE`; otherwise raise `CheckFailed`."""
    if difference > TOLERANCE:
        raise CheckFailed(
            f"the {endpoint} is not the model: a {what} differs by {difference:.2g}, at most "
            f"{TOLERANCE:g} is allowed"
        )
    return difference


def run_with_scans(
    graph: bytes, z: np.ndarray, rows: slice, length: int, temperature: float, has_states: bool
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], list[np.ndarray]]:
    """Run the sampler on some rows of `z` and return ids (B, T), their logits (B, T, V) and
    log-probabilities (B,), and on request each state (T, B, ...) before the step. After an early
    end ids are PAD and logits 0."""
    model = with_logits_and_states(onnx.load_from_string(graph), length, has_states)
    numbers = np.arange(len(z))[rows]
    inputs = {"z": z[rows], "seed": np.zeros_like(numbers), "row": numbers}
    inputs |= choices({"length": length}, min_length=0) | {"temperature": np.float32(temperature)}
    ids, _, log_probability, *scans = session(model.SerializeToString()).run(
        None, {name: np.asarray(value) for name, value in inputs.items()}
    )
    logits, *states = (scan[0] for scan in scans)
    padding = length - ids.shape[1]
    padded = np.pad(logits.transpose(1, 0, 2), ((0, 0), (0, padding), (0, 0)))
    ids = np.pad(ids, ((0, 0), (0, padding)), constant_values=PAD)
    return (ids, padded, log_probability), states


def with_logits_and_states(
    model: onnx.ModelProto, length: int, has_states: bool
) -> onnx.ModelProto:
    """Let the sampler decode all `length` positions in one block, and add the logits (1, time,
    batch, V) and, on request, the states (1, time, batch, ...) before each step to its outputs."""
    (block,) = (item for item in model.graph.initializer if item.name == BLOCK)
    block.CopyFrom(onnx.numpy_helper.from_array(np.array(length, np.int64), BLOCK))
    _, body = decoding_loops(model.graph)[-1]
    states = [value.name for value in body.input if value.name.startswith("state_")]
    return with_outputs(model, [LOGITS, *(states if has_states else ())])


def with_logits(model: onnx.ModelProto) -> onnx.ModelProto:
    """Add the loop's logits (time, batch, V) to the outputs of the scorer."""
    return with_outputs(model, [LOGITS])


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Add tensors of the innermost decoding loop, one value per step, to the outputs of a model, in
    place."""
    loops = decoding_loops(model.graph)
    for name in names:
        seen = f"seen_{name}"
        loops[-1][1].node.append(onnx.helper.make_node("Identity", [name], [seen], seen))
        for depth, (loop, body) in reversed(list(enumerate(loops))):
            body.output.append(float_declaration(seen))
            seen = f"seen_{name}_{depth}" if depth else name
            loop.output.append(seen)
        model.graph.output.append(float_declaration(name))
    return model


def float_declaration(name: str) -> onnx.ValueInfoProto:
    """The declaration of a float tensor of any shape."""
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def decoding_loops(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, onnx.GraphProto]]:
    """The loop with the steps and its body, after the loops around it; empty without one."""
    for node in graph.node:
        for body in bodies_of(node) if node.op_type == "Loop" else ():
            inner = decoding_loops(body)
            if inner or has_output(body, LOGITS):
                return [(node, body), *inner]
    return []


def has_output(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a node of the graph has an output with this name."""
    return any(name in node.output for node in graph.node)


def greedy_rows_agree(
    ids: np.ndarray, expected: np.ndarray, logits: np.ndarray, differences: np.ndarray
) -> bool:
    """Whether two greedy rows (T,) agree, or first differ where the reference logits (T, V) of both
    tokens are equal within twice the tolerance or twice the largest logit difference (T,) at that
    position."""
    apart = np.flatnonzero(ids != expected)
    if not apart.size:
        return True
    position = apart[0]
    tie = abs(logits[position, ids[position]] - logits[position, expected[position]])
    return bool(tie <= 2 * max(TOLERANCE, differences[position]))


def as_encoder_input(ids: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Generated ids (n, T) as tokens for the encoder: in `lines` mode a text without END gets END
    at the last position."""
    tokens = ids.astype(np.int32)
    if sampler.manifest["mode"] == "lines":
        tokens[:, -1] = np.where((tokens == END).any(axis=1), PAD, END)
    return tokens
