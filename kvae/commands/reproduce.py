"""`kvae reproduce`: the studies, the book of their results, and every system on one corpus."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.runs import to_json
from kvae.serving.errors import CheckFailed, ConfigError

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import say, show

if TYPE_CHECKING:
    from kvae.training.reproduction import Statement, Study, Verdict

SYSTEMS, BOOK, ALL = "systems", "book", "all"
"""The IDs that are not studies: every preset on one corpus, the book alone, all studies."""


def add(commands: Commands) -> None:
    from kvae.training.study_names import STUDY_NAMES

    parser = add_command(
        commands,
        "reproduce",
        run,
        "train the models of a published table or figure and judge the claims of its source; "
        "finished runs are reused",
    )
    parser.add_argument(
        "id",
        choices=(*STUDY_NAMES, ALL, BOOK, SYSTEMS),
        metavar="ID",
        help=f"{', '.join(STUDY_NAMES)}; {ALL}: all of these; {BOOK}: write the book again from "
        f"its results; {SYSTEMS}: the small size of every preset on one corpus",
    )
    parser.add_argument(
        "--scale",
        choices=("small", "paper"),
        default="small",
        help="small: for two cores; paper: as published (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each row (default: the study's own, 1 or 3)"
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        default=[],
        help=f"train only these rows (of {SYSTEMS}: these presets)",
    )
    parser.add_argument(
        "--out", help=f"folder of the runs (default: runs/reproduce, runs/{SYSTEMS})"
    )
    parser.add_argument(
        "--book",
        metavar="FOLDER",
        help="also write the chapter into the book in this folder, such as docs",
    )
    parser.add_argument(
        "--page",
        metavar="FILE",
        help=f"file for the table of {SYSTEMS} (default: in --out)",
    )


def run(options: argparse.Namespace) -> None:
    {SYSTEMS: reproduce_systems, BOOK: write_whole_book}.get(options.id, reproduce_studies)(options)


def reproduce_studies(options: argparse.Namespace) -> None:
    """Train the unfinished runs of one study or of all, then print tables and verdicts."""
    if options.page is not None:
        raise ConfigError(
            f"--page: belongs to `kvae reproduce {SYSTEMS}`; a study takes --book FOLDER"
        )
    with heavy_imports("train"):
        from kvae.training.book import add_chapter
        from kvae.training.data.named_corpora import require_corpora
        from kvae.training.reproduction import reproduce, unfinished_configs, verdicts_of
        from kvae.training.studies import STUDIES
    names = list(STUDIES) if options.id == ALL else [options.id]
    if options.id == ALL and options.rows:
        raise ConfigError(f"--rows: belongs to one study; name it instead of {ALL!r}")
    folders = {name: Path(options.out or "runs/reproduce") / name / options.scale for name in names}
    selection = (options.scale, options.seeds, options.rows)
    require_corpora(
        config
        for name, folder in folders.items()
        for config in unfinished_configs(STUDIES[name], folder, *selection)
    )
    reports, failed = {}, 0
    for name, folder in folders.items():
        study = STUDIES[name]
        results = reproduce(study, folder, say, *selection)
        verdicts = verdicts_of(study, results)
        failed += sum(verdict.passed is False for _, verdict in verdicts)
        entries = [
            {"statement": statement.text, "source": statement.source, **vars(verdict)}
            for statement, verdict in verdicts
        ]
        reports[name] = {**results, "verdicts": entries, "folder": str(folder)}
        if options.book:
            page = add_chapter(Path(options.book), name, folder, results, STUDIES)
            reports[name]["page"] = str(page)
        if not options.json:
            print_study(study, results, verdicts, folder)
    if options.json:
        print(to_json(reports[options.id] if options.id != ALL else reports))
    if failed:
        raise CheckFailed(f"{failed} statement(s) do not hold for these numbers")


def print_study(
    study: Study,
    results: Mapping[str, Any],
    verdicts: Sequence[tuple[Statement, Verdict]],
    folder: Path,
) -> None:
    """Print a study's table, its verdicts, some samples and the path of its figure."""
    from kvae.training.book import VERDICTS, results_table, sample_lines, seeds_sentence, sentence
    from kvae.training.reproduction import FIGURE

    print(f"{study.title} ({study.source})\n\n{results_table(study, results['rows'])}\n")
    for statement, verdict in verdicts:
        sentences = f"{statement.text} {sentence(verdict.evidence)} {seeds_sentence(verdict)}"
        print(f"{VERDICTS[verdict.passed]}  {sentences}".rstrip())
    print("\n".join(["", *sample_lines(study, results), f"figure: {folder / FIGURE}", ""]))


def write_whole_book(options: argparse.Namespace) -> None:
    """Write the book again from the results in its folder."""
    with heavy_imports("train"):
        from kvae.training.book import write_book
        from kvae.training.studies import STUDIES
    page = str(write_book(Path(options.book or "docs"), STUDIES))
    show(options, {"page": page}, page)


def reproduce_systems(options: argparse.Namespace) -> None:
    """Train the small size of every preset on one corpus, then print the table."""
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
