"""JSON lines: one JSON object in each line, read by Python's json."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from kvae.serving.errors import DataError, short_repr

from .columns import SAMPLE, Column, named, place_of, text_column
from .files import pieces_of
from .lines import whole_lines
from .records import LONGEST_TEXT, Columns, Records, as_label, check_characters

Keys: TypeAlias = tuple[str, ...]
"""The keys that lead to a value through nested objects."""

Objects: TypeAlias = list[dict[str, Any]]

MOST_LINES = 2**9
"""Lines that are read at a time. More are slower, since Python's garbage collector visits them."""

KINDS = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
    list: "a list",
    dict: "an object",
    str: "a text",
}


def read_jsonl(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the records of JSON lines. Blank lines are left out.

    Raises `DataError` for a line that is no JSON object, for a text that is missing, null or no
    string, and for a file that is one array or one object.
    """
    pieces = pieces_of(file)
    beginning = "".join(itertools.islice(pieces, 2))
    check_beginning(file, beginning)
    way_out = f"write each record in a line of its own, as with jq -c '.[]' {file}"
    blocks = whole_lines(file, itertools.chain([beginning], pieces), way_out)
    found: tuple[Keys, Keys | None, Keys | None] | None = None
    before = 0
    for lines in parts_of(blocks):
        rows, numbers = objects_in(file, lines, before)
        if rows:
            found = found or keys_for(file, columns, rows[:SAMPLE], notes)
            text, label, identifier = found
            records = Records(
                texts_of(file, rows, numbers, text),
                None if label is None else labels_of(rows, label),
                None if identifier is None else labels_of(rows, identifier),
            )
            if any("\\u" in line for line in lines):  # only escapes stand for what UTF-8 lacks
                for values in filter(None, records):
                    check_characters(file, values, numbers)
            yield records
        before += len(lines)


def parts_of(blocks: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines of blocks, at most `MOST_LINES` at a time."""
    for block in blocks:
        lines = block.split("\n")[:-1]
        for start in range(0, len(lines), MOST_LINES):
            yield lines[start : start + MOST_LINES]


def check_beginning(file: str, beginning: str) -> None:
    """Raise `DataError` for a file that is one array, or one object over several lines."""
    start = beginning.lstrip()
    if start.startswith("["):
        raise DataError(
            f"{file}: holds a JSON array, not JSON lines; write each record in a line of its own: "
            f"jq -c '.[]' {file}"
        )
    first = start.split("\n", 1)[0].strip()
    if not first.startswith("{") or is_json(first) or len(first) > LONGEST_TEXT:
        return
    if first == "{" or first.endswith(("{", "[", ",")):
        raise DataError(
            f"{file}: holds JSON over several lines, not JSON lines; write each object in a line "
            f"of its own: jq -c . {file}, or jq -c '.KEY[]' {file} for the list under a key"
        )


def is_json(line: str) -> bool:
    """Whether a line is JSON."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def objects_in(file: str, lines: Sequence[str], before: int) -> tuple[Objects, Sequence[int]]:
    """The objects in lines, and the numbers of their lines. `before` lines stand before these."""
    numbers: Sequence[int] = range(before + 1, before + len(lines) + 1)
    if not all(map(str.strip, lines)):
        numbers = [number for number, line in zip(numbers, lines, strict=True) if line.strip()]
        lines = list(filter(str.strip, lines))
    rows: Objects = []
    try:
        rows.extend(map(json.loads, lines))  # keeps what stands before an error
    except (ValueError, RecursionError) as error:
        column = f" at character {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise DataError(
            f"{file}: row {numbers[len(rows)]:,} is no JSON{column} ({reason}); correct it, or "
            f"read the file with --format lines"
        ) from error
    if set(map(type, rows)) - {dict}:
        bad = next(i for i, row in enumerate(rows) if type(row) is not dict)
        raise DataError(
            f"{file}: row {numbers[bad]:,} is {KINDS[type(rows[bad])]}, not a JSON object; write "
            f'each record as {{"text": ...}}'
        )
    return rows, numbers


def keys_for(
    file: str, columns: Columns, rows: Objects, notes: list[str]
) -> tuple[Keys, Keys | None, Keys | None]:
    """The keys of text, label and identifier, by the first rows."""
    leaves: dict[Keys, list[Any]] = {}
    for row in rows:
        for keys, value in leaves_of(row):
            leaves.setdefault(keys, []).append(value)
    found = list(leaves)
    names = [".".join(keys) for keys in found]

    def keys_of(name: str) -> Keys | None:
        if not name:
            return None
        inner = {".".join(keys[:n]): keys[:n] for keys in found for n in range(1, len(keys))}
        return inner[name] if name in inner else found[place_of(file, name, names)]

    label, identifier, text = map(keys_of, (columns.label, columns.id, columns.text))
    if text is None:
        taken = {found.index(keys) for keys in (label, identifier) if keys in found}
        strings = [i for i, keys in enumerate(found) if i not in taken and is_text(leaves[keys])]
        if not strings:
            check_one_object(file, rows)
            raise DataError(f"{file}: no key holds texts; its keys are {named(names) or 'none'}")
        table = [
            Column(names[i], [value for value in leaves[found[i]] if isinstance(value, str)])
            for i in strings
        ]
        place = text_column(file, table)
        text = found[strings[place]]
        notes.append(f"texts from key {table[place].name!r}")
    return text, label, identifier


def leaves_of(row: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the values of an object and of the objects in it, with their keys."""
    for key, value in row.items():
        if isinstance(value, dict) and value and len(above) < 8:
            yield from leaves_of(value, (*above, key))
        else:
            yield (*above, key), value


def is_text(values: Sequence[Any]) -> bool:
    """Whether some value is a string and none is a number or a list."""
    return any(isinstance(value, str) for value in values) and all(
        isinstance(value, str | None) for value in values
    )


def check_one_object(file: str, rows: Objects) -> None:
    """Raise `DataError` for a file of one object that has a list of records."""
    lists = [key for key, value in rows[0].items() if isinstance(value, list)]
    if len(rows) == 1 and lists:
        raise DataError(
            f"{file}: holds one JSON object, not JSON lines; write the records in its list in "
            f"lines of their own: jq -c '.{lists[0]}[]' {file}"
        )


def values_of(rows: Objects, keys: Keys) -> list[Any]:
    """The values under keys in objects. None where a key is missing."""
    if len(keys) == 1:
        with contextlib.suppress(KeyError):
            return list(map(itemgetter(keys[0]), rows))
    values: list[Any] = list(rows)
    for key in keys:
        values = [value.get(key) if isinstance(value, dict) else None for value in values]
    return values


def labels_of(rows: Objects, keys: Keys) -> list[str]:
    """The values under keys in objects as texts, empty where a key is missing."""
    return list(map(as_label, values_of(rows, keys)))


def texts_of(file: str, rows: Objects, numbers: Sequence[int], keys: Keys) -> list[str]:
    """The texts under keys in objects. Raises `DataError` for one that is missing or no string."""
    texts = values_of(rows, keys)
    if set(map(type, texts)) <= {str}:
        return texts
    bad = next(i for i, text in enumerate(texts) if type(text) is not str)
    name, where = ".".join(keys), f"{file}: row {numbers[bad]:,}"
    if texts[bad] is None:
        last = values_of(rows[bad : bad + 1], keys[:-1])[0]
        is_null = isinstance(last, dict) and keys[-1] in last
        raise DataError(
            f"{where} {'has null for' if is_null else 'has no key'} {name!r}; leave such rows out, "
            f"as with jq -c 'select(.{name} != null)'"
        )
    way_out = f"make it one, as with jq -c '.{name} |= tostring', or choose another key"
    raise DataError(
        f"{where} has {short_repr(texts[bad])} under {name!r}, {KINDS[type(texts[bad])]} where a "
        f"text is expected; {way_out}"
    )
