"""Text to symbol ids and back: the one place where the special ids and the vocabulary rules stand.

Ids 0 to 3 are special, the symbols of the alphabet follow from 4 on. A row of `tokens` is the text, one END, then PAD up
to the model's length; a window cut from a stream is text alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import BundleError, DataError

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")
NEVER_WRITTEN = (PAD, START, UNKNOWN)
"""Ids a decoder may not choose; the probability of the others is renormalised."""

REPLACEMENT = "�"
"""How an unknown symbol is shown when ids become text."""


@dataclass(frozen=True)
class Alphabet:
    """The distinct characters (Unicode code points) a model knows, in the order of their ids."""

    symbols: tuple[str, ...]

    @classmethod
    def build(cls, texts: Iterable[str], max_symbols: int | None = None) -> Alphabet:
        """The `max_symbols` commonest characters of `texts` (all of them by default), sorted by code point."""
        return cls.from_counts(count_symbols(texts), max_symbols)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], max_symbols: int | None = None) -> Alphabet:
        """The alphabet of a table of character counts; ties at the cut go to the lower code point."""
        commonest = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:max_symbols]
        return cls(tuple(sorted(commonest)))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Alphabet:
        """Read what `to_dict` wrote; raises `BundleError` when it is something else."""
        if data.get("tokenizer") != "char" or list(data.get("specials", ())) != list(SPECIALS):
            raise BundleError(
                f"vocabulary: this kvae reads tokenizer 'char', got {data.get('tokenizer')!r}; update kvae"
            )
        return cls(tuple(data["symbols"]))

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary for JSON."""
        return {"tokenizer": "char", "specials": list(SPECIALS), "symbols": list(self.symbols)}

    def __len__(self) -> int:
        """V: the number of ids, the special ones included."""
        return len(SPECIALS) + len(self.symbols)

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=len(SPECIALS))}

    @cached_property
    def _text_of(self) -> tuple[str, ...]:
        return ("", "", "", REPLACEMENT, *self.symbols)

    def ids(self, text: str) -> list[int]:
        """One id a character, UNKNOWN for those outside the alphabet. No END."""
        return [self._id_of.get(symbol, UNKNOWN) for symbol in text]

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """The characters of `texts` that the alphabet lacks, with their counts."""
        return Counter({symbol: n for symbol, n in count_symbols(texts).items() if symbol not in self._id_of})

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Texts as rows of ids: `(len(texts), length)` int32, each text followed by END and PAD.

        A text may have at most `length - 1` characters: raises `DataError` otherwise, never cuts.
        """
        tokens = np.full((len(texts), length), PAD, np.int32)
        for row, text in enumerate(texts):
            if len(text) >= length:
                raise DataError(
                    f"text {row} has {len(text)} characters, the model takes at most {length - 1}: {text[:40]!r}...; shorten it"
                )
            tokens[row, : len(text)] = self.ids(text)
            tokens[row, len(text)] = END
        return tokens

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Rows of ids `(B, T)` as texts; a row ends before its first END or PAD."""
        return [self._text(row) for row in np.asarray(tokens).tolist()]

    def _text(self, row: list[int]) -> str:
        stops = [row.index(mark) for mark in (END, PAD) if mark in row]
        return "".join(self._text_of[number] for number in row[: min(stops, default=len(row))])


def count_symbols(texts: Iterable[str]) -> Counter[str]:
    """How often each character occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    return counts


def one_line(text: str) -> str:
    """A text with line breaks, tabs and whatever else a terminal would act on written out."""
    return "".join(symbol if symbol.isprintable() else symbol.encode("unicode_escape").decode() for symbol in text)
