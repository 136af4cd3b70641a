"""The formats of files with texts: which a file has, and the records of all files of a source."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from kvae.sections import nearest
from kvae.serving.errors import ConfigError

from .compression import ENDINGS
from .delimited import read_csv, read_tsv
from .fasta import read_fasta
from .files import (
    ARROW,
    BINARY,
    PARQUET,
    STANDARD_INPUT,
    FileKind,
    first_bytes,
    intact_files,
    kind_of,
)
from .json_lines import read_jsonl
from .lines import read_lines, read_whole
from .records import Columns, Reader, Records, joined
from .tables import read_arrow, read_parquet


class Format(NamedTuple):
    """A format: its reader, the endings of its files, and whether it has columns."""

    read: Reader
    endings: tuple[str, ...] = ()
    has_columns: bool = True


FORMATS: dict[str, Format] = {
    "lines": Format(read_lines, has_columns=False),
    "csv": Format(read_csv, (".csv",)),
    "tsv": Format(read_tsv, (".tsv", ".tab")),
    "jsonl": Format(read_jsonl, (".jsonl", ".ndjson", ".json")),
    "parquet": Format(read_parquet, (".parquet", ".pq")),
    "arrow": Format(read_arrow, (".arrow", ".feather", ".ipc")),
    "fasta": Format(read_fasta, (".fasta", ".faa", ".fna", ".ffn", ".frn", ".fa"), False),
    "text": Format(read_whole, has_columns=False),
}
"""The formats by name. A file whose name has none of the endings is read as lines."""

AUTO = "auto"
"""Stands for the format that the name and the first bytes of each file tell."""


def records_of(
    source: str, columns: Columns, notes: list[str], corpora: Iterable[str] = ()
) -> Iterator[Records]:
    """Yield the records of all files of a source in their order, in blocks of about 1 MB of text.

    The source is a file, standard input (`-`), a folder or a pattern; each file has its own format.
    Blank texts are among the records. `corpora` are names that the message may suggest if there is
    no such file. Raises `DataError` for files that cannot be read and `ConfigError` for an unknown
    format, or for a column of a file without columns.
    """
    check_format(columns.format)
    yield from joined(records_of_files(source, columns, notes, corpora))


def records_of_files(
    source: str, columns: Columns, notes: list[str], corpora: Iterable[str]
) -> Iterator[Records]:
    """`records_of`, in the blocks of the readers. Of equal notes about several files the first is
    given, and at the end the number of the others."""
    noted: Counter[str] = Counter()
    for file in intact_files(source, notes, corpora, readable_kinds(columns)):
        name, found = format_of(file, columns), list[str]()
        check_columns(file, name, columns)
        for records in FORMATS[name].read(file, columns, found):
            noted.update(found)
            notes += [f"{file}: {note}" for note in found if noted[note] == 1]
            found.clear()
            yield records
    notes += [
        f"{source}: {count - 1:,} more files: {note}" for note, count in noted.items() if count > 1
    ]


def readable_kinds(columns: Columns) -> tuple[FileKind, ...]:
    """Kinds of files that are read besides text. Where another format is named, they are left out
    of a folder."""
    return (PARQUET, ARROW) if columns.format in (AUTO, "parquet", "arrow") else ()


def check_format(name: str) -> None:
    """Raise `ConfigError` for an unknown format."""
    if name not in (AUTO, *FORMATS):
        raise ConfigError(f"there is no format {name!r}{nearest(name, (AUTO, *FORMATS))}")


def check_columns(file: str, name: str, columns: Columns) -> None:
    """Raise `ConfigError` for a column of a file that has none."""
    if FORMATS[name].has_columns or not (columns.text or columns.label or columns.id):
        return
    wanted = columns.text or columns.label or columns.id
    raise ConfigError(
        f"{file}: is read as {name}, which have no column {wanted!r}; give a table, or name the "
        f"format of the file, as with --format csv or --format lines"
    )


def format_of(file: str, columns: Columns) -> str:
    """The format of a file: that of `columns`, else what its first bytes and its name tell.

    Standard input, pipes and devices hold lines. A file in `.fa` without a header holds lines in
    Persian.
    """
    if columns.format != AUTO:
        check_format(columns.format)
        return columns.format
    if file == STANDARD_INPUT or not Path(file).is_file():
        return "lines"
    start = first_bytes(file)
    if kind := {PARQUET: "parquet", ARROW: "arrow"}.get(kind_of(start, file) or BINARY):
        return kind
    name = re.sub(rf"({'|'.join(map(re.escape, ENDINGS))})$", "", Path(file).name.lower())
    ending = Path(name).suffix
    if ending == ".fa" and not start.lstrip(b"\xef\xbb\xbf\r\n").startswith((b">", b";")):
        return "lines"
    return next((key for key, form in FORMATS.items() if ending in form.endings), "lines")
