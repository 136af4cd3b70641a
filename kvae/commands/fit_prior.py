"""`kvae fit-prior`: fit the prior of a run to the codes of its training texts."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvae.serving.errors import ConfigError

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import program, say, show, table
from .reports import cell, end_sections
from .run_folders import open_run


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "fit-prior", run, "fit the prior of a run to the codes of its training texts"
    )
    parser.add_argument("run_folder", metavar="RUN", help="a finished run; it stays as it is")
    parser.add_argument(
        "--out", required=True, help="folder to make: the same run with the fitted prior"
    )
    parser.add_argument(
        "--components",
        type=int,
        default=10,
        metavar="K",
        help="Gaussians of the mixture, 1: a single one (default: %(default)s)",
    )
    parser.add_argument(
        "--covariance",
        choices=("full", "diagonal"),
        default="full",
        help="covariance of each Gaussian (default: %(default)s)",
    )
    parser.add_argument(
        "--texts",
        type=int,
        default=50_000,
        metavar="N",
        help="training texts to encode at most (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of codes and centres (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.fitted_prior import Fit, fit_prior
    if Path(options.out).exists():
        raise ConfigError(f"--out {options.out}: exists already; give a new folder")
    wish = Fit(options.components, options.covariance, options.texts, options.seed)
    record = fit_prior(open_run(options.run_folder), options.out, wish, say)
    if record["warning"]:
        say(record["warning"])
    show(options, record, "\n\n".join([record_table(record), *end_sections(record["report"])]))
    if not options.json:
        print(f"\nnext: {program('kvae')} export {options.out} {options.out}/bundle")


def record_table(record: Mapping[str, Any]) -> str:
    """The numbers of a fit with their units."""
    from kvae.training.fitted_prior import FIELDS

    rows = {name: f"{cell(record[name]):>12}  {FIELDS[name]}" for name in FIELDS if name in record}
    return table(rows)
