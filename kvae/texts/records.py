"""Records: texts with their labels and identifiers, in blocks, and the columns they come from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple, TypeAlias

from kvae.serving.errors import DataError

BLOCK = 2**20
"""Characters of text in a block, about. A block has at least one whole text."""

LONGEST_TEXT = 2**24
"""Largest number of characters of a line, a field or a sequence. It must fit into memory."""


class Records(NamedTuple):
    """A block of texts. Labels and identifiers are as many as the texts, or None if there are none.

    An unknown label is an empty text.
    """

    texts: list[str]
    labels: list[str] | None = None
    ids: list[str] | None = None

    def where(self, keep: Sequence[bool]) -> Records:
        """The records for which `keep` is true."""
        return Records(
            list(compress(self.texts, keep)),
            *(None if part is None else list(compress(part, keep)) for part in self[1:]),
        )


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold texts, labels and identifiers, and the format of the files.

    A column is a name, a dotted key of nested objects, or a number from 1. Without `text` the only
    column of texts is taken. `auto` tells the format of each file by its name and first bytes.
    """

    text: str = ""
    label: str = ""
    id: str = ""
    format: str = "auto"


Reader: TypeAlias = Callable[[str, Columns, list[str]], Iterator[Records]]
"""A function that yields the records of a file. It adds notes without the name of the file."""


def is_blank(text: str) -> bool:
    """Whether a text is empty or white space alone. Such texts are skipped."""
    return not text or text.isspace()


def joined(blocks: Iterable[Records]) -> Iterator[Records]:
    """Yield the same records in blocks of at least `BLOCK` characters, except the last one and one
    before records with other parts."""
    waiting: list[Records] = []
    size = 0
    for block in blocks:
        if waiting and parts(block) != parts(waiting[0]):
            yield together(waiting)
            waiting, size = [], 0
        waiting.append(block)
        size += sum(map(len, block.texts)) + len(block.texts)
        if size >= BLOCK:
            yield together(waiting)
            waiting, size = [], 0
    if waiting:
        yield together(waiting)


def parts(records: Records) -> tuple[bool, bool]:
    """Whether records have labels and whether they have identifiers."""
    return records.labels is not None, records.ids is not None


def together(blocks: Sequence[Records]) -> Records:
    """Blocks with the same parts as one."""
    if len(blocks) == 1:
        return blocks[0]
    texts, labels, ids = zip(*blocks, strict=True)
    chain = itertools.chain.from_iterable
    return Records(
        list(chain(texts)),
        None if labels[0] is None else list(chain(labels)),
        None if ids[0] is None else list(chain(ids)),
    )


def as_label(value: Any) -> str:
    """A label or an identifier as text: `true` or `false` for a truth value, nothing for null or
    NaN. White space around it is left out, as it is in a file of labels."""
    if isinstance(value, str):
        return value.strip()
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def check_characters(file: str, texts: Sequence[str], rows: Sequence[int]) -> None:
    """Raise `DataError` for a text with a NUL or with half a surrogate pair, which UTF-8 lacks.

    `rows` are the numbers of the rows of the texts.
    """
    try:
        if b"\0" not in "\n".join(texts).encode():
            return
    except UnicodeEncodeError:
        pass
    for row, text in zip(rows, texts, strict=True):
        if "\0" in text:
            raise DataError(f"{file}: row {row:,} has a NUL character; remove it")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"{file}: row {row:,} has half a surrogate pair, which is no character; write the "
                f"file again with whole characters"
            )
