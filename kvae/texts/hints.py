"""Whether lines look like a table, so that a reader hears that they are read as lines."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence

from .headers import DELIMITERS, first_rows, has_header

EXAMINED = 20
"""Lines that are examined."""

SEQUENCE = re.compile(r"[A-Za-z*.-]+\s*")
"""A line of a sequence in FASTA."""

LONG_SEQUENCE = 20
"""Characters in a line that only a sequence has, without a blank, below a line with `>`."""


def table_hint(text: str) -> Iterator[str]:
    """Yield a note if the first lines of a text look like a table, JSON lines or FASTA."""
    lines = [line for line in text.split("\n", EXAMINED + 1)[:EXAMINED] if line.strip()]
    if not lines:
        return
    if all(map(is_object, lines[:5])):
        yield "looks like JSON lines, but is read as lines with their braces; try --format jsonl"
    elif is_fasta(lines):
        yield "looks like FASTA, but is read as lines with their headers; try --format fasta"
    elif is_table("\n".join(lines), "\t"):
        yield "looks like a table, but is read as lines with their tabs; try --format tsv"
    elif any(is_table("\n".join(lines), delimiter) for delimiter in DELIMITERS):
        yield "looks like a table, but is read as lines with their delimiters; try --format csv"


def is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def is_fasta(lines: Sequence[str]) -> bool:
    """Whether lines are headers with `>` and sequences, one of them capital or long."""
    sequences = [line for line in lines if not line.startswith((">", ";"))]
    return (
        re.match(r">\S", lines[0]) is not None
        and bool(sequences)
        and all(map(SEQUENCE.fullmatch, sequences))
        and any(line.isupper() or len(line) >= LONG_SEQUENCE for line in sequences)
    )


def is_table(text: str, delimiter: str) -> bool:
    """Whether lines have the same fields each, below a row that is certainly a header.

    No field of the header begins with a blank: sentences have one after a comma.
    """
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = first_rows(text, delimiter, quoting)
    complete = rows[:-1] if len(rows) > 2 else rows  # the last one may be cut
    return (
        len(rows) > 1
        and len(rows[0]) > 1
        and {len(row) for row in complete} == {len(rows[0])}
        and not any(cell.startswith(" ") for cell in rows[0])
        and has_header(complete) is True
    )
