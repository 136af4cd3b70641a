"""Text to token ids and back: special ids, tokenizers and the rules of a vocabulary.

Ids 0 to 3 are special; the symbols of the alphabet follow from id 4. A row of `tokens` is the text,
one END, then PAD up to the model's length. A window cut from a stream of text has no END and no
PAD.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np

from .byte_pairs import BytePairIds
from .errors import BundleError, DataError, short_repr
from .patterns import pattern_fault
from .splitting import SPLITTINGS
from .tokenizers import TOKENIZERS, Tokenizer, rules_of, splittings_of
from .wordpieces import WordpieceIds

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")
NEVER_SAMPLED = (PAD, START, UNKNOWN)
"""Ids that a decoder never samples; the probabilities of the other ids are renormalised."""

MAX_LENGTH = 2**16
"""Largest model length T: positions of a text, its end mark included."""

MAX_SYMBOLS = 2**20
"""Largest number of symbols in an alphabet, without the special ones."""


@dataclass(frozen=True)
class Alphabet:
    """The distinct symbols that a model knows, in the order of their ids: characters (Unicode code
    points), bytes (as the characters U+0000 to U+00FF), words, wordpieces, units of a pattern or
    byte pairs."""

    symbols: tuple[str, ...]
    tokenizer: str = "char"
    pattern: str = ""
    """The regular expression of tokenizer `pattern`, of the subset in `kvae.serving.patterns`."""
    splitting: str = ""
    """How `bpe` and `wordpiece` split a text into words, one of `kvae.serving.splitting`. Empty:
    wordpieces as kvae learns them."""
    merges: tuple[tuple[int, int], ...] = ()
    """The merges of `bpe` by rank: the places of both parts in `symbols`."""
    fold_case: bool = False
    """Whether a text is read in lower case (`lower_case`)."""

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        max_symbols: int | None = None,
        tokenizer: str = "char",
        min_count: int = 1,
        pattern: str = "",
    ) -> Alphabet:
        """The alphabet of the `max_symbols` most frequent units of `texts` (default: all), sorted
        by code point."""
        counts = cls((), tokenizer, pattern).counts(texts)
        return cls.from_counts(counts, max_symbols, tokenizer, min_count, pattern)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        max_symbols: int | None = None,
        tokenizer: str = "char",
        min_count: int = 1,
        pattern: str = "",
    ) -> Alphabet:
        """The alphabet of a table of counts: the `max_symbols` most frequent units that occur at
        least `min_count` times. Of units with equal counts, those with the lower code points are
        kept."""
        frequent = [symbol for symbol in counts if counts[symbol] >= min_count]
        commonest = sorted(frequent, key=lambda symbol: (-counts[symbol], symbol))[:max_symbols]
        return cls(tuple(sorted(commonest)), tokenizer, pattern)

    @classmethod
    def of_bytes(cls) -> Alphabet:
        """The alphabet of all 256 bytes."""
        return cls(tuple(map(chr, range(256))), "byte")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Alphabet:
        """The alphabet that `to_dict` wrote. Accepts any JSON value and raises `BundleError` if it
        is not an alphabet."""
        check_fields(data)
        tokenizer, symbols = data["tokenizer"], data["symbols"]
        pattern, splitting = data.get("pattern", ""), data.get("splitting", "")
        check_symbols(symbols, rules_of(tokenizer, pattern, splitting))
        merges = data.get("merges", [])
        check_merges(merges, symbols)
        pairs = tuple((left, right) for left, right in merges)
        fold_case = data.get("fold_case", False)
        return cls(tuple(symbols), tokenizer, pattern, splitting, pairs, fold_case)

    def to_dict(self) -> dict[str, Any]:
        """The alphabet as a plain dictionary for JSON."""
        own = {
            "pattern": self.pattern,
            "splitting": self.splitting,
            "merges": [list(pair) for pair in self.merges],
        }
        return {
            "tokenizer": self.tokenizer,
            "specials": list(SPECIALS),
            "symbols": list(self.symbols),
            **{name: own[name] for name in own if own[name] or name in self.rules.fields},
            **({"fold_case": True} if self.fold_case else {}),
        }

    def __len__(self) -> int:
        """V, the number of ids, special ids included."""
        return len(SPECIALS) + len(self.symbols)

    @cached_property
    def rules(self) -> Tokenizer:
        """The tokenizer of this alphabet."""
        return rules_of(self.tokenizer, self.pattern, self.splitting)

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {symbol: number for number, symbol in enumerate(self.symbols, start=len(SPECIALS))}

    @cached_property
    def _text_of(self) -> tuple[str, ...]:
        return ("", "", "", self.rules.replacement, *self.symbols)

    @cached_property
    def _pieces_of(self) -> WordpieceIds | BytePairIds | None:
        """The ids of units that may have several tokens."""
        if self.tokenizer == "wordpiece":
            return WordpieceIds(self._id_of, UNKNOWN, in_characters=bool(self.splitting))
        if self.tokenizer == "bpe":
            is_of_bytes = SPLITTINGS[self.splitting or "gpt2"].of_bytes
            return BytePairIds(self._id_of, self.merges, UNKNOWN, is_of_bytes)
        return None

    def folded(self, text: str) -> str:
        """A text as it is read: in lower case if the alphabet folds case."""
        return lower_case(text) if self.fold_case else text

    def units(self, text: str) -> Sequence[str]:
        """The units of a text as it is read."""
        return self.rules.units(self.folded(text))

    def ids(self, text: str) -> list[int]:
        """The ids of a text: one per unit, or one per piece of a unit. UNKNOWN stands for what is
        outside the alphabet. END is not appended."""
        units, pieces_of = self.units(text), self._pieces_of
        if pieces_of is not None:
            return [number for unit in units for number in pieces_of[unit]]
        return [self._id_of.get(unit, UNKNOWN) for unit in units]

    def id_of(self, symbol: str) -> int | None:
        """The id of a symbol of the alphabet, None for any other text."""
        return self._id_of.get(symbol)

    def count(self, text: str) -> int:
        """The number of tokens of a text, without END."""
        return len(self.ids(text)) if self.rules.splits_units else len(self.units(text))

    def cut(self, text: str, most: int) -> str:
        """The longest start of a text, as it is read, with at most `most` tokens, in whole
        characters and whole units. Only `bpe` cuts a unit, the first one of a text, if it is too
        long by itself."""
        text = self.folded(text)
        if self.tokenizer == "byte":
            return text.encode("utf-8", "surrogatepass")[:most].decode("utf-8", "ignore")
        units, pieces_of = self.rules.units(text), self._pieces_of
        if pieces_of is not None:
            most_tokens = most
            most = bisect_right(list(accumulate(len(pieces_of[unit]) for unit in units)), most)
            if self.tokenizer == "bpe" and units and not most:
                return self._cut_unit(self.rules.start(units[:1]), most_tokens)
        return self.rules.start(units[:most])

    def _cut_unit(self, unit: str, most: int) -> str:
        """A start of a unit with at most `most` tokens, as long as a search by halves finds."""
        lengths = range(len(unit) + 1)
        length = bisect_right(lengths, most, key=lambda length: self.count(unit[:length])) - 1
        while self.count(unit[:length]) > most:
            length -= 1
        return unit[:length]

    def counts(self, texts: Iterable[str]) -> Counter[str]:
        """The number of occurrences of each unit: character, byte, word or unit of the pattern."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(self.units(text))
        return counts

    def unknown(self, texts: Iterable[str]) -> Counter[str]:
        """The characters, words or units of `texts` that are not in the alphabet, with their
        counts."""
        counts, pieces_of = self.counts(texts), self._pieces_of
        if pieces_of is None:
            return Counter({unit: n for unit, n in counts.items() if unit not in self._id_of})
        unknown: Counter[str] = Counter()
        for unit, occurrences in counts.items():
            for part in pieces_of.unknown(unit):
                unknown[part] += occurrences
        return unknown

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


def lower_case(text: str) -> str:
    """A text with each character as its simple lower-case mapping of Unicode: one character each,
    whatever stands around it.

    `str.lower` differs for two letters: it makes two characters of U+0130, and a sigma of its own
    at the end of a word.
    """
    return text.replace("\u0130", "i").replace("\u03a3", "\u03c3").lower()


def check_fields(data: Any) -> None:
    """Raise `BundleError` if a vocabulary lacks a field, or has an unknown or an invalid one;
    symbols and merges are not read."""
    known = TOKENIZERS.get(data.get("tokenizer", "")) if is_named(data) else None
    keys = ["tokenizer", "specials", "symbols", *(known.fields if known else ())]
    has_splitting = known and splittings_of(data["tokenizer"])
    optional = {"fold_case", "splitting"} if has_splitting else {"fold_case"}
    if not isinstance(data, Mapping) or set(data) - optional != set(keys) - optional:
        raise BundleError(
            f"vocabulary must be an object of {', '.join(keys)}, got {short_repr(data)}"
        )
    tokenizer, specials = data["tokenizer"], data["specials"]
    if known is None:
        names = " or ".join(map(repr, TOKENIZERS))
        raise BundleError(f"vocabulary.tokenizer must be {names}, got {short_repr(tokenizer)}")
    if specials != list(SPECIALS):
        raise BundleError(
            f"vocabulary.specials must be {list(SPECIALS)}, got {short_repr(specials)}"
        )
    if type(data.get("fold_case", False)) is not bool:
        raise BundleError(
            f"vocabulary.fold_case must be True or False, got {short_repr(data['fold_case'])}"
        )
    pattern = data.get("pattern", "-")
    if not isinstance(pattern, str) or pattern_fault(pattern):
        fault = pattern_fault(pattern) if isinstance(pattern, str) else "is no text"
        raise BundleError(
            f"vocabulary.pattern must be a pattern of kvae, got {short_repr(pattern)}: it {fault}"
        )
    splittings = splittings_of(tokenizer)
    if "splitting" in keys + list(data) and data.get("splitting") not in splittings:
        raise BundleError(
            f"vocabulary.splitting must be {' or '.join(map(repr, splittings))}, "
            f"got {short_repr(data.get('splitting'))}"
        )


def is_named(data: Any) -> bool:
    """Whether a value is an object whose tokenizer is a text."""
    return isinstance(data, Mapping) and isinstance(data.get("tokenizer"), str)


def check_symbols(symbols: Any, rules: Tokenizer) -> None:
    """Raise `BundleError` for anything but a list of distinct symbols of a tokenizer."""
    if not isinstance(symbols, list) or len(symbols) > MAX_SYMBOLS:
        got = f"a list of {len(symbols):,}" if isinstance(symbols, list) else short_repr(symbols)
        raise BundleError(
            f"vocabulary.symbols must be a list of at most {MAX_SYMBOLS:,} texts, got {got}"
        )
    seen = set[str]()
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


def check_merges(merges: Any, symbols: Sequence[str]) -> None:
    """Raise `BundleError` for anything but a list of distinct pairs of places in `symbols` whose
    symbols together are a symbol."""
    if not isinstance(merges, list) or len(merges) > MAX_SYMBOLS:
        raise BundleError(f"vocabulary.merges must be a list of at most {MAX_SYMBOLS:,} pairs")
    known, seen = set(symbols), set[tuple[int, int]]()
    for rank, pair in enumerate(merges):
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(type(it) is int and 0 <= it < len(symbols) for it in pair):
            raise BundleError(
                f"vocabulary.merges[{rank}] must be two places of symbols, got {short_repr(pair)}"
            )
        left, right = pair
        if (left, right) in seen or symbols[left] + symbols[right] not in known:
            raise BundleError(
                f"vocabulary.merges[{rank}] must differ from all before it, and its symbols "
                f"together must be a symbol, got {short_repr(symbols[left] + symbols[right])}"
            )
        seen.add((left, right))


def one_line(text: str) -> str:
    """A text with line breaks, tabs and other control characters escaped, for terminals."""
    return "".join(
        symbol if symbol.isprintable() else symbol.encode("unicode_escape").decode()
        for symbol in text
    )
