"""The column of a table that holds the texts: the one that is named, or the only one of texts."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from kvae.sections import nearest
from kvae.serving.errors import DataError

SAMPLE = 100
"""Rows that are examined to tell which column holds texts and whether there is a header."""

LONGEST_TOKEN = 64
"""Characters that a single word may have to count as an identifier, not as a text."""

MOST_NAMED = 20
"""Columns that a message names."""

NO_TEXT = re.compile(
    r"\s*([-+]?[\d.,_]*\d[\d.,_]*([eE][-+]?\d+)?\s*%?"  # numbers
    r"|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ]+\d{1,2}:\d\d\S*)?( *[AP]M)?|\d{1,2}:\d\d(:\d\d)?"
    r"|true|false|none|null|nan|n/?a)?\s*",
    re.IGNORECASE,
)
"""Numbers, dates, times, truth values and what stands for no value. No text is made of these."""


class Column(NamedTuple):
    """A column: its name, and its first values as texts."""

    name: str
    values: Sequence[str]


def is_number(name: str) -> bool:
    """Whether a column is given by its number."""
    return name.isascii() and name.isdigit()


def place_of(file: str, wanted: str, names: Sequence[str], way_out: str = "") -> int:
    """The place of a column, from 0, by its name or number. Raises `DataError` if there is none."""
    count = names.count(wanted)
    if count == 1:
        return names.index(wanted)
    if count:
        raise DataError(f"{file}: {count} columns are named {wanted!r}; give one by its number")
    if is_number(wanted) and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    if is_number(wanted):
        raise DataError(
            f"{file}: has no column {wanted}; it has {len(names)}, {named(names)}, numbered from 1"
        )
    suggestion = nearest(wanted, [name for name in names if name])
    known = "" if "choose one of" in suggestion else f" Its columns are {named(names)}"
    raise DataError(f"{file}: has no column {wanted!r}{suggestion}{known}{way_out}")


def named(names: Sequence[str]) -> str:
    """Names of columns in a message."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(map(repr, names[:MOST_NAMED])) + more


def text_column(file: str, columns: Sequence[Column], taken: Collection[int] = ()) -> int:
    """The place of the only column of texts. `taken` are places of labels and identifiers.

    Columns of numbers, dates and truth values hold no texts. Of the others those of single words
    are left out if another has longer texts. A table of one column has its texts there. Raises
    `DataError` if no column or several columns remain.
    """
    free = [place for place in range(len(columns)) if place not in taken]
    texts = [place for place in free if holds_text(columns[place].values)]
    texts = texts or (free if len(free) == 1 else [])
    sizes = {place: size_of(columns[place].values) for place in texts}
    found = [place for place in texts if sizes[place] == max(sizes.values())]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{file}: {len(found)} columns hold texts: {examples([columns[i] for i in found])}; "
            f"name one with --column"
        )
    raise DataError(
        f"{file}: no column holds texts"
        + (f": {examples(columns)}; name one with --column" if columns else "")
    )


def holds_text(values: Sequence[str]) -> bool:
    """Whether some value is neither blank nor a number, a date or a truth value."""
    return not all(map(NO_TEXT.fullmatch, values))


def size_of(values: Sequence[str]) -> int:
    """2 if some value has several words, 1 if some word is too long for an identifier, else 0."""
    if any(len(value.split()) > 1 for value in values):
        return 2
    return int(any(len(value) > LONGEST_TOKEN for value in values))


def examples(columns: Sequence[Column]) -> str:
    """Columns with their first values, shortened, for a message."""
    shown = [f"{column.name!r} ({first_value(column.values)})" for column in columns[:MOST_NAMED]]
    more = f" and {len(columns) - MOST_NAMED} more" if len(columns) > MOST_NAMED else ""
    return ", ".join(shown) + more


def first_value(values: Sequence[str]) -> str:
    """The first value that is not blank, on one line and short."""
    value = " ".join(next((value for value in values if value.strip()), "")[:200].split())
    return f"{value[:30].rstrip()}..." if len(value) > 33 else value or "empty"
