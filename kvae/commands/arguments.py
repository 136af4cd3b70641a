"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

from kvae.texts.compression import READABLE_FORMATS
from kvae.texts.formats import AUTO, FORMATS

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The collection that a command's parser is added to."""

Run: TypeAlias = Callable[[argparse.Namespace], None]
"""The function of a command, called with its parsed options."""

FILE_HELP = (
    "one text a line, or a table (CSV, TSV, JSON lines, Parquet, Arrow) or FASTA, "
    f"{READABLE_FORMATS}; a folder or a pattern; - is standard input (default)"
)
"""The help of a source of texts."""


def add_command(
    commands: Commands, name: str, run: Run, description: str, with_csv: bool = False
) -> argparse.ArgumentParser:
    """Add a command that `run` executes and return its parser, which has `--json`, and `--csv` if
    asked for."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    choice = parser.add_mutually_exclusive_group() if with_csv else parser
    json_argument(choice)
    if with_csv:
        choice.add_argument(
            "--csv", action="store_true", help="print CSV with a header on standard output"
        )
    return parser


def json_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--json`, which `show` in `output.py` reads."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )


def bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundle that a command loads, and `--threads`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")


def file_argument(parser: argparse.ArgumentParser, with_texts: bool = False) -> None:
    """Add FILE, the texts that a command reads with `input_records` in `bundles.py`, its format and
    its columns; `with_texts` adds `--text`, which takes the place of FILE."""
    if with_texts:
        parser.add_argument(
            "--text",
            dest="texts",
            nargs="+",
            metavar="TEXT",
            help="texts to read instead of FILE",
        )
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help=FILE_HELP)
    table_arguments(parser)
    id_argument(parser, "the output of --json and --csv")


def files_argument(parser: argparse.ArgumentParser) -> None:
    """Add FILES, the sources that a command reads one after another, their format and columns."""
    parser.add_argument("files", metavar="FILE", nargs="*", default=["-"], help=FILE_HELP)
    table_arguments(parser)
    id_argument(parser, "the output")


def id_argument(parser: argparse.ArgumentParser, target: str) -> None:
    """Add `--id-column`; `target` is where the identifiers go."""
    parser.add_argument(
        "--id-column",
        default="",
        metavar="NAME|NUMBER",
        help=f"a column that is copied to {target} (default: none; the headers of FASTA)",
    )


def table_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--format` and `--column`: what a file is, and where its texts are."""
    parser.add_argument(
        "--format",
        choices=(AUTO, *FORMATS),
        help="what the file is (default: its name and first bytes tell; standard input is lines)",
    )
    parser.add_argument(
        "--column",
        metavar="NAME|NUMBER",
        help="the column of the texts: a name, a dotted key of JSON, or a number from 1 (default: "
        "the only column of texts)",
    )


def unknown_argument(parser: argparse.ArgumentParser, default: str = "refuse") -> None:
    """Add `--unknown`: refuse or replace symbols that are not in the vocabulary of a bundle."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default=default,
        help="what to do with characters or words outside the vocabulary (default: %(default)s)",
    )


def beam_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--beam`: how many beginnings of a text a beam search keeps."""
    parser.add_argument(
        "--beam",
        type=int,
        metavar="N",
        help="search more probable texts: keep N beginnings of a text at each position (default: "
        "the most probable token at each)",
    )


def overwrite_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--overwrite`, for a command that makes a run folder."""
    parser.add_argument(
        "--overwrite", action="store_true", help="remove an earlier run in this folder first"
    )
