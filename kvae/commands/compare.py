"""`kvae compare`: the results of several runs in one table and one picture."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.serving.errors import ConfigError

from .arguments import Commands, add_command
from .output import aligned, say, show, show_entries

MISSING = "-"
"""What a cell without a number shows."""


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "compare", run, "the results of several runs in one table", with_csv=True
    )
    parser.add_argument("run_folders", metavar="RUN", nargs="+", help="run folders, as in runs/*")
    parser.add_argument(
        "--picture",
        metavar="FILE.png",
        help="also draw the runs as points: rate (KL) against distortion (reconstruction)",
    )


def run(options: argparse.Namespace) -> None:
    from kvae.training.comparison import comparison_notes, draw_rate_and_distortion, results

    if options.picture and Path(options.picture).suffix.lower() != ".png":
        raise ConfigError(f"--picture {options.picture}: is a PNG; give a name that ends in .png")
    found = results(options.run_folders)
    notes = comparison_notes(found)
    if options.picture:
        try:
            draw_rate_and_distortion(found, Path(options.picture))
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--picture needs {error.name}, which is not installed: "
                "pip install 'kvae-text[train]'"
            ) from error
        say(f"wrote {options.picture}")
    if options.csv:
        show_entries(options, "runs", found, "")
        for note in notes:
            say(note)
        return
    show(options, {"runs": found, "notes": notes}, "\n\n".join([comparison_table(found), *notes]))


COLUMNS = {
    "texts": ("texts", ",.0f"),
    "elbo": ("bound", ",.2f"),
    "bits_per_character": ("bits/char", ".3f"),
    "reconstruction": ("reconstr.", ",.2f"),
    "kl": ("KL", ",.2f"),
    "mutual_information": ("inform.", ",.2f"),
    "mutual_information_ceiling": ("at most", ",.2f"),
    "active_units": ("active", ",.0f"),
    "latent_size": ("of", ",.0f"),
    "minutes": ("minutes", ",.1f"),
    "parameters": ("parameters", ",.0f"),
}
"""The numbers of the table: the heading and the format of each."""


def comparison_table(found: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each result, below a line on its units."""
    headings = ["run", "preset", "tokens", *(heading for heading, _ in COLUMNS.values()), "changes"]
    rows = [
        [
            result["run"],
            result["preset"],
            result["tokenizer"],
            *(cell(result[name], form) for name, (_, form) in COLUMNS.items()),
            "; ".join(
                part
                for part in (
                    "" if result["state"] == "evaluated" else result["state"],
                    result["changes"],
                )
                if part
            ),
        ]
        for result in found
    ]
    units = (
        "bound (lower is better), reconstruction, KL, information and its ceiling (at most) in "
        "nats per held-out text; - is not known"
    )
    return f"{units}\n\n" + aligned([headings, *rows], left=(0, 1, 2, len(headings) - 1))


def cell(value: Any, form: str) -> str:
    """A number in a format; a mark where there is none."""
    return MISSING if value is None else format(value, form)
