"""Lines as texts, and a whole file as one text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvae.serving.errors import DataError

from .files import pieces_of, read_file, split_lines
from .hints import table_hint
from .records import LONGEST_TEXT, Columns, Records

STREAM = "is it a stream? Then use --set data.mode=windows"
"""What to do with a line that is too long."""


def blocks_of_lines(files: Iterable[str]) -> Iterator[str]:
    """Yield the text of files in blocks of whole lines. Every line ends with a line break.

    Raises `DataError` for a line over `LONGEST_TEXT` characters.
    """
    for file in files:
        yield from whole_lines(file, pieces_of(file))


def whole_lines(file: str, pieces: Iterable[str], way_out: str = STREAM) -> Iterator[str]:
    """`blocks_of_lines` of the pieces of a file. The error for a long line has a way out."""
    rest: list[str] = []
    for piece in pieces:
        end = piece.rfind("\n") + 1
        if end:
            yield "".join((*rest, piece[:end]))
            rest = []
        rest.append(piece[end:])
        if sum(map(len, rest)) > LONGEST_TEXT:
            raise DataError(f"{file}: a line has over {LONGEST_TEXT:,} characters; {way_out}")
    if last := "".join(rest):
        yield last + "\n"


def read_lines(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield every line of a file, blank ones too. A file that looks like a table gets a note."""
    first = True
    for block in blocks_of_lines([file]):
        if first:
            notes += table_hint(block)
            first = False
        yield Records(split_lines(block))


def read_whole(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the text of a file as one text, without the line break at its end. Its identifier is
    the path of the file."""
    yield Records([read_file(file).removesuffix("\n")], ids=[file])
