"""Tables of delimited fields: CSV and TSV, read by Python's csv."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from kvae.serving.errors import DataError

from .columns import SAMPLE, Column, is_number, place_of, text_column
from .headers import delimiter_of, first_rows, has_header, long_fields
from .lines import blocks_of_lines
from .records import BLOCK, LONGEST_TEXT, Columns, Records

Rows: TypeAlias = list[list[str]]

MOST_ROWS = 2**9
"""Rows that are read at a time. More are slower, since Python's garbage collector visits them."""


class Layout(NamedTuple):
    """What the first rows tell about a table."""

    delimiter: str
    quoting: int
    header: bool
    width: int
    text: int
    label: int | None = None
    id: int | None = None
    rows: int = MOST_ROWS
    """Rows that are read at a time: at most about `BLOCK` characters."""


def read_csv(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the records of a table with commas, semicolons, tabs or bars between its fields.

    Raises `DataError` for broken quotes, for a row with another number of fields than the first,
    and for a header without rows.
    """
    return records_in(file, columns, notes, delimiter_of)


def read_tsv(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """`read_csv` for a table with tabs between its fields.

    Quotes are ordinary characters if every line has as many tabs as the first and quotes would join
    lines or are broken.
    """
    return records_in(file, columns, notes, lambda sample: "\t")


def records_in(
    file: str, columns: Columns, notes: list[str], choose: Callable[[str], str]
) -> Iterator[Records]:
    """Yield the records of a table whose delimiter `choose` tells from its beginning."""
    blocks = blocks_of_lines([file])
    sample = "".join(itertools.islice(blocks, 2))
    delimiter = choose(sample)
    quoting = quoting_of(sample) if delimiter == "\t" else csv.QUOTE_MINIMAL
    rows = first_rows(sample, delimiter, quoting)
    if len(sample) > BLOCK and 1 < len(rows) < SAMPLE:
        del rows[-1]  # it may continue behind the sample
    if not rows:
        return
    text_of_all = itertools.chain([sample], blocks)
    if set(map(len, rows)) != {len(rows[0])}:
        for _ in chunks(file, text_of_all, Layout(delimiter, quoting, True, len(rows[0]), 0)):
            pass  # it raises the error
    if quoting == csv.QUOTE_NONE and '"' in sample:
        notes.append("quotes do not enclose fields here: they are read as characters")
    layout = layout_of(file, columns, rows, delimiter, quoting, notes)
    pick_text = itemgetter(layout.text)
    pick_label = None if layout.label is None else itemgetter(layout.label)
    pick_id = None if layout.id is None else itemgetter(layout.id)
    waits_for_header, any_rows = layout.header, False
    for rows in chunks(file, text_of_all, layout):
        if waits_for_header and rows:
            del rows[0]
            waits_for_header = False
        any_rows = any_rows or bool(rows)
        yield Records(
            list(map(pick_text, rows)),
            list(map(pick_label, rows)) if pick_label else None,
            list(map(pick_id, rows)) if pick_id else None,
        )
    if not any_rows:
        raise DataError(f"{file}: has a header, but no rows below it; give a file with texts")


def quoting_of(sample: str) -> int:
    """How csv reads the quotes of a table with tabs: as it does, or as ordinary characters."""
    if '"' not in sample:
        return csv.QUOTE_MINIMAL
    lines = [line for line in sample.split("\n") if line]
    if len({line.count("\t") for line in lines}) > 1:
        return csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(sample, newline="\n"), delimiter="\t", strict=True)
    try:
        with long_fields():
            joins_lines = sum(map(bool, reader)) < len(lines)
    except csv.Error:
        return csv.QUOTE_NONE
    return csv.QUOTE_NONE if joins_lines else csv.QUOTE_MINIMAL


def layout_of(
    file: str,
    columns: Columns,
    rows: Sequence[Sequence[str]],
    delimiter: str,
    quoting: int,
    notes: list[str],
) -> Layout:
    """The layout of a table, by its first rows and the columns that are asked for.

    A column given by its name means that there is a header. If nothing tells, there is none where a
    column is given by its number, and there is one otherwise.
    """
    wanted = list(filter(None, (columns.text, columns.label, columns.id)))
    by_name = not all(map(is_number, wanted))
    told = True if by_name else has_header(rows)
    header = not wanted if told is None else told
    width = len(rows[0])
    numbers = list(map(str, range(1, width + 1)))
    names = [name.strip().removeprefix("\ufeff") for name in rows[0]] if header else numbers
    way_out = "; if its first row is no header, give the number of a column" if by_name else ""

    def place(name: str) -> int | None:
        if not name:
            return None
        looked_at = numbers if is_number(name) and name not in names else names
        return place_of(file, name, looked_at, way_out)

    label, identifier, text = place(columns.label), place(columns.id), place(columns.text)
    if header and len(rows) == 1:
        text = text or 0  # there is nothing to choose by; a row below may be broken
    elif text is None:
        values = rows[1:] if header else rows
        table = [
            Column(name or numbers[i], [row[i] for row in values if i < len(row)])
            for i, name in enumerate(names)
        ]
        text = text_column(file, table, {i for i in (label, identifier) if i is not None})
        chosen = repr(table[text].name) if header else table[text].name
        notes.append(
            f"texts from column {chosen}" + ("" if header else "; the first row is no header")
        )
    elif not by_name:
        kind = "a header" if header else "no header"
        notes.append(f"column {columns.text}: the first row is {kind}, {shown(rows[0])}")
    longest = max(sum(map(len, row)) for row in rows)
    most = min(max(BLOCK // max(longest, 1), 1), MOST_ROWS)
    return Layout(delimiter, quoting, header, width, text, label, identifier, most)


def shown(row: Sequence[str]) -> str:
    """A row for a note, on one line and short."""
    text = ", ".join(" ".join(cell[:40].split()) for cell in row[:10])
    return f"{text[:60]}..." if len(text) > 63 else text


def chunks(file: str, blocks: Iterable[str], layout: Layout) -> Iterator[Rows]:
    """Yield the rows of a table in lists, without blank lines.

    Raises `DataError` for a row that csv cannot read or that has another number of fields.
    """
    lines = itertools.chain.from_iterable(io.StringIO(block, newline="\n") for block in blocks)
    reader = csv.reader(
        lines,
        delimiter=layout.delimiter,
        quoting=layout.quoting,  # type: ignore[arg-type]
        strict=True,
    )
    before = 0
    while True:
        rows: Rows = []
        first_line = reader.line_num + 1
        try:
            with long_fields():
                rows.extend(itertools.islice(reader, layout.rows))  # keeps what precedes an error
        except csv.Error as error:
            check_widths(file, rows, before, first_line, layout)
            where = place(before, rows, first_line)
            raise DataError(f"{file}: {where}: {way_out_of(error, layout)}") from error
        if not rows:
            return
        check_widths(file, rows, before, first_line, layout)
        before += len(rows)
        yield rows if all(rows) else list(filter(None, rows))


def check_widths(file: str, rows: Rows, before: int, first_line: int, layout: Layout) -> None:
    """Raise `DataError` for the first row with another number of fields than the first row of the
    table."""
    if set(map(len, rows)) <= {0, layout.width}:
        return
    bad = next(i for i, row in enumerate(rows) if row and len(row) != layout.width)
    count, name = len(rows[bad]), {"\t": "a tab"}.get(layout.delimiter, layout.delimiter)
    first = "header" if layout.header else "first row"
    if count > layout.width:
        way_out = f"put quotes around fields that contain {name}"
    else:
        way_out = "complete the row, and put quotes around fields that contain line breaks"
    if layout.width == 1:
        way_out += ", or read it with --format lines"
    raise DataError(
        f"{file}: {place(before, rows[:bad], first_line)} has {fields(count)}, the {first} has "
        f"{layout.width}; {way_out}"
    )


def place(before: int, rows: Rows, first_line: int) -> str:
    """The number of the row that follows `rows`, and of its line if that is another one.

    Rows are counted from 1 with the header and blank lines, as in a spreadsheet.
    """
    row = before + len(rows) + 1
    line = first_line + sum(1 + sum(cell.count("\n") for cell in cells) for cells in rows)
    return f"row {row:,}" if row == line else f"row {row:,} (line {line:,})"


def fields(count: int) -> str:
    """A number of fields in words."""
    return "1 field" if count == 1 else f"{count} fields"


def way_out_of(error: csv.Error, layout: Layout) -> str:
    """What is wrong with a row that csv cannot read, and the way out."""
    message = str(error)
    if "unexpected end" in message:
        return "its quote is never closed; close it, or double quotes that belong to a text"
    if "field limit" in message:
        return (
            f"a field has over {LONGEST_TEXT:,} characters; is its quote closed? Double quotes "
            f"that belong to a text"
        )
    if "expected after" in message:
        return (
            'a quote ends a field, but more follows; double quotes that belong to a text: "so ""it"'
            '" is"'
        )
    if "new-line" in message:
        return "has a carriage return outside quotes; put the field in quotes or remove it"
    return f"cannot be read ({message}); write the file again as CSV"
