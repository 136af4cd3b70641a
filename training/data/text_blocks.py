"""Text in blocks: reading files in blocks of lines or pieces of a stream; counting tokens and
encoding them as ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np

from kvae.serving.alphabet import UNKNOWN, Alphabet
from kvae.serving.errors import DataError
from kvae.texts.files import pieces_of

from .rules import next_whitespace
from .store import id_type

LONGEST_LINE = 2**24
"""Largest number of characters in a line. A whole line must fit into memory."""

MOST_WORDS = 2_000_000
"""Different words that are counted. When there are more, words that occurred once so far are
dropped."""

CODE_POINTS = 0x110000
"""Number of Unicode code points."""

Units: TypeAlias = Any
"""Tokens of a text before they have ids: code points (n,) uint32 or bytes (n,) uint8 as an array,
or words as a list.

A block, its counter and its encoder take the same one of these.
"""


class Block(Protocol):
    """A block of whole lines, each ended by a line break."""

    lengths: np.ndarray
    """Tokens of each line, (lines,)."""

    def limits(self, is_training: np.ndarray, most: int, too_long: str) -> np.ndarray:
        """How many tokens of each line are used, (lines,).

        0 for lines that are not for training, (lines,) bool, or that have more than `most` tokens
        if `too_long` is `drop`.
        """

    def first_tokens(self, limits: np.ndarray) -> Units:
        """The first `limits` tokens of each line, concatenated."""


class TokenCounter(Protocol):
    """How often each token occurs."""

    def add(self, units: Units) -> None:
        """Count tokens."""

    def counts(self) -> Counter[str]:
        """Occurrences by symbol."""


class CodePointBlock:
    """A `Block` of code points or bytes, kept in one array."""

    def __init__(self, text: str, tokenizer: str) -> None:
        self.bytes = tokenizer == "byte"
        self.points: np.ndarray = units_of(text, tokenizer)
        ends = np.flatnonzero(self.points == ord("\n"))
        self.lengths = np.diff(ends, prepend=-1) - 1
        self.starts = ends - self.lengths

    def limits(self, is_training: np.ndarray, most: int, too_long: str) -> np.ndarray:
        """As `Block` says. A cut at bytes does not cut a character in two."""
        limits = np.where(
            is_training, np.minimum(self.lengths, 0 if too_long == "drop" else most), 0
        )
        limits = np.where(is_training & (self.lengths <= most), self.lengths, limits)
        if self.bytes:
            for line in np.flatnonzero(is_training & (self.lengths > limits) & (limits > 0)):
                while limits[line] and self.points[self.starts[line] + limits[line]] & 0xC0 == 0x80:
                    limits[line] -= 1
        return limits

    def first_tokens(self, limits: np.ndarray) -> np.ndarray:
        """As `Block` says."""
        if not len(self.points):
            return self.points
        starts = np.repeat(self.starts.astype(np.int32), self.lengths + 1)
        offsets = np.arange(len(self.points), dtype=np.int32) - starts
        first: np.ndarray = self.points[
            offsets < np.repeat(limits.astype(np.int32), self.lengths + 1)
        ]
        return first


class WordBlock:
    """A `Block` of words, kept as a list for each line."""

    def __init__(self, text: str, tokenizer: str) -> None:
        self.words = [line.split() for line in text.split("\n")[:-1]]
        self.lengths = np.array(list(map(len, self.words)), np.int64)

    def limits(self, is_training: np.ndarray, most: int, too_long: str) -> np.ndarray:
        """As `Block` says."""
        limits = np.where(self.lengths > most, 0 if too_long == "drop" else most, self.lengths)
        return np.where(is_training, limits, 0)

    def first_tokens(self, limits: np.ndarray) -> list[str]:
        """As `Block` says."""
        return [
            word
            for words, limit in zip(self.words, limits.tolist(), strict=True)
            for word in words[:limit]
        ]


BLOCKS: dict[str, Callable[[str, str], Block]] = {
    "char": CodePointBlock,
    "byte": CodePointBlock,
    "word": WordBlock,
}
"""By tokenizer: a block from its text and the name of the tokenizer."""


class CodePointCounter:
    """A `TokenCounter` of code points or bytes."""

    def __init__(self) -> None:
        self.table = np.zeros(CODE_POINTS, np.int64)

    def add(self, points: np.ndarray) -> None:
        occurrences = np.bincount(points)
        self.table[: len(occurrences)] += occurrences

    def counts(self) -> Counter[str]:
        return Counter({chr(point): int(self.table[point]) for point in np.flatnonzero(self.table)})


class WordCounter:
    """A `TokenCounter` of words. It drops words that occurred once when it has more than
    `MOST_WORDS`."""

    def __init__(self) -> None:
        self.occurrences: Counter[str] = Counter()

    def add(self, words: list[str]) -> None:
        self.occurrences.update(words)
        if len(self.occurrences) > MOST_WORDS:
            self.occurrences = Counter(
                {word: count for word, count in self.occurrences.items() if count > 1}
            )

    def counts(self) -> Counter[str]:
        return self.occurrences


COUNTERS: dict[str, Callable[[], TokenCounter]] = {
    "char": CodePointCounter,
    "byte": CodePointCounter,
    "word": WordCounter,
}
"""By tokenizer: a new counter."""


def code_point_encoder(alphabet: Alphabet) -> Callable[[np.ndarray], np.ndarray]:
    """A function from code points or bytes (n,) to ids (n,)."""
    table = np.full(CODE_POINTS, UNKNOWN, id_type(alphabet))
    for symbol in alphabet.symbols:
        table[ord(symbol)] = (
            alphabet.ids(symbol)[0] if alphabet.tokenizer == "char" else 4 + ord(symbol)
        )
    return lambda points: table[points]


def word_encoder(alphabet: Alphabet) -> Callable[[list[str]], np.ndarray]:
    """A function from n words to ids (n,)."""
    ids = {word: alphabet.ids(word)[0] for word in alphabet.symbols}
    return lambda words: np.fromiter(
        (ids.get(word, UNKNOWN) for word in words), id_type(alphabet), len(words)
    )


ENCODERS: dict[str, Callable[[Alphabet], Callable[[Units], np.ndarray]]] = {
    "char": code_point_encoder,
    "byte": code_point_encoder,
    "word": word_encoder,
}


def units_of(text: str, tokenizer: str) -> Units:
    """The code points, bytes or words of a text, for its counter and encoder."""
    if tokenizer == "word":
        return Alphabet((), "word").rules.units(text)
    raw = text.encode() if tokenizer == "byte" else text.encode("utf-32-le")
    return np.frombuffer(raw, np.uint8 if tokenizer == "byte" else np.dtype("<u4"))


def blocks_of_lines(files: Iterable[str]) -> Iterator[str]:
    """Yield the text of files in blocks of whole lines. Every line ends with a line break."""
    for file in files:
        rest: list[str] = []
        for piece in pieces_of(file):
            end = piece.rfind("\n") + 1
            if end:
                yield "".join((*rest, piece[:end]))
                rest = []
            rest.append(piece[end:])
            if sum(map(len, rest)) > LONGEST_LINE:
                raise DataError(
                    f"{file}: a line has over {LONGEST_LINE:,} characters; is it a stream? Then "
                    f"use --set data.mode=windows"
                )
        if last := "".join(rest):
            yield last + "\n"


def pieces_of_stream(files: Iterable[str]) -> Iterator[str]:
    """Yield the text of files as one stream in pieces. A line break separates two files; there is
    none at the end."""
    any_text = False
    for file in files:
        ending, any_text_of_file = "", False
        for piece in filter(None, pieces_of(file)):
            if any_text and not any_text_of_file:
                yield "\n"
            any_text = any_text_of_file = True
            piece = ending + piece
            ending = "\n" if piece.endswith("\n") else ""
            yield piece.removesuffix(ending)


def parts_of_stream(files: Iterable[str], cut: int, tokenizer: str) -> Iterator[tuple[bool, str]]:
    """Yield the pieces of a stream, each with whether it belongs to the training part.

    The training part ends at character `cut`. For words it ends at the first white space from `cut`
    on.
    """
    position, cut_reached = 0, False
    pieces = pieces_of_stream(files)
    for piece in whole_words(pieces) if tokenizer == "word" else pieces:
        end = len(piece)
        if cut_reached:
            end = 0
        elif position + len(piece) > cut:
            end = next_whitespace(piece, cut - position) if tokenizer == "word" else cut - position
            cut_reached = end < len(piece)
            cut = max(cut, position + end)
        position += len(piece)
        for is_training, text in ((True, piece[:end]), (False, piece[end:])):
            if text:
                yield is_training, text


def whole_words(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the same text in pieces that end at a blank or a line break. Raises `DataError` for a
    huge word."""
    rest = ""
    for piece in pieces:
        piece = rest + piece
        end = max(piece.rfind(" "), piece.rfind("\n")) + 1
        rest = piece[end:]
        if len(rest) > LONGEST_LINE:
            raise DataError(
                f"model.tokenizer is 'word', but a word has over {LONGEST_LINE:,} characters; "
                f"if the text is not made of words, use --tokenizer char"
            )
        if end:
            yield piece[:end]
    if rest:
        yield rest
