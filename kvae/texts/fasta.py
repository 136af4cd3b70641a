"""FASTA: sequences below headers that begin with `>`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kvae.serving.errors import DataError

from .lines import blocks_of_lines
from .records import LONGEST_TEXT, Columns, Records

COMMENT = re.compile(r"^;.*\n", re.MULTILINE)
"""A line that is a comment."""


def read_fasta(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the sequences of a file, each without line breaks and blanks; their identifiers are
    their headers without `>`.

    Lines that begin with `;` are comments. Raises `DataError` if another line stands before the
    first header, and for a sequence over `LONGEST_TEXT` characters.
    """
    current: list[str] = []  # the last record, which the next block may continue
    line = 0
    for block in blocks_of_lines([file]):
        before, *records = f"\n{COMMENT.sub('', block)}".split("\n>")
        if current:
            current.append(before)
        elif before.strip():
            raise DataError(no_header(file, block, line))
        if records:
            whole = ["".join(current), *records[:-1]] if current else records[:-1]
            yield sequences(whole)
            current = records[-1:]
        if sum(map(len, current)) > LONGEST_TEXT:
            raise DataError(
                f"{file}: the sequence {current[0][:40].partition(' ')[0]!r} has over "
                f"{LONGEST_TEXT:,} characters; cut it into parts, each below a header"
            )
        line += block.count("\n")
    if current:
        yield sequences(["".join(current)])


def sequences(records: Iterable[str]) -> Records:
    """Records, each a header and lines of a sequence."""
    texts, ids = [], []
    for record in records:
        head, _, body = record.partition("\n")
        texts.append("".join(body.split()))
        ids.append(head.strip())
    return Records(texts, ids=ids)


def no_header(file: str, block: str, before: int) -> str:
    """The error for a file whose first line with content is no header."""
    lines = enumerate(block.split("\n"), start=before + 1)
    row = next(number for number, line in lines if line.strip() and line[0] != ";")
    return (
        f"{file}: row {row:,} stands before the first header, which begins with >; give a FASTA "
        f"file, or read it with --format lines"
    )
