"""Output of commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.runs import to_json
from kvae.texts.records import as_label


def say(sentence: str) -> None:
    """Print a line on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def show(options: argparse.Namespace, report: Any, text: str) -> None:
    """Print a command's result: `report` as one JSON object with `--json`, else `text`."""
    print(to_json(report) if options.json else text)


def show_entries(
    options: argparse.Namespace, name: str, entries: Sequence[Mapping[str, Any]], text: str
) -> None:
    """Print a command's entries: with `--csv` as rows below a header, else as `show` does, with
    `--json` as a list called `name`.

    A list in an entry becomes a column for each of its values, numbered from 1.
    """
    if not options.csv:
        show(options, {name: entries}, text)
        return
    rows = [dict(cells_of(entry)) for entry in entries]
    writer = csv.DictWriter(sys.stdout, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def cells_of(entry: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of an entry's cells."""
    for name, value in entry.items():
        if isinstance(value, list):
            yield from ((f"{name}_{place}", each) for place, each in enumerate(value, start=1))
        else:
            yield name, as_label(value)


def table(rows: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> str:
    """Rows of equally many cells in aligned columns: to the right, those numbered in `left` to the
    left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def program(name: str) -> str:
    """The call of a program of this environment: its name if the shell finds it, else its path."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)
