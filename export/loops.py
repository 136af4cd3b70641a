"""The decoding loops in the graphs of a bundle.

The sampler has a loop over blocks of positions, and in it a loop over the positions of a block. A
block projects the features of its positions, and texts that have ended leave the batch behind it.
The scorer has one loop over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from kvae.serving.alphabet import END, PAD, START

from .choices import choose
from .converted_parts import SharedParts
from .nodes import Nodes, part, tensor

LOGITS = "logits"
"""Name of the logits of a step in the body of a loop; `kvae.export.parity` adds them to the
outputs."""

STEP_PREFIX = "step_"
"""Prefix of the names in the head's step."""

HIDDEN_STATE = "state_0"
"""Name of the first state in the head's step. For an LSTM or GRU this is the hidden state, with
values in [-1, 1]."""

BLOCK = "positions_of_a_block"
"""Name of the constant with the number of positions of a block."""

SMALLEST_BLOCK, BLOCKS_OF_A_TEXT = 4, 16
"""Smallest number of positions of a block, and largest number of blocks of a text. On average half
a block is computed in vain for a text that has ended."""

ROWS_WITHOUT_BLOCKS = 4
"""Batches of fewer rows are decoded in one block. Their features need little memory, and a step of
one row takes as long as a step of several, so removing rows that have ended would gain nothing."""


@dataclass(frozen=True)
class Decoder:
    """A head in a graph: the names of its features and its initial states."""

    shared: SharedParts
    features: str
    """(T, batch, C)."""
    states: Sequence[str]
    batch: str
    """The number of texts (1,)."""

    @classmethod
    def of(cls, shared: SharedParts, g: Nodes, code: str) -> Decoder:
        features, *states = g.inline(shared.expand, {"z": code}, "expand_")
        return cls(shared, features, states, g.Shape(code, start=0, end=1))

    def project(self, g: Nodes, features: str, rows: str = "") -> str:
        """Features (positions, n, C) -> projected (positions, n, P), with `rows` = n (1,). Without
        `rows` the positions are all T."""
        channels = self.shared.project.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        flat = g.Reshape(features, g.constant([-1, channels], np.int64))
        (projected,) = g.inline(self.shared.project, {"features": flat}, "project_", "pairs")
        length, width = self.shared.model.model_config.length, self.shared.width
        if not rows:
            return g.Reshape(projected, g.constant([length, -1, width], np.int64))
        positions, columns = (g.constant([size], np.int64) for size in (-1, width))
        return g.Reshape(projected, g.Concat(positions, rows, columns, axis=0))

    def step(self, g: Nodes, by_position: str, rows: str) -> tuple[str, list[str]]:
        """One step in the body of a loop: logits (n, V) at `position` of projected features
        (positions, n, P), given `previous` and the states, and the next states. `rows` is the name
        of n."""
        bindings = {
            "projected": g.Gather(by_position, "position", axis=0),
            "previous": "previous",
        }
        logits, *states = g.inline(
            self.shared.step,
            bindings | {name: name for name in self.shared.names},
            STEP_PREFIX,
            rows,
        )
        return logits, states

    def declared(self, rows: str, prefix: str = "") -> list[onnx.ValueInfoProto]:
        """The declarations of the states of n rows; `rows` is the name of n."""
        return [renamed(state, f"{prefix}{state.name}", rows) for state in self.shared.states]


Carried = tuple[onnx.ValueInfoProto, str]
"""What a loop carries: the declaration of an input of its body, and the name of the output."""


def loop_body(
    g: Nodes,
    name: str,
    turn: str,
    go_on: str,
    carried: Sequence[Carried],
    scans: Sequence[onnx.ValueInfoProto] = (),
) -> onnx.GraphProto:
    """The body of a loop from the nodes of `g`. It reads its number as `turn`, carries `carried`,
    and outputs `scans` for each turn."""
    inputs = [tensor(turn, "int64"), tensor(f"{turn}_goes_on", "bool")]
    outputs = [tensor(go_on, "bool"), *(renamed(before, after) for before, after in carried)]
    return g.body(name, [*inputs, *(before for before, _ in carried)], [*outputs, *scans])


def write_texts(g: Nodes, decoder: Decoder, masks: str, drawn: str) -> tuple[str, str]:
    """Ids and log-probabilities (batch, time) of the texts of a decoder, in blocks of positions.

    `masks` (T, V) are the logit masks of all positions and `drawn` (T, batch, 1) their uniform
    numbers.
    """
    batch, first = decoder.batch, g.constant(0, np.int64)
    few = g.Less(g.Gather(batch, first, axis=0), g.constant(ROWS_WITHOUT_BLOCKS, np.int64))
    size = block_size(decoder.shared.model.model_config.length)
    block = g.Where(few, "max_length", g.constant(size, np.int64, BLOCK))
    last = g.Sub(g.Add("max_length", block), g.constant(1, np.int64))
    columns = g.Concat(batch, g.constant([1], np.int64), axis=0)
    carried = [
        g.Range(first, g.Gather(batch, first, axis=0), g.constant(1, np.int64)),
        g.Expand(g.constant(START, np.int64), batch),
        g.Expand(g.constant(START, np.int64), columns),
        g.Expand(g.constant(0.0, np.float32), columns),
        *decoder.states,
    ]
    body = block_body(g, decoder, masks, drawn, block)
    _, _, ids, log_probabilities, *_ = g.Loop(
        g.Div(last, block), g.constant(True, bool), *carried, outputs=len(carried), body=body
    )
    one, end = g.constant([1], np.int64), g.constant([2**31 - 1], np.int64)
    cut = [g.Slice(columns, one, end, one) for columns in (ids, log_probabilities)]
    return cut[0], cut[1]


def block_size(length: int) -> int:
    """The number of positions of a block of a model whose texts have `length` positions."""
    return max(SMALLEST_BLOCK, -(-length // BLOCKS_OF_A_TEXT))


def block_body(
    outer: Nodes, decoder: Decoder, masks: str, drawn: str, block: str
) -> onnx.GraphProto:
    """A block of positions of the rows `live` (n,), which have not ended, and the rows that have
    not ended behind it.

    Columns of ids and of log-probabilities are added for all rows.
    """
    g = Nodes(outer)
    axes = [g.constant([axis], np.int64) for axis in (0, 1)]
    start = g.Mul("block", block)
    end, limit = g.Add(start, block), g.Unsqueeze("max_length", axes[0])
    bounds = g.Unsqueeze(start, axes[0]), g.Min(g.Unsqueeze(end, axes[0]), limit), axes[0]
    features, uniforms = (
        g.Gather(g.Slice(values, *bounds), "live", axis=1) for values in (decoder.features, drawn)
    )
    count, rows = g.Sub(g.Min(end, "max_length"), start), g.Shape("live")
    projected = decoder.project(g, features, rows)
    states = decoder.declared("live_rows", "block_")
    carried = ["block_previous", g.Expand(g.constant(True, bool), rows)]
    here = g.Slice(masks, *bounds)
    symbols = decoder.shared.model.model_config.vocabulary_size
    # Some runtimes merge the product and the sum that give the logits if they know this shape.
    g.shapes.append(tensor(here, "float", "positions", symbols))
    body = sampling_body(g, decoder, projected, here, uniforms)
    turns = g.Loop(
        count,
        g.constant(True, bool),
        *carried,
        *(state.name for state in states),
        outputs=len(carried) + len(states) + 2,
        body=body,
    )
    previous, sampling, *new_states, chosen, logits = turns
    log_probabilities = block_log_probabilities(g, logits, chosen, symbols)
    columns = as_columns(g, decoder.batch, chosen, log_probabilities, axes)
    kept = [g.Compress(values, sampling, axis=0) for values in ("live", previous, *new_states)]
    left = g.ReduceMax(g.Cast(sampling, to=TensorProto.INT64), keepdims=0)
    declared = [
        tensor("live", "int64", "live_rows"),
        tensor("block_previous", "int64", "live_rows"),
        tensor("ids_before", "int64", "batch", "time"),
        tensor("log_probabilities_before", "float", "batch", "time"),
        *states,
    ]
    after = [*kept[:2], *columns, *kept[2:]]
    go_on = g.Greater(left, g.constant(0, np.int64))
    return loop_body(g, "write_block", "block", go_on, list(zip(declared, after, strict=True)))


def as_columns(
    g: Nodes, batch: str, symbols: str, log_probabilities: str, axes: Sequence[str]
) -> tuple[str, str]:
    """Add a block's symbols and log-probabilities (positions, n) of the rows `live` to the columns
    before, as columns of all `batch` rows: 0, which is PAD, for rows that have ended."""
    shape = g.Concat(batch, g.Shape(symbols, start=0, end=1), axis=0)
    places = g.Unsqueeze("live", axes[1])
    found = []
    for values, before, kind in (
        (symbols, "ids_before", np.int64),
        (log_probabilities, "log_probabilities_before", np.float32),
    ):
        nothing = g.Expand(g.constant(PAD, kind), shape)
        full = g.ScatterND(nothing, places, g.Transpose(values, perm=[1, 0]))
        found.append(g.Concat(before, full, axis=1))
    return found[0], found[1]


def block_log_probabilities(g: Nodes, logits: str, symbols: str, size: int) -> str:
    """Log-probabilities (positions, n) of symbols given logits (positions, n, `size`), 0 for PAD.

    Some runtimes stack the logits of the steps as (positions * n, `size`).
    """
    every = g.constant([-1], np.int64)
    rows = g.Reshape(logits, g.constant([-1, size], np.int64))
    found = log_probability_of(g, rows, g.Reshape(symbols, every))
    return g.Where(
        g.Equal(symbols, g.constant(PAD, np.int64)),
        g.constant(0.0, np.float32),
        g.Reshape(found, g.Shape(symbols)),
    )


def sampling_body(
    outer: Nodes, decoder: Decoder, projected: str, masks: str, drawn: str
) -> onnx.GraphProto:
    """One step of sampling for the n rows of a block: the head's step, the choice of a token, and
    whether any row is still sampling.

    `projected` (positions, n, P), the logit masks `masks` (positions, V) and the uniform numbers
    `drawn` (positions, n, 1) are those of the block. Ids of ordinary tokens are greater than END,
    so `id > END` means "still sampling". A row that has ended goes on, and its symbols are PAD.
    """
    g, end = Nodes(outer), outer.constant(END, np.int64)
    logits, states = decoder.step(g, projected, "live_rows")
    here = [g.Gather(numbers, "position", axis=0) for numbers in (masks, drawn)]
    logits = g.named(g.Add(logits, here[0]), LOGITS)
    chosen = choose(g, logits, here[1])
    symbol = g.Where("sampling", chosen, g.constant(PAD, np.int64))
    carried = [
        (tensor("previous", "int64", "live_rows"), chosen),
        (tensor("sampling", "bool", "live_rows"), g.Greater(symbol, end)),
        *zip(decoder.declared("live_rows"), states, strict=True),
    ]
    symbols = decoder.shared.model.model_config.vocabulary_size
    scans = [
        tensor(symbol, "int64", "live_rows"),
        tensor(logits, "float", "live_rows", symbols),
    ]
    go_on = g.Greater(g.ReduceMax(symbol, keepdims=0), end)
    return loop_body(g, "write", "position", go_on, carried, scans)


def scoring_body(outer: Nodes, decoder: Decoder, projected: str, tokens: str) -> onnx.GraphProto:
    """One step of scoring: -log p of the token at the position in nats, 0 on padding.

    `projected` (T, batch, P) and `tokens` (T, batch) are those of all positions.
    """
    g = Nodes(outer)
    logits, states = decoder.step(g, projected, "batch")
    if decoder.shared.bias.any():
        logits = g.Add(logits, g.constant(decoder.shared.bias))
    symbol = g.Gather(tokens, "position", axis=0)
    nats = g.Neg(log_probability_of(g, g.named(logits, LOGITS), symbol))
    nats = g.Where(g.Equal(symbol, g.constant(PAD, np.int64)), g.constant(0.0, np.float32), nats)
    carried = [
        (tensor("previous", "int64", "batch"), symbol),
        *zip(decoder.declared("batch"), states, strict=True),
    ]
    go_on = g.Identity("position_goes_on")
    return loop_body(g, "read", "position", go_on, carried, [tensor(nats, "float", "batch")])


@part("log_probability")
def log_probability_of(g: Nodes, logits: str, symbols: str) -> str:
    """log softmax of logits (batch, V) at tokens (batch,), in nats: (batch,)."""
    column = g.constant([1], np.int64)
    of_symbols = g.GatherElements(
        g.LogSoftmax(logits, axis=1), g.Unsqueeze(symbols, column), axis=1
    )
    return g.Squeeze(of_symbols, column)


def renamed(
    declaration: onnx.ValueInfoProto, name: str, rows: str | None = None
) -> onnx.ValueInfoProto:
    """A copy of a declaration with another name, and with another name of its first axis."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(declaration)
    copy.name = name
    if rows is not None:
        copy.type.tensor_type.shape.dim[0].dim_param = rows
    return copy
