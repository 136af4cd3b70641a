"""Ways to split a text into words before the words are split into wordpieces or byte pairs.

A vocabulary that comes from a `tokenizer.json` names its way. Each is that of the package
`tokenizers`, code point by code point, for the code points that Python's tables of Unicode know.
`examples/javascript/kvae/splitting.js` has the same ways.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

WHITE_SPACE = frozenset(
    "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(8192, 8203)))
)
"""The white space of Unicode. The `str.split` of Python also splits at U+001C to U+001F."""

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

NO_IDEOGRAPHS = ((0x2B820, 0x2B91F),)
"""Ideographs of BERT that `tokenizers` does not separate."""


def code_points(text: str) -> frozenset[int]:
    """The code points of ranges in hexadecimal, as `2e43-2e4f 9fd`."""
    ends = [[int(end, 16) for end in part.split("-")] for part in text.split()]
    return frozenset(point for end in ends for point in range(end[0], end[-1] + 1))


NEWER_PUNCTUATION = code_points(
    "61d 9fd a76 c77 c84 1b4e-1b4f 1b7d-1b7f 2e43-2e4f 2e52-2e5d 10d6e 10ead 10ed0 10f55-10f59 "
    "10f86-10f89 113d4-113d5 113d7-113d8 1144b-1144f 1145a-1145b 1145d 11660-1166c 116b9 1183b "
    "11944-11946 119e2 11a3f-11a46 11a9a-11a9c 11a9e-11aa2 11b00-11b09 11be1 11c41-11c45 "
    "11c70-11c71 11ef7-11ef8 11f43-11f4f 11fff 12ff1-12ff2 16d6d-16d6f 16e97-16e9a 16fe2 1e5ff "
    "1e95e-1e95f"
)
"""Punctuation up to Unicode 17 that the tables of `tokenizers` for BERT do not have."""

OLDER_PUNCTUATION = code_points("166d 111c9")
"""Punctuation of these tables that Unicode has moved to other categories."""

NEWER_FORMATS = code_points("890-891 8e2 110cd 13430-1343f")
"""Format characters up to Unicode 17 that these tables do not have."""


def is_ideograph(symbol: str) -> bool:
    """True for a character that BERT separates from its neighbours."""
    return any(first <= ord(symbol) <= last for first, last in IDEOGRAPHS)


def is_ascii_sign(symbol: str) -> bool:
    """True for a printable ASCII character that is neither a letter, a digit nor a blank."""
    return "!" <= symbol <= "~" and not symbol.isalnum()


class Spacing(dict[int, str]):
    """Table for `str.translate` that puts spaces between units; filled on first use of each
    character."""

    def __init__(self, spaced: Callable[[str], str]) -> None:
        super().__init__()
        self.spaced = spaced

    def __missing__(self, point: int) -> str:
        self[point] = self.spaced(chr(point))
        return self[point]


def spaced_as_bert(symbol: str, clean: bool, chinese: bool) -> str:
    """A character as BERT spaces it: white space as a space, signs between spaces.

    `clean` removes control characters. `chinese` separates ideographs. The words are those of a
    `BertNormalizer` with these flags and a `BertPreTokenizer`.
    """
    point, category = ord(symbol), unicodedata.category(symbol)
    if clean and symbol not in "\t\n\r":
        is_format = category == "Cf" and point not in NEWER_FORMATS
        if symbol == "\ufffd" or category in ("Cc", "Co") or is_format:
            return ""
    if symbol in WHITE_SPACE:
        return " "
    is_sign = (
        is_ascii_sign(symbol)
        or point in OLDER_PUNCTUATION
        or (category.startswith("P") and point not in NEWER_PUNCTUATION)
    )
    is_separate = chinese and is_ideograph(symbol) and not in_ranges(point, NO_IDEOGRAPHS)
    return f" {symbol} " if is_sign or is_separate else symbol


def spaced_at_white_space(symbol: str) -> str:
    """A character, or a space for white space."""
    return " " if symbol in WHITE_SPACE else symbol


def in_ranges(point: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether a code point is in one of some ranges."""
    return any(first <= point <= last for first, last in ranges)


CIRCLED_LETTERS = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))
"""Symbols that Unicode counts as alphabetic."""


def spaced_as_kind(symbol: str) -> str:
    """A character as one of three kinds: `w` in a word, a space for white space, or `o`."""
    if symbol in WHITE_SPACE:
        return " "
    category = unicodedata.category(symbol)
    is_word = (
        category[0] in "LM"
        or category in ("Nd", "Nl", "Pc")
        or symbol in "\u200c\u200d"
        or in_ranges(ord(symbol), CIRCLED_LETTERS)
    )
    return "w" if is_word else "o"


CONTRACTED = "strevmld"
"""The letters of the contractions that GPT-2 separates."""


def spaced_as_gpt2(symbol: str) -> str:
    """A character as what GPT-2's pattern asks about it.

    `L` is a letter, `N` a number, a tab white space, `O` any other. Blanks, apostrophes and the
    letters of contractions are themselves.
    """
    if symbol in CONTRACTED or symbol in " '":
        return symbol
    if symbol in WHITE_SPACE:
        return "\t"
    category = unicodedata.category(symbol)[0]
    return category if category in "LN" else "O"


KINDS, GPT2_KINDS = Spacing(spaced_as_kind), Spacing(spaced_as_gpt2)
RUNS = re.compile("w+|o+")
GPT2_UNITS = re.compile(
    rf"'(?:s|t|re|ve|m|ll|d)| ?[L{CONTRACTED}]+| ?N+| ?[O']+|[ \t]+(?![LNO'{CONTRACTED}])|[ \t]+"
)
"""The pattern of GPT-2 (Radford et al. 2019) on the characters of `spaced_as_gpt2`."""


def units_by_spacing(table: Spacing, text: str) -> list[str]:
    """The units of a text that a table separates by spaces."""
    return [unit for unit in text.translate(table).split(" ") if unit]


def units_of_runs(text: str) -> list[str]:
    r"""The runs of word characters and of signs: `\w+|[^\w\s]+` of Unicode."""
    return [text[run.start() : run.end()] for run in RUNS.finditer(text.translate(KINDS))]


def units_of_gpt2(text: str) -> list[str]:
    """The words of GPT-2; a blank belongs to the word after it. Together they are the text."""
    kinds = text.translate(GPT2_KINDS)
    return [text[unit.start() : unit.end()] for unit in GPT2_UNITS.finditer(kinds)]


def whole(text: str) -> list[str]:
    """The text as one unit, no unit if it is empty."""
    return [text] if text else []


def after_blank(units: Callable[[str], list[str]], text: str) -> list[str]:
    """The units of a text that begins with a blank; the blank is added where it is missing."""
    return units(text if text.startswith(" ") or not text else " " + text)


def without_blank(join: Callable[[Sequence[str]], str], units: Sequence[str]) -> str:
    """The joined text without the blank that `after_blank` adds. Two blanks are of the text."""
    text = join(units)
    return text if text.startswith("  ") else text.removeprefix(" ")


@dataclass(frozen=True)
class Splitting:
    """A way to split a text into words, and to join words."""

    units: Callable[[str], list[str]]
    joined: Callable[[Sequence[str]], str] = " ".join
    of_bytes: bool = False
    """Whether the words are read as bytes and hold the blanks between them."""


def bert(clean: bool, chinese: bool) -> Splitting:
    """The splitting of BERT with these flags."""
    table = Spacing(partial(spaced_as_bert, clean=clean, chinese=chinese))
    return Splitting(partial(units_by_spacing, table))


SPLITTINGS = {
    "bert": bert(False, False),
    "bert_clean": bert(True, False),
    "bert_chinese": bert(False, True),
    "bert_clean_chinese": bert(True, True),
    "runs": Splitting(units_of_runs),
    "white_space": Splitting(partial(units_by_spacing, Spacing(spaced_at_white_space))),
    "gpt2": Splitting(units_of_gpt2, "".join, True),
    "gpt2_blank": Splitting(
        partial(after_blank, units_of_gpt2), partial(without_blank, "".join), True
    ),
    "whole": Splitting(whole, "".join, True),
    "whole_blank": Splitting(partial(after_blank, whole), partial(without_blank, "".join), True),
}
"""The ways by name. Those of bytes end in `_blank` if a blank is added before the text."""

WORD_SPLITTINGS = tuple(name for name, it in SPLITTINGS.items() if not it.of_bytes)
"""The names of the ways whose words hold no white space."""
