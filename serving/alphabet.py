"""Text to symbol ids and back: the one place where the special ids, the tokenizers and the vocabulary rules stand.

Ids 0 to 3 are special, the symbols of the alphabet follow from 4 on. A row of `tokens` is the text, one END, then PAD up
to the model's length; a window cut from a stream is text alone.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from .errors import BundleError, DataError, shown

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")
NEVER_WRITTEN = (PAD, START, UNKNOWN)
"""Ids a decoder may not choose; the probability of the others is renormalised."""

LONGEST = 2**16
"""T at most: positions of a text, its end mark included."""

MOST_SYMBOLS = 2**20
"""Symbols of an alphabet at most, the special ones not counted."""

REPLACEMENT = "�"
"""How an unknown symbol is shown when ids become text."""

CONTINUATION = "##"
"""What a wordpiece that goes on within a word begins with."""

LONGEST_WORD = 100
"""UTF-8 bytes of the longest word that is looked up in wordpieces; a longer one is unknown."""


def bytes_of(text: str) -> str:
    """The UTF-8 bytes of a text, each as the character of that number."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def text_of_bytes(symbols: Iterable[str]) -> str:
    """The text of `bytes_of`; sequences that are not UTF-8 are replaced."""
    return "".join(symbols).encode("latin-1").decode("utf-8", "replace")


def words_of(text: str) -> list[str]:
    """What stands between white space; a line break is a word of its own."""
    if "\n" not in text:
        return text.split()
    return [
        word
        for number, line in enumerate(text.split("\n"))
        for word in ["\n"] * (number > 0) + line.split()
    ]


def text_of_words(words: Iterable[str]) -> str:
    """Words joined by one blank, line breaks without."""
    return " ".join(words).replace(" \n", "\n").replace("\n ", "\n")


class Spacing(dict[int, str]):
    """For `str.translate`: blanks around what is a unit of its own, a blank for what only separates units."""

    def __missing__(self, point: int) -> str:
        self[point] = spaced(chr(point))
        return self[point]


SPACING = Spacing()

IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Ranges of code points that are units of their own, as in BERT (Devlin et al. 2019)."""


def spaced(symbol: str) -> str:
    """A character as `Spacing` writes it."""
    category = unicodedata.category(symbol)
    ascii_sign = "!" <= symbol <= "~" and not symbol.isalnum()
    ideograph = any(first <= ord(symbol) <= last for first, last in IDEOGRAPHS)
    if symbol == "\n" or ascii_sign or ideograph or category.startswith("P"):
        return f" {symbol} "
    return " " if symbol == " " or category in ("Cc", "Cf") else symbol


def units_of_pieces(text: str) -> list[str]:
    """What wordpieces are made within: words, punctuation marks and ideographs (Devlin et al. 2019, no case folding)."""
    return [unit for unit in text.translate(SPACING).split(" ") if unit]


def text_of_pieces(pieces: Iterable[str]) -> str:
    """Pieces joined into words, words by one blank."""
    return text_of_words(" ".join(pieces).replace(" " + CONTINUATION, "").split(" "))


@dataclass(frozen=True)
class Tokenizer:
    """How a text is taken apart and put together: `units` are looked up in the alphabet, `text` joins its symbols."""

    tokens: str
    """What tokens are called, in the plural."""
    unit: str
    """What is known or unknown, in the plural."""
    units: Callable[[str], Sequence[str]]
    text: Callable[[Iterable[str]], str]
    symbol: str
    """What a symbol of the alphabet is, in words."""
    is_symbol: Callable[[str], bool]
    """The same, as a test of a text that is not empty."""
    replacement: str = REPLACEMENT
    """The symbol that is written for UNKNOWN."""


def is_character(symbol: str) -> bool:
    """One Unicode code point, no half of a surrogate pair."""
    return len(symbol) == 1 and not "\ud800" <= symbol <= "\udfff"


def is_byte(symbol: str) -> bool:
    """One of the characters U+0000 to U+00FF."""
    return len(symbol) == 1 and symbol <= "\xff"


def is_word(symbol: str) -> bool:
    """A word as `words_of` finds it: without white space, or a line break."""
    return words_of(symbol) == [symbol] and is_unicode(symbol)


def is_piece(symbol: str) -> bool:
    """A wordpiece: without blanks, or a line break."""
    return symbol == "\n" or (" " not in symbol and "\n" not in symbol and is_unicode(symbol))


def is_unicode(text: str) -> bool:
    """Whether a text holds no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= symbol <= "\udfff" for symbol in text)


TOKENIZERS: dict[str, Tokenizer] = {
    "char": Tokenizer("characters", "characters", str, "".join, "one character", is_character),
    "byte": Tokenizer(
        "bytes",
        "bytes",
        bytes_of,
        text_of_bytes,
        "a byte as one character up to U+00FF",
        is_byte,
        "\xff",
    ),
    "word": Tokenizer(
        "words",
        "words",
        words_of,
        text_of_words,
        "a word without white space, or a line break",
        is_word,
    ),
    "wordpiece": Tokenizer(
        "wordpieces",
        "words",
        units_of_pieces,
        text_of_pieces,
        "a wordpiece without blanks, or a line break",
        is_piece,
    ),
}


@dataclass(frozen=True)
class Alphabet:
    """The distinct symbols a model knows, in the order of their ids: characters (Unicode code points), bytes (written as
    the characters U+0000 to U+00FF), words or wordpieces."""

    symbols: tuple[str, ...]
    tokenizer: str = "char"

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        max_symbols: int | None = None,
        tokenizer: str = "char",
        min_count: int = 1,
    ) -> Alphabet:
        """The `max_symbols` commonest units of `texts` (all of them by default), sorted by code point."""
        return cls.from_counts(count_units(texts, tokenizer), max_symbols, tokenizer, min_count)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        max_symbols: int | None = None,
        tokenizer: str = "char",
        min_count: int = 1,
    ) -> Alphabet:
        """The alphabet of a table of counts: units that occur `min_count` times, the commonest `max_symbols` of them; ties
        at the cut go to the lower code point."""
        frequent = [symbol for symbol in counts if counts[symbol] >= min_count]
        commonest = sorted(frequent, key=lambda symbol: (-counts[symbol], symbol))[:max_symbols]
        return cls(tuple(sorted(commonest)), tokenizer)

    @classmethod
    def of_bytes(cls) -> Alphabet:
        """All 256 bytes."""
        return cls(tuple(map(chr, range(256))), "byte")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Alphabet:
        """Read what `to_dict` wrote, of any JSON value; raises `BundleError` when it is something else."""
        wanted = ("tokenizer", "specials", "symbols")
        if not isinstance(data, Mapping) or set(data) != set(wanted):
            raise BundleError(
                f"vocabulary must be an object of {', '.join(wanted)}, got {shown(data)}"
            )
        tokenizer, specials, symbols = (data[name] for name in wanted)
        if not isinstance(tokenizer, str) or tokenizer not in TOKENIZERS:
            known = " or ".join(map(repr, TOKENIZERS))
            raise BundleError(f"vocabulary.tokenizer must be {known}, got {shown(tokenizer)}")
        if specials != list(SPECIALS):
            raise BundleError(
                f"vocabulary.specials must be {list(SPECIALS)}, got {shown(specials)}"
            )
        if not isinstance(symbols, list) or len(symbols) > MOST_SYMBOLS:
            got = f"a list of {len(symbols):,}" if isinstance(symbols, list) else shown(symbols)
            raise BundleError(
                f"vocabulary.symbols must be a list of at most {MOST_SYMBOLS:,} texts, got {got}"
            )
        rules, seen = TOKENIZERS[tokenizer], set[str]()
        for place, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not symbol or not rules.is_symbol(symbol):
                raise BundleError(
                    f"vocabulary.symbols[{place}] must be {rules.symbol}, got {shown(symbol)}"
                )
            if symbol in seen:
                raise BundleError(
                    f"vocabulary.symbols[{place}] must differ from all before it, got {shown(symbol)} twice"
                )
            seen.add(symbol)
        return cls(tuple(symbols), tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary for JSON."""
        return {
            "tokenizer": self.tokenizer,
            "specials": list(SPECIALS),
            "symbols": list(self.symbols),
        }

    def __len__(self) -> int:
        """V: the number of ids, the special ones included."""
        return len(SPECIALS) + len(self.symbols)

    @property
    def rules(self) -> Tokenizer:
        """How texts are taken apart, and what the parts are called."""
        return TOKENIZERS[self.tokenizer]

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=len(SPECIALS))}

    @cached_property
    def _text_of(self) -> tuple[str, ...]:
        return ("", "", "", self.rules.replacement, *self.symbols)

    @cached_property
    def _pieces_of(self) -> Pieces:
        return Pieces(self._id_of)

    def ids(self, text: str) -> list[int]:
        """One id a character, byte or word, or one for each wordpiece; UNKNOWN for what is outside the alphabet. No END."""
        units = self.rules.units(text)
        if self.tokenizer == "wordpiece":
            return [number for unit in units for number in self._pieces_of[unit]]
        return [self._id_of.get(unit, UNKNOWN) for unit in units]

    def count(self, text: str) -> int:
        """How many tokens a text has, without END."""
        return len(self.ids(text)) if self.tokenizer == "wordpiece" else len(self.rules.units(text))

    def cut(self, text: str, most: int) -> str:
        """The start of a text that has at most `most` tokens, in whole characters and whole words."""
        units = self.rules.units(text)
        if self.tokenizer == "wordpiece":
            most = bisect_right(
                list(accumulate(len(self._pieces_of[unit]) for unit in units)), most
            )
        if self.tokenizer == "byte":
            return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")
        return self.rules.text(units[:most])

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """The characters or words of `texts` that the alphabet lacks, with their counts."""
        counts = count_units(texts, self.tokenizer)
        if self.tokenizer == "wordpiece":
            return Counter(
                {unit: n for unit, n in counts.items() if UNKNOWN in self._pieces_of[unit]}
            )
        return Counter({unit: n for unit, n in counts.items() if unit not in self._id_of})

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Texts as rows of ids: `(len(texts), length)` int32, each text followed by END and PAD.

        A text may have at most `length - 1` tokens: raises `DataError` otherwise, never cuts.
        """
        tokens = np.empty((len(texts), length), np.int32)
        for number, text in enumerate(texts):
            tokens[number] = self.row(text, length, number)
        return tokens

    def row(self, text: str, length: int, number: int = 0) -> list[int]:
        """The `length` ids of a text, END and PAD; as `encode` for one of many texts, the one that errors call `number`."""
        ids = self.ids(text)
        if len(ids) >= length:
            raise DataError(
                f"text {number} has {len(ids)} {self.rules.tokens}, the model takes at most {length - 1}: {text[:40]!r}...; "
                f"shorten it"
            )
        return [*ids, END, *[PAD] * (length - 1 - len(ids))]

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Rows of ids `(B, T)` as texts; a row ends before its first END or PAD. Raises `DataError` for ids outside 0..V-1."""
        tokens = np.asarray(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self):
            raise DataError(
                f"ids must be from 0 to {len(self) - 1}, got {tokens.min()} to {tokens.max()}"
            )
        return [self._text(row) for row in tokens.tolist()]

    def _text(self, row: list[int]) -> str:
        stops = [row.index(mark) for mark in (END, PAD) if mark in row]
        return self.rules.text(
            [
                self._text_of[number]
                for number in row[: min(stops, default=len(row))]
                if number != START
            ]
        )


class Pieces(dict[str, tuple[int, ...]]):
    """The ids of each unit's wordpieces, found when first asked for: the longest piece that fits, again and again, and
    UNKNOWN for the whole unit where none does (Wu et al. 2016; Devlin et al. 2019)."""

    MOST = 1_000_000
    """Units that are remembered; then the memory starts anew."""

    def __init__(self, id_of: Mapping[str, int]) -> None:
        super().__init__()
        self.id_of = id_of
        self.longest = max(map(len, id_of), default=0)

    def __missing__(self, unit: str) -> tuple[int, ...]:
        if len(self) >= self.MOST:
            self.clear()
        self[unit] = found = self.matched(unit)
        return found

    def matched(self, unit: str) -> tuple[int, ...]:
        """The ids of a unit. A line break that the alphabet lacks is white space: none."""
        if unit == "\n":
            return (self.id_of["\n"],) if "\n" in self.id_of else ()
        if len(unit.encode("utf-8", "surrogatepass")) > LONGEST_WORD:
            return (UNKNOWN,)
        ids: list[int] = []
        start = 0
        while start < len(unit):
            prefix = CONTINUATION if start else ""
            ends = range(min(len(unit), start + self.longest), start, -1)
            end = next((end for end in ends if prefix + unit[start:end] in self.id_of), None)
            if end is None:
                return (UNKNOWN,)
            ids.append(self.id_of[prefix + unit[start:end]])
            start = end
        return tuple(ids)


def count_units(texts: Iterable[str], tokenizer: str = "char") -> Counter[str]:
    """How often each character, byte or word occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(TOKENIZERS[tokenizer].units(text))
    return counts


def one_line(text: str) -> str:
    """A text with line breaks, tabs and whatever else a terminal would act on written out."""
    return "".join(
        symbol if symbol.isprintable() else symbol.encode("unicode_escape").decode()
        for symbol in text
    )
