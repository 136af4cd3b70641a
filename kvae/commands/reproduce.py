"""`kvae reproduce`: the studies, the book of their results, and every system on one corpus."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.runs import to_json
from kvae.serving.errors import CheckFailed, ConfigError

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import say, show

if TYPE_CHECKING:
    from kvae.training.reproduction import Study

SYSTEMS, BOOK, ALL = "systems", "book", "all"
"""What else there is to make: every preset on one corpus, the book without training, every study."""


def add(commands: Commands) -> None:
    from kvae.training.study_names import STUDY_NAMES

    parser = add_command(
        commands,
        "reproduce",
        run,
        "train what a table or figure needs and judge what its source says; finished runs are kept",
    )
    parser.add_argument(
        "id",
        choices=(*STUDY_NAMES, ALL, BOOK, SYSTEMS),
        metavar="ID",
        help=f"{', '.join(STUDY_NAMES)}; {ALL}: all of these; {BOOK}: the book again from its results; {SYSTEMS}: every "
        "preset in small on one corpus",
    )
    parser.add_argument(
        "--scale",
        choices=("small", "paper"),
        default="small",
        help="for two cores, or as published",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each row (default: the study's own, 1 or 3)"
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", default=[], help="these rows only (of systems: presets)"
    )
    parser.add_argument(
        "--out", help=f"folder of the runs (default: runs/reproduce, runs/{SYSTEMS})"
    )
    parser.add_argument(
        "--book", metavar="FOLDER", help="also write the chapter into this book, as in docs"
    )
    parser.add_argument(
        "--page", metavar="FILE", help=f"where {SYSTEMS} writes its table (default: in --out)"
    )


def run(options: argparse.Namespace) -> None:
    {SYSTEMS: reproduce_systems, BOOK: write_whole_book}.get(options.id, reproduce_studies)(options)


def reproduce_studies(options: argparse.Namespace) -> None:
    """Train what is missing of one study or of all, then print tables and verdicts."""
    if options.page is not None:
        raise ConfigError(
            f"--page: belongs to `kvae reproduce {SYSTEMS}`; a study takes --book FOLDER"
        )
    with heavy_imports("train"):
        from kvae.training.book import add_chapter
        from kvae.training.corpora import require_corpora
        from kvae.training.reproduction import verdicts_of, reproduce, unfinished_configs
        from kvae.training.studies import STUDIES
    names = list(STUDIES) if options.id == ALL else [options.id]
    if options.id == ALL and options.rows:
        raise ConfigError(f"--rows: belongs to one study; name it instead of {ALL!r}")
    folders = {name: Path(options.out or "runs/reproduce") / name / options.scale for name in names}
    asked = (options.scale, options.seeds, options.rows)
    require_corpora(
        config
        for name, folder in folders.items()
        for config in unfinished_configs(STUDIES[name], folder, *asked)
    )
    reports, failed = {}, 0
    for name, folder in folders.items():
        study = STUDIES[name]
        found = reproduce(study, folder, say, *asked)
        verdicts = verdicts_of(study, found)
        failed += sum(verdict.passed is False for _, verdict in verdicts)
        said = [
            {"statement": each.text, "source": each.source, **vars(verdict)}
            for each, verdict in verdicts
        ]
        reports[name] = {**found, "verdicts": said, "folder": str(folder)}
        if options.book:
            reports[name]["page"] = str(
                add_chapter(Path(options.book), name, folder, found, STUDIES)
            )
        if not options.json:
            print_study(study, found, verdicts, folder)
    if options.json:
        print(to_json(reports[options.id] if options.id != ALL else reports))
    if failed:
        raise CheckFailed(f"{failed} statement(s) do not hold of these numbers")


def print_study(study: Study, found: dict[str, Any], verdicts: list[Any], folder: Path) -> None:
    """A study's table, its verdicts, some samples and where its figure is."""
    from kvae.training.book import VERDICTS, seeds_sentence, results_table, sample_lines, sentence
    from kvae.training.reproduction import FIGURE

    print(f"{study.title} ({study.source})\n\n{results_table(study, found['rows'])}\n")
    for statement, verdict in verdicts:
        print(
            f"{VERDICTS[verdict.passed]}  {statement.text} {sentence(verdict.evidence)} {by_seed(verdict)}".rstrip()
        )
    print("\n".join(["", *sample_lines(study, found), f"figure: {folder / FIGURE}", ""]))


def write_whole_book(options: argparse.Namespace) -> None:
    """Write the book again from the results that lie beside it."""
    with heavy_imports("train"):
        from kvae.training.book import write_book
        from kvae.training.studies import STUDIES
    page = str(write_book(Path(options.book or "docs"), STUDIES))
    show(options, {"page": page}, page)


def reproduce_systems(options: argparse.Namespace) -> None:
    """Train every preset in small on one corpus, then print the table."""
    for name in ("book", "seeds"):
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name}: belongs to a study; {SYSTEMS} takes --page FILE and has one seed"
            )
    if options.scale != "small":
        raise ConfigError(f"--scale: {SYSTEMS} compares the small sizes; leave it out")
    with heavy_imports("train"):
        from kvae.training.systems import reproduce
    page = reproduce(options.out or f"runs/{SYSTEMS}", say, options.rows, options.page)
    print(to_json({"page": str(page)}) if options.json else page.read_text(encoding="utf-8"))
