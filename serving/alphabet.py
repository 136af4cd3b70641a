"""Text to token ids and back: special ids, tokenizers and the rules of a vocabulary.

Ids 0 to 3 are special; the symbols of the alphabet follow from id 4. A row of `tokens` is the text,
one END, then PAD up to the model's length. A window cut from a stream of text has no END and no
PAD.
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

from .errors import BundleError, DataError, short_repr

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")
NEVER_SAMPLED = (PAD, START, UNKNOWN)
"""Ids that a decoder never samples; the probabilities of the other ids are renormalised."""

MAX_LENGTH = 2**16
"""Largest model length T: positions of a text, its end mark included."""

MAX_SYMBOLS = 2**20
"""Largest number of symbols in an alphabet, without the special ones."""

REPLACEMENT = "�"
"""Text that stands for an unknown symbol when ids are decoded."""

CONTINUATION = "##"
"""Prefix of a wordpiece that continues a word."""

MAX_WORD_BYTES = 100
"""Longest word, in UTF-8 bytes, that is split into wordpieces; a longer word is unknown."""


def bytes_of(text: str) -> str:
    """The UTF-8 bytes of a text, each as the character with that code point."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def text_of_bytes(symbols: Iterable[str]) -> str:
    """The text with these bytes, the inverse of `bytes_of`; invalid UTF-8 is replaced."""
    return "".join(symbols).encode("latin-1").decode("utf-8", "replace")


def words_of(text: str) -> list[str]:
    """The words of a text, split at white space; a line break is a word of its own."""
    if "\n" not in text:
        return text.split()
    return [
        word
        for number, line in enumerate(text.split("\n"))
        for word in ["\n"] * (number > 0) + line.split()
    ]


def text_of_words(words: Iterable[str]) -> str:
    """Words joined by single spaces, with no space around line breaks."""
    return " ".join(words).replace(" \n", "\n").replace("\n ", "\n")


class UnitSpacing(dict[int, str]):
    """Table for `str.translate` that separates units by spaces; filled on first use of each
    character."""

    def __missing__(self, point: int) -> str:
        self[point] = spaced_character(chr(point))
        return self[point]


UNIT_SPACING = UnitSpacing()

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
"""Ranges of code points whose characters are units of their own, as in BERT (Devlin et al.
2019)."""


def spaced_character(symbol: str) -> str:
    """A character that is a unit of its own with spaces around it, white space and control
    characters as one space, any other character unchanged."""
    category = unicodedata.category(symbol)
    ascii_sign = "!" <= symbol <= "~" and not symbol.isalnum()
    ideograph = any(first <= ord(symbol) <= last for first, last in IDEOGRAPHS)
    if symbol == "\n" or ascii_sign or ideograph or category.startswith("P"):
        return f" {symbol} "
    return " " if symbol == " " or category in ("Cc", "Cf") else symbol


def units_of_pieces(text: str) -> list[str]:
    """The words, punctuation marks and ideographs that are split into wordpieces (Devlin et al.
    2019, no case folding)."""
    return [unit for unit in text.translate(UNIT_SPACING).split(" ") if unit]


def text_of_pieces(pieces: Iterable[str]) -> str:
    """Wordpieces joined into words, words joined by single spaces."""
    return text_of_words(" ".join(pieces).replace(" " + CONTINUATION, "").split(" "))


@dataclass(frozen=True)
class Tokenizer:
    """A way to split a text into units and to join symbols to a text."""

    tokens: str
    """What its tokens are called, in the plural."""
    unit: str
    """What its units are called, in the plural: what the vocabulary knows or does not know."""
    units: Callable[[str], Sequence[str]]
    text: Callable[[Iterable[str]], str]
    symbol: str
    """What a symbol of the alphabet is, for messages."""
    is_symbol: Callable[[str], bool]
    """True for a non-empty text that may be a symbol of the alphabet."""
    replacement: str = REPLACEMENT
    """The symbol that UNKNOWN is decoded to."""


def is_character(symbol: str) -> bool:
    """True for one Unicode code point that is not a surrogate."""
    return len(symbol) == 1 and not "\ud800" <= symbol <= "\udfff"


def is_byte(symbol: str) -> bool:
    """True for one of the characters U+0000 to U+00FF."""
    return len(symbol) == 1 and symbol <= "\xff"


def is_word(symbol: str) -> bool:
    """True for a word as `words_of` returns it: no white space, or a single line break."""
    return words_of(symbol) == [symbol] and is_unicode(symbol)


def is_piece(symbol: str) -> bool:
    """True for a wordpiece: no spaces, or a single line break."""
    return symbol == "\n" or (" " not in symbol and "\n" not in symbol and is_unicode(symbol))


def is_unicode(text: str) -> bool:
    """True for a text without surrogates."""
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
    """The distinct symbols that a model knows, in the order of their ids: characters (Unicode code
    points), bytes (as the characters U+0000 to U+00FF), words or wordpieces."""

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
        """The alphabet of the `max_symbols` most frequent units of `texts` (default: all), sorted
        by code point."""
        return cls.from_counts(count_units(texts, tokenizer), max_symbols, tokenizer, min_count)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        max_symbols: int | None = None,
        tokenizer: str = "char",
        min_count: int = 1,
    ) -> Alphabet:
        """The alphabet of a table of counts: the `max_symbols` most frequent units that occur at
        least `min_count` times. Of units with equal counts, those with the lower code points are
        kept."""
        frequent = [symbol for symbol in counts if counts[symbol] >= min_count]
        commonest = sorted(frequent, key=lambda symbol: (-counts[symbol], symbol))[:max_symbols]
        return cls(tuple(sorted(commonest)), tokenizer)

    @classmethod
    def of_bytes(cls) -> Alphabet:
        """The alphabet of all 256 bytes."""
        return cls(tuple(map(chr, range(256))), "byte")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Alphabet:
        """The alphabet that `to_dict` wrote. Accepts any JSON value and raises `BundleError` if it
        is not an alphabet."""
        keys = ("tokenizer", "specials", "symbols")
        if not isinstance(data, Mapping) or set(data) != set(keys):
            raise BundleError(
                f"vocabulary must be an object of {', '.join(keys)}, got {short_repr(data)}"
            )
        tokenizer, specials, symbols = (data[name] for name in keys)
        if not isinstance(tokenizer, str) or tokenizer not in TOKENIZERS:
            known = " or ".join(map(repr, TOKENIZERS))
            raise BundleError(f"vocabulary.tokenizer must be {known}, got {short_repr(tokenizer)}")
        if specials != list(SPECIALS):
            raise BundleError(
                f"vocabulary.specials must be {list(SPECIALS)}, got {short_repr(specials)}"
            )
        if not isinstance(symbols, list) or len(symbols) > MAX_SYMBOLS:
            got = (
                f"a list of {len(symbols):,}" if isinstance(symbols, list) else short_repr(symbols)
            )
            raise BundleError(
                f"vocabulary.symbols must be a list of at most {MAX_SYMBOLS:,} texts, got {got}"
            )
        rules, seen = TOKENIZERS[tokenizer], set[str]()
        for place, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not symbol or not rules.is_symbol(symbol):
                raise BundleError(
                    f"vocabulary.symbols[{place}] must be {rules.symbol}, got {short_repr(symbol)}"
                )
            if symbol in seen:
                raise BundleError(
                    f"vocabulary.symbols[{place}] must differ from all before it, "
                    f"got {short_repr(symbol)} twice"
                )
            seen.add(symbol)
        return cls(tuple(symbols), tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """The alphabet as a plain dictionary for JSON."""
        return {
            "tokenizer": self.tokenizer,
            "specials": list(SPECIALS),
            "symbols": list(self.symbols),
        }

    def __len__(self) -> int:
        """V, the number of ids, special ids included."""
        return len(SPECIALS) + len(self.symbols)

    @property
    def rules(self) -> Tokenizer:
        """The tokenizer of this alphabet."""
        return TOKENIZERS[self.tokenizer]

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=len(SPECIALS))}

    @cached_property
    def _text_of(self) -> tuple[str, ...]:
        return ("", "", "", self.rules.replacement, *self.symbols)

    @cached_property
    def _pieces_of(self) -> WordpieceIds:
        return WordpieceIds(self._id_of)

    def ids(self, text: str) -> list[int]:
        """The ids of a text: one per character, byte or word, or one per wordpiece. UNKNOWN stands
        for units outside the alphabet. END is not appended."""
        units = self.rules.units(text)
        if self.tokenizer == "wordpiece":
            return [number for unit in units for number in self._pieces_of[unit]]
        return [self._id_of.get(unit, UNKNOWN) for unit in units]

    def count(self, text: str) -> int:
        """The number of tokens of a text, without END."""
        return len(self.ids(text)) if self.tokenizer == "wordpiece" else len(self.rules.units(text))

    def cut(self, text: str, most: int) -> str:
        """The longest start of a text with at most `most` tokens, in whole characters and whole
        words."""
        units = self.rules.units(text)
        if self.tokenizer == "wordpiece":
            most = bisect_right(
                list(accumulate(len(self._pieces_of[unit]) for unit in units)), most
            )
        if self.tokenizer == "byte":
            return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")
        return self.rules.text(units[:most])

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """The characters or words of `texts` that are not in the alphabet, with their counts."""
        counts = count_units(texts, self.tokenizer)
        if self.tokenizer == "wordpiece":
            return Counter(
                {unit: n for unit, n in counts.items() if UNKNOWN in self._pieces_of[unit]}
            )
        return Counter({unit: n for unit, n in counts.items() if unit not in self._id_of})

    def encode(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Texts as rows of ids: `(len(texts), length)` int32, each text followed by END and PAD.

        Raises `DataError` for a text of more than `length - 1` tokens; nothing is cut.
        """
        tokens = np.empty((len(texts), length), np.int32)
        for number, text in enumerate(texts):
            tokens[number] = self.row(text, length, number)
        return tokens

    def row(self, text: str, length: int, number: int = 0) -> list[int]:
        """The ids of one text, padded with END and PAD to `length`. `number` is the index of the
        text in error messages. Raises `DataError` as `encode` does."""
        ids = self.ids(text)
        if len(ids) >= length:
            raise DataError(
                f"text {number} has {len(ids)} {self.rules.tokens}, the model takes at most "
                f"{length - 1}: {text[:40]!r}...; shorten it"
            )
        return [*ids, END, *[PAD] * (length - 1 - len(ids))]

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Rows of ids `(B, T)` as texts; a row ends before its first END or PAD. Raises `DataError`
        for ids outside 0..V-1."""
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


class WordpieceIds(dict[str, tuple[int, ...]]):
    """The ids of each unit's wordpieces, computed on first use. The longest wordpiece that fits is
    taken repeatedly; if none fits, the whole unit is UNKNOWN (Wu et al. 2016; Devlin et al. 2019).
    """

    MAX_UNITS = 1_000_000
    """Size of the cache, in units; a full cache is emptied."""

    def __init__(self, id_of: Mapping[str, int]) -> None:
        super().__init__()
        self.id_of = id_of
        self.longest = max(map(len, id_of), default=0)

    def __missing__(self, unit: str) -> tuple[int, ...]:
        if len(self) >= self.MAX_UNITS:
            self.clear()
        self[unit] = found = self.ids_of_unit(unit)
        return found

    def ids_of_unit(self, unit: str) -> tuple[int, ...]:
        """The ids of a unit. A line break that is not in the alphabet counts as white space and has
        no id."""
        if unit == "\n":
            return (self.id_of["\n"],) if "\n" in self.id_of else ()
        if len(unit.encode("utf-8", "surrogatepass")) > MAX_WORD_BYTES:
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
    """The number of occurrences of each character, byte or word."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(TOKENIZERS[tokenizer].units(text))
    return counts


def one_line(text: str) -> str:
    """A text with line breaks, tabs and other control characters escaped, for terminals."""
    return "".join(
        symbol if symbol.isprintable() else symbol.encode("unicode_escape").decode()
        for symbol in text
    )
