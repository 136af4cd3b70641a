"""Wordpieces: the longest piece of a word that is in the vocabulary, again and again."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

from .splitting import Spacing, is_ascii_sign, is_ideograph, units_by_spacing

CONTINUATION = "##"
"""Prefix of a wordpiece that continues a word."""

MAX_WORD = 100
"""Longest word that is split into wordpieces; a longer word is unknown. It counts UTF-8 bytes, and
characters for a splitting of BERT."""

MAX_UNITS = 1_000_000
"""Size of a cache of the ids of units, in units; a full cache is emptied."""


def text_of_words(words: Iterable[str]) -> str:
    """Words joined by single spaces, with no space around line breaks."""
    return " ".join(words).replace(" \n", "\n").replace("\n ", "\n")


def spaced_character(symbol: str) -> str:
    """A character that is a unit of its own with spaces around it, white space and control
    characters as one space, any other character unchanged."""
    category = unicodedata.category(symbol)
    is_unit = symbol == "\n" or is_ascii_sign(symbol) or is_ideograph(symbol)
    if is_unit or category.startswith("P"):
        return f" {symbol} "
    return " " if symbol == " " or category in ("Cc", "Cf") else symbol


UNIT_SPACING = Spacing(spaced_character)


def units_of_pieces(text: str) -> list[str]:
    """The words, punctuation marks and ideographs that are split into wordpieces (Devlin et al.
    2019, no case folding)."""
    return units_by_spacing(UNIT_SPACING, text)


def text_of_pieces(pieces: Iterable[str]) -> str:
    """Wordpieces joined into words, words joined by single spaces."""
    return text_of_words(" ".join(pieces).replace(" " + CONTINUATION, "").split(" "))


class WordpieceIds(dict[str, tuple[int, ...]]):
    """The ids of each unit's wordpieces, computed on first use. The longest wordpiece that fits is
    taken repeatedly; if none fits, the whole unit is UNKNOWN (Wu et al. 2016; Devlin et al. 2019).
    """

    def __init__(self, id_of: Mapping[str, int], unknown: int, in_characters: bool = False) -> None:
        super().__init__()
        self.id_of, self.unknown_id, self.in_characters = id_of, unknown, in_characters
        self.longest = max(map(len, id_of), default=0)

    def __missing__(self, unit: str) -> tuple[int, ...]:
        if len(self) >= MAX_UNITS:
            self.clear()
        self[unit] = found = self.ids_of_unit(unit)
        return found

    def unknown(self, unit: str) -> list[str]:
        """What of a unit is unknown: nothing or all of it."""
        return [unit] if self.unknown_id in self[unit] else []

    def ids_of_unit(self, unit: str) -> tuple[int, ...]:
        """The ids of a unit. A line break that is not in the alphabet counts as white space and has
        no id."""
        if unit == "\n":
            return (self.id_of["\n"],) if "\n" in self.id_of else ()
        size = len(unit) if self.in_characters else len(unit.encode("utf-8", "surrogatepass"))
        if size > MAX_WORD:
            return (self.unknown_id,)
        ids: list[int] = []
        start = 0
        while start < len(unit):
            prefix = CONTINUATION if start else ""
            ends = range(min(len(unit), start + self.longest), start, -1)
            end = next((end for end in ends if prefix + unit[start:end] in self.id_of), None)
            if end is None:
                return (self.unknown_id,)
            ids.append(self.id_of[prefix + unit[start:end]])
            start = end
        return tuple(ids)
