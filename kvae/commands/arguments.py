"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a command's parser is added to."""

Run: TypeAlias = Callable[[argparse.Namespace], None]
"""What a command does with its options."""


def add_command(
    commands: Commands, name: str, run: Run, description: str
) -> argparse.ArgumentParser:
    """The parser of a new command, with `--json`."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    json_argument(parser)
    return parser


def json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`: the result for programs; `show` in `output.py` obeys it."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on standard output"
    )


def bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """The bundle that a command loads, and how many threads run it."""
    parser.add_argument("bundle", metavar="BUNDLE", help="the folder that `kvae export` wrote")
    parser.add_argument("--threads", type=int, help="cores to use (default: all)")


def file_argument(parser: argparse.ArgumentParser) -> None:
    """The texts that a command reads; `input_texts` in `bundles.py` reads them."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        default="-",
        help="one text a line, .gz, .bz2 and .xz too; - is standard input (default)",
    )


def unknown_argument(parser: argparse.ArgumentParser, default: str = "refuse") -> None:
    """What happens to symbols outside the vocabulary of a bundle."""
    parser.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default=default,
        help="characters or words the model never saw (default: %(default)s)",
    )


def overwrite_argument(parser: argparse._ActionsContainer) -> None:
    """`--overwrite`, for a command that makes a run folder."""
    parser.add_argument(
        "--overwrite", action="store_true", help="remove an earlier run of that name first"
    )
