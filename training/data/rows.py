"""The second pass over a corpus: rows of ids, in columns that lie in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import END, PAD, Alphabet

from ..messages import Say
from .blocks import KINDS
from .columns import Column, Columns, MemoryColumn, id_type
from .labels import attribute_ids, visible_labels
from .sources import Source
from .splits import Split
from .survey import TRAINING, is_used, numbered, used_tokens

ROWS_AT_ONCE = 2**14
"""Rows that are padded at once."""

PARTS_IN_MEMORY = 2**26
"""Bytes of `parts` up to which they are kept in memory: one reading from disk less for each row."""

PART = np.dtype([("start", np.int64), ("length", np.int32)])
"""Where the tokens of a text lie in the column of tokens."""


class Rows:
    """Texts as rows of ids, (N, T): the tokens of a text, END if `has_end`, and padding.

    `parts` (N,) of type `PART` say where the tokens of each text lie in `tokens`.
    """

    def __init__(self, tokens: Column, parts: Column, length: int, has_end: bool = True) -> None:
        self.tokens, self.parts, self.row_length, self.has_end = tokens, parts, length, has_end

    @classmethod
    def of(cls, rows: np.ndarray) -> Rows:
        """Rows in memory, from an array (N, T)."""
        tokens, parts = MemoryColumn(rows.dtype), MemoryColumn(PART)
        tokens.append(np.ravel(rows))
        bounds = np.zeros(len(rows), PART)
        bounds["start"] = np.arange(len(rows)) * rows.shape[1]
        bounds["length"] = np.sum(rows != PAD, axis=1)
        parts.append(bounds)
        return cls(tokens, parts, rows.shape[1], has_end=False)

    def __len__(self) -> int:
        return len(self.parts)

    def lengths(self) -> np.ndarray:
        """Number of ids of each row without padding, (N,)."""
        lengths: np.ndarray = self.parts.read(0, len(self))["length"] + self.has_end
        return lengths

    def numbers(self) -> np.ndarray:
        """All rows, (N, T), of the type of the tokens."""
        rows = np.empty((len(self), self.row_length), self.tokens.kind)
        for start in range(0, len(self), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            part[:] = self.take(np.arange(start, start + len(part)))
        return rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows at the indices (B,), as (B, T) int32."""
        parts = self.parts.read_parts(indices, np.ones(len(indices), np.int64))
        lengths = parts["length"]
        rows = np.full((len(indices), self.row_length), PAD, np.int32)
        rows[np.arange(self.row_length) < lengths[:, None]] = self.tokens.read_parts(
            parts["start"], lengths
        )
        if self.has_end:
            rows[np.arange(len(rows)), lengths] = END
        return rows


class Stream:
    """A stream of ids, (tokens,)."""

    def __init__(self, tokens: Column) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def numbers(self) -> np.ndarray:
        """All ids, (tokens,)."""
        return self.tokens.read(0, len(self.tokens))

    def take(self, starts: np.ndarray, length: int) -> np.ndarray:
        """The windows of `length` ids from the indices `starts` (B,) on, as (B, T) int32."""
        windows = self.tokens.read_parts(starts, np.full(len(starts), length))
        return windows.reshape(-1, length).astype(np.int32)


class Texts(Sequence[str]):
    """The texts of rows, decoded one by one on access.

    An unknown symbol is shown as the mark for unknown symbols.
    """

    def __init__(self, rows: Rows, alphabet: Alphabet) -> None:
        self.rows, self.alphabet = rows, alphabet

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.alphabet.decode(self.rows.take(np.array([range(len(self))[index]])))[0]


def write_rows(
    config: Config,
    alphabet: Alphabet,
    source: Source,
    columns: Columns,
    label_split: Split | None,
    say: Say,
) -> None:
    """Write the tokens of the training texts to the columns `tokens` and `parts`, and their labels
    to `attribute`.

    `label_split` has the texts that may show their label; None: all may.
    """
    make_block, _, make_encoder = KINDS[alphabet.tokenizer]
    kinds, tokens = columns.column("kinds", np.uint8), columns.column("tokens", id_type(alphabet))
    parts, attribute = columns.column("parts", PART), columns.column("attribute", np.int8)
    encode, offset = make_encoder(alphabet), 0
    for number, records in numbered(source, say):
        block = make_block(records.texts, alphabet)
        is_training = kinds.read(number, len(records.texts)) == TRAINING
        used = is_used(config, block.lengths, is_training)
        limits = used_tokens(config, block.lengths, block.cut, is_training)
        ids, starts = block.encode(limits, encode)
        part = np.zeros(int(used.sum()), PART)
        part["start"], part["length"] = offset + starts[used], limits[used]
        parts.append(part)
        tokens.append(ids)
        offset += len(ids)
        if config.model.attributes:
            kept = records.where(used.tolist())
            values = attribute_ids(config, kept.labels or [])
            attribute.append(visible_labels(config.data, kept.texts, values, label_split))
    columns.remove("kinds")


def rows_in(config: Config, alphabet: Alphabet, columns: Columns) -> Rows:
    """The rows that `write_rows` wrote."""
    parts: Column = columns.column("parts", PART)
    if len(parts) * PART.itemsize <= PARTS_IN_MEMORY:
        parts, stored = MemoryColumn(PART), parts
        parts.append(stored.read(0, len(stored)))
    return Rows(
        columns.column("tokens", id_type(alphabet)),
        parts,
        config.model.length,
        config.data.reading.has_end,
    )


def attribute_in(config: Config, columns: Columns) -> np.ndarray | None:
    """The attribute indices that `write_rows` wrote, (N,); None for a model without attributes."""
    if not config.model.attributes:
        return None
    attribute = columns.column("attribute", np.int8)
    return attribute.read(0, len(attribute))
