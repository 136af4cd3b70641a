"""Blocks of text as arrays of characters, bytes or words: how many a line has, how often each occurs, and their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from kvae.serving.alphabet import UNKNOWN, Alphabet

from .store import id_type

MOST_WORDS = 2_000_000
"""Different words that are counted at once; beyond it those seen once so far are forgotten."""

POINTS = 0x110000
"""Code points of Unicode."""


class PointBlock:
    """Lines as characters or bytes: an array of all, and how many each line has."""

    def __init__(self, text: str, tokenizer: str) -> None:
        self.bytes = tokenizer == "byte"
        raw = text.encode() if self.bytes else text.encode("utf-32-le")
        self.points = np.frombuffer(raw, np.uint8 if self.bytes else np.dtype("<u4"))
        ends = np.flatnonzero(self.points == ord("\n"))
        self.lengths = np.diff(ends, prepend=-1) - 1
        self.starts = ends - self.lengths

    def limits(self, learned: np.ndarray, room: int, too_long: str) -> np.ndarray:
        """How many tokens of each line are taken: none where it is not learned from or dropped."""
        limits = np.where(learned, np.minimum(self.lengths, 0 if too_long == "drop" else room), 0)
        limits = np.where(learned & (self.lengths <= room), self.lengths, limits)
        if self.bytes:  # a character is not cut in two
            for line in np.flatnonzero(learned & (self.lengths > limits) & (limits > 0)):
                while limits[line] and self.points[self.starts[line] + limits[line]] & 0xC0 == 0x80:
                    limits[line] -= 1
        return limits

    def chosen(self, limits: np.ndarray) -> np.ndarray:
        """The first `limits` of each line, one after the other."""
        if not len(self.points):
            return self.points
        within = np.arange(len(self.points), dtype=np.int32) - np.repeat(
            self.starts.astype(np.int32), self.lengths + 1
        )
        return self.points[within < np.repeat(limits.astype(np.int32), self.lengths + 1)]


class WordBlock:
    """Lines as lists of words."""

    def __init__(self, text: str, tokenizer: str) -> None:
        self.words = [line.split() for line in text.split("\n")[:-1]]
        self.lengths = np.array(list(map(len, self.words)), np.int64)

    def limits(self, learned: np.ndarray, room: int, too_long: str) -> np.ndarray:
        """How many tokens of each line are taken: none where it is not learned from or dropped."""
        most = np.where(self.lengths > room, 0 if too_long == "drop" else room, self.lengths)
        return np.where(learned, most, 0)

    def chosen(self, limits: np.ndarray) -> list[str]:
        """The first `limits` of each line, one after the other."""
        return [
            word
            for words, limit in zip(self.words, limits.tolist(), strict=True)
            for word in words[:limit]
        ]


BLOCKS: dict[str, Any] = {"char": PointBlock, "byte": PointBlock, "word": WordBlock}


class PointCounter:
    """How often each code point or byte occurs."""

    def __init__(self) -> None:
        self.table = np.zeros(POINTS, np.int64)

    def add(self, points: np.ndarray) -> None:
        found = np.bincount(points)
        self.table[: len(found)] += found

    def counts(self) -> Counter[str]:
        return Counter({chr(point): int(self.table[point]) for point in np.flatnonzero(self.table)})


class WordCounter:
    """How often each word occurs; of very many, the rarest are forgotten now and then."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()

    def add(self, words: list[str]) -> None:
        self.found.update(words)
        if len(self.found) > MOST_WORDS:
            self.found = Counter({word: count for word, count in self.found.items() if count > 1})

    def counts(self) -> Counter[str]:
        return self.found


COUNTERS: dict[str, Any] = {"char": PointCounter, "byte": PointCounter, "word": WordCounter}


def point_encoder(alphabet: Alphabet) -> Callable[[np.ndarray], np.ndarray]:
    """From code points or bytes to ids."""
    table = np.full(POINTS, UNKNOWN, id_type(alphabet))
    for symbol in alphabet.symbols:
        table[ord(symbol)] = (
            alphabet.ids(symbol)[0] if alphabet.tokenizer == "char" else 4 + ord(symbol)
        )
    return lambda points: table[points]


def word_encoder(alphabet: Alphabet) -> Callable[[list[str]], np.ndarray]:
    """From words to ids."""
    ids = {word: alphabet.ids(word)[0] for word in alphabet.symbols}
    return lambda words: np.fromiter(
        (ids.get(word, UNKNOWN) for word in words), id_type(alphabet), len(words)
    )


ENCODERS: dict[str, Any] = {"char": point_encoder, "byte": point_encoder, "word": word_encoder}


def units_of(text: str, tokenizer: str) -> Any:
    """The characters, bytes or words of a piece of a stream, as its counter and encoder take them."""
    if tokenizer == "word":
        return Alphabet((), "word").rules.units(text)
    raw = text.encode() if tokenizer == "byte" else text.encode("utf-32-le")
    return np.frombuffer(raw, np.uint8 if tokenizer == "byte" else np.dtype("<u4"))
