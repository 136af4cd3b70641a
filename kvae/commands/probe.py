"""`kvae probe`: what the codes of a run say about labels that it has never seen."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from kvae.serving.errors import ConfigError

from .arguments import Commands, add_command, table_arguments
from .evaluate import column_of, format_of_run
from .heavy_imports import heavy_imports
from .output import aligned, say, show
from .run_folders import open_run


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "probe", run, "measure what the codes of a run say about labels of its texts"
    )
    parser.add_argument("run_folder", metavar="RUN", help="a run that was trained without labels")
    parser.add_argument("--data", metavar="FILE", help="other texts than those of the run")
    table_arguments(parser)
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument(
        "--labels",
        metavar="FILE",
        help="the labels, one in each line (default: the corpus' own labels)",
    )
    labels.add_argument(
        "--label-column", metavar="NAME|NUMBER", help="the column of the table with the labels"
    )
    parser.add_argument(
        "--texts",
        type=int,
        default=50_000,
        metavar="N",
        help="labelled texts to use at most, 0: all (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    if options.texts < 0:
        raise ConfigError(f"--texts {options.texts}: must be at least 0 (0: all)")
    if options.data is None and (options.format or options.column):
        raise ConfigError("--format and --column: need --data, the file that they are about")
    with heavy_imports("train"):
        from kvae.training.probe import check_model, labelled_texts, probe
    trained = open_run(options.run_folder)
    check_model(trained)
    config = trained.config
    if options.data is not None:
        config = config.with_settings(
            {
                "data.format": options.format or format_of_run(config),
                "data.column": column_of(options, config),
            }
        )
    data = labelled_texts(
        trained, config, options.data, options.labels, options.label_column or "", options.texts
    )
    for note in data.notes:
        say(note)
    report = {
        "run": options.run_folder,
        "data": options.data or config.data.source,
        **probe(trained, data, say),
    }
    show(options, report, probe_table(report))


def probe_table(report: Mapping[str, Any]) -> str:
    """A table with a row for each kind of features, below the number of texts."""
    from kvae.training.probe import FEATURES

    texts = report["texts"]
    labels = ", ".join(f"{label} {count:,}" for label, count in report["labels"].items())
    about = (
        f"classifiers of {texts['train']:,} texts, penalty chosen on {texts['validation']:,}, "
        f"tested on {texts['test']:,}:\n{report['test_source']} ({labels})"
    )
    rows = [
        ["features", "dimensions", "accuracy", "+-", f"agreement of {report['neighbours']} nearest"]
    ]
    for name, heading in FEATURES.items():
        found = report["features"][name]
        agreement = f"{found['agreement']:.3f}" if "agreement" in found else "-"
        numbers = [f"{found['accuracy']:.3f}", f"{found['standard_error']:.3f}", agreement]
        rows.append([heading, f"{found['dimensions']:,}", *numbers])
    meaning = (
        "+- is the standard error of the accuracy; "
        "the agreement beside the most frequent label is that of random texts"
    )
    return f"{about}\n\n{aligned(rows, left=(0,))}\n\n{meaning}"
