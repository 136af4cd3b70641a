"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The collection that a command's parser is added to."""

Run: TypeAlias = Callable[[argparse.Namespace], None]
"""The function of a command, called with its parsed options."""


def add_command(
    commands: Commands, name: str, run: Run, description: str
) -> argparse.ArgumentParser:
    """Add a command that `run` executes and return its parser, which has `--json`."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    json_argument(parser)
    return parser


def json_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--json`, which `show` in `output.py` reads."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )


def bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the bundle that a command loads, and `--threads`."""
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")


def file_argument(parser: argparse.ArgumentParser) -> None:
    """Add FILE, the texts that a command reads with `input_texts` in `bundles.py`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="one text a line, plain, .gz, .bz2 or .xz; - is standard input (default)",
    )


def unknown_argument(parser: argparse.ArgumentParser, default: str = "refuse") -> None:
    """Add `--unknown`: refuse or replace symbols that are not in the vocabulary of a bundle."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default=default,
        help="what to do with characters or words outside the vocabulary (default: %(default)s)",
    )


def overwrite_argument(parser: argparse._ActionsContainer) -> None:
    """Add `--overwrite`, for a command that makes a run folder."""
    parser.add_argument(
        "--overwrite", action="store_true", help="remove an earlier run in this folder first"
    )
