"""Helpers of the commands that load a bundle: arguments, deadline, sampler and input texts."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kvae.serving.errors import ConfigError, DataError
from kvae.texts.files import STANDARD_INPUT
from kvae.texts.formats import AUTO, format_of, records_of
from kvae.texts.records import Columns, Records, is_blank

from .arguments import Commands, Run, add_command, bundle_arguments
from .output import say

if TYPE_CHECKING:
    from kvae.serving.sampler import Sampler


def add_bundle_command(
    commands: Commands, name: str, run: Run, description: str, reads_file: bool = False
) -> argparse.ArgumentParser:
    """Add a command that loads a bundle; its parser has BUNDLE, `--threads` and `--deadline`.

    A command that reads a file of texts has `--csv` too.
    """
    parser = add_command(commands, name, within_deadline(run), description, with_csv=reads_file)
    bundle_arguments(parser)
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="stop after this time, with exit code 5",
    )
    return parser


def within_deadline(run: Run) -> Run:
    """The command `run` with the time limit of `--deadline`."""

    def limited(options: argparse.Namespace) -> None:
        from kvae.serving.limits import call_limits

        with call_limits(options.deadline):
            run(options)

    return limited


def load_sampler(options: argparse.Namespace) -> Sampler:
    """The sampler of the bundle in a command's options."""
    from kvae.serving.sampler import Sampler

    return Sampler.load(options.bundle, options.threads)


def input_records(options: argparse.Namespace) -> Records:
    """The texts of `--text`, or those in FILE that are not blank, with their identifiers; notes
    about them go to standard error.

    There are identifiers if `--id-column` names a column or the format has them. Raises `DataError`
    if FILE has no text, and `ConfigError` if both are given.
    """
    if getattr(options, "texts", None):
        check_texts_alone(options)
        return Records(options.texts)
    if hasattr(options, "texts") and not names_a_file(options.file):
        raise DataError(f"{options.file}: no such file; give texts themselves with --text")
    notes: list[str] = []
    found = list(filled_records(options.file, columns_of(options), notes))
    for note in notes:
        say(note)
    if not found:
        raise no_text(options.file)
    texts = [text for records in found for text in records.texts]
    any_ids = any(records.ids is not None for records in found)
    ids = (records.ids or [""] * len(records.texts) for records in found)
    return Records(texts, ids=list(itertools.chain.from_iterable(ids)) if any_ids else None)


def columns_of(options: argparse.Namespace) -> Columns:
    """The columns and the format that `file_argument` asks for."""
    return Columns(options.column or "", id=options.id_column, format=options.format or AUTO)


def filled_records(source: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the records of a source whose texts are not blank, in blocks of about 1 MB of text. The
    number of the others becomes a note. Raises as `records_of` does."""
    blank = 0
    for records in records_of(source, columns, notes):
        keep = [not is_blank(text) for text in records.texts]
        blank += keep.count(False)
        if any(keep):
            yield records.where(keep)
    if blank:
        kind = "lines" if format_of(source, columns) == "lines" else "texts"
        notes.append(f"{source}: {blank:,} blank {kind} skipped")


def no_text(source: str) -> DataError:
    """The error of a source without a text that is not blank."""
    return DataError(f"{source}: has no text; give a file with one text per line")


def names_a_file(source: str) -> bool:
    """Whether a source is standard input, a pattern, or a file or folder that exists."""
    is_pattern = any(sign in source for sign in "*?[")
    return source == STANDARD_INPUT or is_pattern or os.path.exists(source)


def check_texts_alone(options: argparse.Namespace) -> None:
    """Raise `ConfigError` if `--text` comes with a file or with what is said about one."""
    given = {
        "FILE": options.file != STANDARD_INPUT,
        "--format": options.format,
        "--column": options.column,
        "--id-column": options.id_column,
    }
    for name, value in given.items():
        if value:
            raise ConfigError(f"--text takes the place of FILE: give it without {name}")


def with_ids(records: Records, entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Entries of a report about records in their order, each with the identifier as `id` if there
    are identifiers."""
    if records.ids is None:
        return [dict(entry) for entry in entries]
    return [{"id": name, **entry} for name, entry in zip(records.ids, entries, strict=True)]
