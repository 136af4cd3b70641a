"""Blocks of texts as tokens: counting them and encoding them as ids.

Characters and bytes lie in arrays and words in lists. The pieces of a given vocabulary have ids
from the start.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, Protocol

import numpy as np

from kvae.serving.alphabet import UNKNOWN, Alphabet

from .columns import id_type, parts_of

MOST_WORDS = 2_000_000
"""Different words that are counted. When there are more, words that occurred once so far are
dropped."""

CODE_POINTS = 0x110000
"""Number of Unicode code points."""

LITTLE_USED = 0.9
"""If less than this share of the tokens of a block is used, only those are encoded."""


class Block(Protocol):
    """A block of N texts as tokens."""

    lengths: np.ndarray
    """Tokens of each text, (N,)."""

    def cut(self, most: int) -> np.ndarray:
        """How many tokens of each text are left when it is cut to `most`, (N,)."""

    def count(self, limits: np.ndarray, counter: TokenCounter) -> None:
        """Count the first `limits` (N,) tokens of each text."""

    def encode(self, limits: np.ndarray, encode: Encoder) -> tuple[np.ndarray, np.ndarray]:
        """Ids, and where the first `limits` (N,) tokens of each text begin among them, (N,)."""


class TokenCounter(Protocol):
    """How often each symbol occurs."""

    def add(self, tokens: Any, times: int = 1) -> None:
        """Count tokens, or take them back if `times` is -1."""

    def counts(self) -> Counter[str]:
        """Occurrences by symbol."""


Encoder = Callable[[Any], np.ndarray]
"""A function from the tokens of a block to their ids."""


class PointBlock:
    """A `Block` of characters or bytes: code points or bytes in one array.

    One separator follows each text, so that a whole block is encoded at once.
    """

    def __init__(self, texts: Sequence[str], alphabet: Alphabet) -> None:
        self.is_bytes = alphabet.tokenizer == "byte"
        parts: Sequence[str | bytes] = texts
        if self.is_bytes and not all(map(str.isascii, texts)):
            parts = [text.encode() for text in texts]
        self.points = points_of(parts)
        self.lengths = np.fromiter(map(len, parts), np.int64, len(parts))
        self.starts = np.cumsum(self.lengths + 1) - self.lengths - 1

    def cut(self, most: int) -> np.ndarray:
        """As `Block` says. A cut at bytes does not cut a character in two."""
        limits = np.minimum(self.lengths, most)
        if self.is_bytes:
            for text in np.flatnonzero(self.lengths > most):
                while limits[text] and self.points[self.starts[text] + limits[text]] & 0xC0 == 0x80:
                    limits[text] -= 1
        return limits

    def count(self, limits: np.ndarray, counter: TokenCounter) -> None:
        """As `Block` says."""
        if not len(self.points) or 2 * limits.sum() < self.lengths.sum():
            counter.add(parts_of(self.points, self.starts, limits))
            return
        rests = self.lengths - limits
        cut = np.flatnonzero(rests)
        counter.add(self.points)
        counter.add(parts_of(self.points, self.starts[cut] + limits[cut], rests[cut]), -1)
        counter.add(np.full(len(limits), ord("\n"), np.uint8), -1)

    def encode(self, limits: np.ndarray, encode: Encoder) -> tuple[np.ndarray, np.ndarray]:
        """As `Block` says."""
        if limits.sum() < LITTLE_USED * self.lengths.sum():
            return encode(parts_of(self.points, self.starts, limits)), np.cumsum(limits) - limits
        return encode(self.points), self.starts


def points_of(parts: Sequence[str | bytes]) -> np.ndarray:
    """The code points or bytes of texts, each followed by a line break, uint8 or uint32."""
    if parts and isinstance(parts[0], bytes):
        return np.frombuffer(b"\n".join([*parts, b""]), np.uint8)  # type: ignore[list-item]
    text = "\n".join([*parts, ""])  # type: ignore[list-item]
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.dtype("<u4"))


class UnitBlock:
    """A `Block` of words, or of other units that are symbols themselves: a list for each text."""

    def __init__(self, texts: Sequence[str], alphabet: Alphabet) -> None:
        self.units: list[Sequence[Any]] = list(map(alphabet.rules.units, texts))
        self.lengths = np.fromiter(map(len, self.units), np.int64, len(self.units))

    def cut(self, most: int) -> np.ndarray:
        """As `Block` says."""
        return np.minimum(self.lengths, most)

    def first(self, limits: np.ndarray) -> Iterable[Any]:
        """The first `limits` units of each text, concatenated."""
        return chain.from_iterable(
            units[:limit] for units, limit in zip(self.units, limits.tolist(), strict=True)
        )

    def count(self, limits: np.ndarray, counter: TokenCounter) -> None:
        """As `Block` says."""
        counter.add(self.first(limits))

    def encode(self, limits: np.ndarray, encode: Encoder) -> tuple[np.ndarray, np.ndarray]:
        """As `Block` says."""
        return encode(self.first(limits)), np.cumsum(limits) - limits


class PieceBlock(UnitBlock):
    """A `Block` of the pieces that a vocabulary splits the units of a text into, as ids."""

    def __init__(self, texts: Sequence[str], alphabet: Alphabet) -> None:
        self.texts, self.alphabet = texts, alphabet
        self.units = list(map(alphabet.ids, texts))
        self.lengths = np.fromiter(map(len, self.units), np.int64, len(self.units))

    def cut(self, most: int) -> np.ndarray:
        """As `Block` says. A cut leaves whole units, so the text that is left is split again."""
        limits = self.lengths.copy()
        for text in np.flatnonzero(self.lengths > most).tolist():
            self.units[text] = self.alphabet.ids(self.alphabet.cut(self.texts[text], most))
            limits[text] = len(self.units[text])
        return limits

    def count(self, limits: np.ndarray, counter: TokenCounter) -> None:
        """Count the units that the vocabulary lacks."""
        for text, limit in enumerate(limits.tolist()):
            if UNKNOWN in self.units[text][:limit]:
                counter.add(self.alphabet.unknown([self.alphabet.cut(self.texts[text], limit)]))


class PointCounter:
    """A `TokenCounter` of code points or bytes."""

    def __init__(self) -> None:
        self.table = np.zeros(1, np.int64)

    def add(self, tokens: np.ndarray, times: int = 1) -> None:
        """As `TokenCounter` says."""
        occurrences = times * np.bincount(tokens, minlength=len(self.table))
        occurrences[: len(self.table)] += self.table
        self.table = occurrences

    def counts(self) -> Counter[str]:
        """As `TokenCounter` says."""
        return Counter({chr(point): int(self.table[point]) for point in np.flatnonzero(self.table)})


class UnitCounter:
    """A `TokenCounter` of words and other units. It drops units that occurred once when it has more
    than `MOST_WORDS`."""

    def __init__(self) -> None:
        self.occurrences: Counter[str] = Counter()

    def add(self, tokens: Iterable[str], times: int = 1) -> None:
        """As `TokenCounter` says."""
        self.occurrences.update(tokens)
        if len(self.occurrences) > MOST_WORDS:
            self.occurrences = Counter(
                {unit: count for unit, count in self.occurrences.items() if count > 1}
            )

    def counts(self) -> Counter[str]:
        """As `TokenCounter` says."""
        return self.occurrences


def point_encoder(alphabet: Alphabet) -> Encoder:
    """The encoder of code points or bytes (n,)."""
    table = np.full(CODE_POINTS, UNKNOWN, id_type(alphabet))
    for number, symbol in enumerate(alphabet.symbols, len(alphabet) - len(alphabet.symbols)):
        table[ord(symbol)] = number
    return lambda points: table[points]


def unit_encoder(alphabet: Alphabet) -> Encoder:
    """The encoder of words and other units."""
    first = len(alphabet) - len(alphabet.symbols)
    ids = {symbol: number for number, symbol in enumerate(alphabet.symbols, first)}
    return lambda units: np.fromiter((ids.get(unit, UNKNOWN) for unit in units), id_type(alphabet))


def piece_encoder(alphabet: Alphabet) -> Encoder:
    """The encoder of pieces, which have ids already."""
    return lambda ids: np.fromiter(ids, id_type(alphabet))


Kind = tuple[
    Callable[[Sequence[str], Alphabet], Block],
    Callable[[], TokenCounter],
    Callable[[Alphabet], Encoder],
]

POINTS: Kind = (PointBlock, PointCounter, point_encoder)
UNITS: Kind = (UnitBlock, UnitCounter, unit_encoder)
PIECES: Kind = (PieceBlock, UnitCounter, piece_encoder)

KINDS: dict[str, Kind] = defaultdict(
    lambda: UNITS,  # registered tokenizers too
    {"char": POINTS, "byte": POINTS, "wordpiece": PIECES, "bpe": PIECES},
)
"""By tokenizer: a block from its texts, a new counter, and the encoder of an alphabet."""
