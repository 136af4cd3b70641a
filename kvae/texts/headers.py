"""Whether the first row of a table is a header, and which character separates its fields."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from .columns import NO_TEXT, SAMPLE
from .records import LONGEST_TEXT

DELIMITERS = ("\t", ";", "|", ",")
"""Characters that may separate fields. Of equally good ones the first is taken."""

WORDS = (
    "text texts sentence sentences label labels id ids idx index name names title content body "
    "comment comments review reviews message messages tweet tweets question answer summary "
    "category class target sentiment date time timestamp score rating stars lang language source "
    "url author user username word words sequence seq input output prompt response description "
    "translation document key value type topic tag tags split uid uuid filename line utterance "
    "headline abstract premise hypothesis intent emotion sms smiles"
)
USUAL_NAMES = frozenset(WORDS.split())
"""Names that columns usually have. A first row with one of them is a header."""

NAME = re.compile(r"\s*[^\W\d_][\w .:/#()\[\]-]{0,39}\s*|_\w+\s*")
"""What a column may be called: it begins with a letter and is short."""


@contextlib.contextmanager
def long_fields() -> Iterator[None]:
    """Let csv read fields of up to `LONGEST_TEXT` characters. Its own limit is 131,072."""
    limit = csv.field_size_limit(LONGEST_TEXT)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def first_rows(sample: str, delimiter: str, quoting: Any = csv.QUOTE_MINIMAL) -> list[list[str]]:
    """The first rows of a table that are not blank. Broken quotes are tolerated."""
    lines = io.StringIO(sample, newline="\n")
    rows: list[list[str]] = []
    with long_fields(), contextlib.suppress(csv.Error):
        rows.extend(
            itertools.islice(
                filter(None, csv.reader(lines, delimiter=delimiter, quoting=quoting)), SAMPLE
            )
        )
    return rows


def delimiter_of(sample: str) -> str:
    """The character that separates the fields of a table.

    It is the one that makes most fields, and as many in each of the first rows. If none makes as
    many in each, it is the one that makes most in the first row. A comma if there is only one
    column.
    """
    found = {delimiter: first_rows(sample, delimiter) for delimiter in DELIMITERS}
    widths = {delimiter: list(map(len, rows)) for delimiter, rows in found.items() if rows}

    def merit(delimiter: str) -> tuple[bool, int]:
        all_equal = len(set(widths[delimiter])) == 1
        return all_equal and widths[delimiter][0] > 1, widths[delimiter][0]

    best = max(widths, key=merit, default=",")
    return best if widths and merit(best)[1] > 1 else ","


def has_header(rows: Sequence[Sequence[str]]) -> bool | None:
    """Whether the first row is a header: True, False, or None if nothing tells.

    It is none if a cell cannot be a name: a number, a date, a long text, blank above values, the
    same as another, or a value of its column. It is one if a cell has a usual name, stands above
    numbers only, or is one word above texts of several words.
    """
    head = [cell.strip() for cell in rows[0]]
    below = [[row[i].strip() for row in rows[1:] if i < len(row)] for i in range(len(head))]
    filled = [(cell, values) for cell, values in zip(head, below, strict=True) if cell]
    blank = [values for cell, values in zip(head[1:], below[1:], strict=True) if not cell]
    if (
        not filled
        or len({cell for cell, _ in filled}) < len(filled)
        or any(map(any, blank))
        or any(not NAME.fullmatch(cell) or NO_TEXT.fullmatch(cell) for cell, _ in filled)
        or any(cell in values for cell, values in filled)
    ):
        return False
    if any(cell.lower() in USUAL_NAMES for cell, _ in filled):
        return True
    return True if any(is_name_of(cell, values) for cell, values in filled) else None


def is_name_of(cell: str, values: Sequence[str]) -> bool:
    """Whether a cell names the values below it: they are numbers, or texts where it is a word."""
    values = [value for value in values if value]
    if not values:
        return False
    several = sum(" " in value for value in values)
    return all(map(NO_TEXT.fullmatch, values)) or (" " not in cell and several > 0.8 * len(values))
