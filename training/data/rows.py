"""Rows of ids, made from columns that lie in memory or on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np

from kvae.serving.alphabet import END, PAD, Alphabet

from .columns import Column, MemoryColumn

PART = np.dtype([("start", np.int64), ("length", np.int32)])
"""Where the tokens of a text lie in the column of tokens."""


def id_type(alphabet: Alphabet) -> np.dtype:
    """The smallest integer type that can store every id of the vocabulary."""
    return np.min_scalar_type(len(alphabet) - 1)


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

    @classmethod
    def of(cls, ids: np.ndarray) -> Stream:
        """A stream in memory, from an array (tokens,)."""
        tokens = MemoryColumn(ids.dtype)
        tokens.append(ids)
        return cls(tokens)

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The windows at `positions` (B, T), as (B, T) int32.

        Each row of `positions` holds consecutive indices of the stream.
        """
        counts = np.full(len(positions), positions.shape[1])
        windows = self.tokens.read_parts(positions[:, 0], counts)
        return windows.reshape(positions.shape).astype(np.int32)


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
