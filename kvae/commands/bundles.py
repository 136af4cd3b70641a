"""Helpers of the commands that load a bundle: arguments, deadline, sampler and input texts."""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Mapping
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
    columns = Columns(options.column or "", id=options.id_column, format=options.format or AUTO)
    notes: list[str] = []
    texts: list[str] = []
    ids: list[str] = []
    blank, any_ids = 0, False
    for records in records_of(options.file, columns, notes):
        keep = [not is_blank(text) for text in records.texts]
        blank += keep.count(False)
        any_ids = any_ids or records.ids is not None
        texts += itertools.compress(records.texts, keep)
        ids += itertools.compress(records.ids or itertools.repeat("", len(keep)), keep)
    if blank:
        kind = "lines" if format_of(options.file, columns) == "lines" else "texts"
        notes.append(f"{options.file}: {blank:,} blank {kind} skipped")
    for note in notes:
        say(note)
    if not texts:
        raise DataError(f"{options.file}: has no text; give a file with one text per line")
    return Records(texts, ids=ids if any_ids else None)


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
