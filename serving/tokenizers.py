"""Tokenizers: how a text is split into units, and how symbols become a text again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .byte_pairs import WORD_END, bytes_of, text_of_bytes, text_of_word_ends
from .patterns import units_of_pattern
from .splitting import SPLITTINGS, WORD_SPLITTINGS, Splitting
from .wordpieces import text_of_pieces, text_of_words, units_of_pieces

REPLACEMENT = "�"
"""Text that stands for an unknown symbol when ids are decoded."""

UNKNOWN_BYTE = "\xff"
"""The same among bytes: no UTF-8 text has it, so it is shown as `REPLACEMENT`."""


def words_of(text: str) -> list[str]:
    """The words of a text, split at white space; a line break is a word of its own."""
    if "\n" not in text:
        return text.split()
    return [
        word
        for number, line in enumerate(text.split("\n"))
        for word in ["\n"] * (number > 0) + line.split()
    ]


@dataclass(frozen=True)
class Tokenizer:
    """A way to split a text into units and to join symbols to a text."""

    tokens: str
    """What its tokens are called, in the plural."""
    unit: str
    """What the vocabulary knows or does not know, in the plural."""
    units: Callable[[str], Sequence[str]]
    text: Callable[[Iterable[str]], str]
    symbol: str
    """What a symbol of the alphabet is, for messages."""
    is_symbol: Callable[[str], bool]
    """True for a non-empty text that may be a symbol of the alphabet."""
    replacement: str = REPLACEMENT
    """The symbol that UNKNOWN is decoded to."""
    joined: Callable[[Sequence[str]], str] | None = None
    """The text of some units, if that differs from the text of symbols."""
    splits_units: bool = False
    """Whether a unit may have several tokens."""
    fields: tuple[str, ...] = ()
    """What else the vocabulary of a bundle holds."""

    def start(self, units: Sequence[str]) -> str:
        """The text of the first units of a text."""
        return (self.joined or self.text)(units)


def is_character(symbol: str) -> bool:
    """True for one Unicode code point that is not a surrogate."""
    return len(symbol) == 1 and not "\ud800" <= symbol <= "\udfff"


def is_byte(symbol: str) -> bool:
    """True for one of the characters U+0000 to U+00FF."""
    return len(symbol) == 1 and symbol <= "\xff"


def is_bytes(symbol: str) -> bool:
    """True for some of the characters U+0000 to U+00FF."""
    return max(symbol) <= "\xff"


def is_word(symbol: str) -> bool:
    """True for a word as `words_of` returns it: no white space, or a single line break."""
    return words_of(symbol) == [symbol] and is_unicode(symbol)


def is_piece(symbol: str) -> bool:
    """True for a wordpiece: no spaces, or a single line break."""
    return symbol == "\n" or (" " not in symbol and "\n" not in symbol and is_unicode(symbol))


def is_ended_piece(symbol: str) -> bool:
    """True for a piece of a word with no space but one at its end, which ends the word."""
    return WORD_END not in symbol[:-1] and "\n" not in symbol and is_unicode(symbol)


def is_unit(pattern: str, symbol: str) -> bool:
    """True for a unit of the pattern."""
    return units_of_pattern(pattern, symbol) == [symbol] and is_unicode(symbol)


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
        UNKNOWN_BYTE,
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
        splits_units=True,
    ),
    "pattern": Tokenizer(
        "tokens",
        "tokens",
        partial(units_of_pattern, ""),
        "".join,
        "a unit of the pattern",
        partial(is_unit, ""),
        fields=("pattern",),
    ),
    "bpe": Tokenizer(
        "tokens",
        "characters",
        SPLITTINGS["gpt2"].units,
        text_of_bytes,
        "bytes as characters up to U+00FF",
        is_bytes,
        UNKNOWN_BYTE,
        SPLITTINGS["gpt2"].joined,
        splits_units=True,
        fields=("splitting", "merges"),
    ),
}
"""The tokenizers by name, as they are without a pattern or a splitting of their own."""

OWN_DEFAULTS: dict[str, Any] = {
    "tokens": "tokens",
    "unit": "tokens",
    "text": "".join,
    "symbol": "a text without surrogates",
    "is_symbol": is_unicode,
}
"""The fields of a tokenizer that is registered as a function from a text to its units."""


def splittings_of(tokenizer: str) -> tuple[str, ...]:
    """The names of the splittings that the alphabets of a tokenizer may have."""
    return {"wordpiece": WORD_SPLITTINGS, "bpe": tuple(SPLITTINGS)}.get(tokenizer, ())


def rules_of(tokenizer: str, pattern: str, splitting: str) -> Tokenizer:
    """A tokenizer with the pattern or the splitting of an alphabet; empty ones change nothing."""
    rules = TOKENIZERS[tokenizer]
    if pattern:
        return replace(
            rules,
            units=partial(units_of_pattern, pattern),
            is_symbol=partial(is_unit, pattern),
        )
    if not splitting:
        return rules
    way = SPLITTINGS[splitting]
    if tokenizer == "wordpiece":
        return replace(rules, units=way.units, joined=way.joined)
    return of_bytes(rules, way) if way.of_bytes else of_word_ends(rules, way)


def of_bytes(rules: Tokenizer, way: Splitting) -> Tokenizer:
    """The rules of byte pairs with the words of a splitting."""
    return replace(
        rules,
        units=way.units,
        joined=way.joined,
        text=partial(text_of_split_bytes, way.joined),
    )


def text_of_split_bytes(join: Callable[[Sequence[str]], str], symbols: Iterable[str]) -> str:
    """The text of bytes, without the blank that the splitting adds."""
    return join([text_of_bytes(symbols)])


def of_word_ends(rules: Tokenizer, way: Splitting) -> Tokenizer:
    """The rules of pairs of characters with the words of a splitting."""
    return replace(
        rules,
        units=way.units,
        joined=way.joined,
        text=text_of_word_ends,
        symbol="a piece of a word without blanks, save one at the end of a word",
        is_symbol=is_ended_piece,
        replacement=REPLACEMENT,
    )
