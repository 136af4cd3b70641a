"""`kvae evaluate`: measure a run on its held-out texts or on a file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kvae.serving.errors import ConfigError
from kvae.texts.formats import AUTO, FORMATS

from .arguments import Commands, add_command, table_arguments
from .heavy_imports import heavy_imports
from .output import say, show
from .reports import end_sections, evaluation_table, text_tables
from .run_folders import open_run, training_texts

if TYPE_CHECKING:
    from kvae.configuration import Config


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "evaluate", run, "measure a run on its held-out texts or on a file"
    )
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--data", metavar="FILE", help="other texts than the held-out split")
    table_arguments(parser)
    labels = parser.add_mutually_exclusive_group()
    labels.add_argument("--labels", metavar="FILE", help="their labels, one a line")
    labels.add_argument(
        "--label-column", metavar="NAME|NUMBER", help="the column of the table with their labels"
    )
    parser.add_argument(
        "--importance-samples",
        type=int,
        metavar="K",
        help="also the importance-weighted bound on -log p(x), with K codes a text (default: as in "
        "training, if those are several; 0: without)",
    )
    parser.add_argument(
        "--texts",
        type=int,
        default=1000,
        metavar="N",
        help="held-out texts to reconstruct (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        metavar="N",
        help="samples to draw and compare (default: %(default)s)",
    )
    parser.add_argument(
        "--too-long",
        choices=("refuse", "cut", "drop"),
        help="what to do with lines longer than the model (default: as in training)",
    )
    parser.add_argument(
        "--validator",
        metavar="MODULE:FUNCTION",
        help="a function that tells whether a text is valid, or returns its canonical form; for "
        "molecules kvae.training.molecules:smiles or :selfies",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the sampled codes (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.data.corpora import entropy_of
        from kvae.training.data.prepare import held_out
        from kvae.training.data.stores import remember_user
        from kvae.training.end_report import rival_of, rival_report
        from kvae.training.evaluation import codes_of_bound, evaluate
        from kvae.training.generation import text_report
        from kvae.training.ngram import character_count
        from kvae.training.validity import load_validator
        from kvae.training.verdict import findings
    validator = load_validator(options.validator) if options.validator else None
    trained = open_run(options.run_folder)
    config = trained.config
    if options.too_long is not None:
        config = config.with_settings({"data.too_long": options.too_long})
    check_options(options, config)
    if options.data is not None:
        config = config.with_settings(
            {
                "data.format": options.format or format_of_run(config),
                "data.column": column_of(options, config),
                "data.label_column": options.label_column or "",
            }
        )
    data = held_out(config, trained.alphabet, options.data, options.labels)
    if options.data is None:
        remember_user(config, trained.path)
    for note in data.notes:
        say(note)
    codes = codes_of_bound(trained.config.objective, options.importance_samples)
    say(
        f"measuring {len(data.rows):,} texts"
        + (f", then again with {codes:,} codes each" if codes else "")
    )
    numbers = evaluate(
        trained.model,
        data.rows,
        seed=options.seed,
        attribute=data.attribute,
        importance_samples=codes,
        characters=character_count(data.texts, config.data.reading.has_end),
        say=say,
    )
    report = {"run": options.run_folder, "data": options.data or "held-out split", **numbers}
    entropy = entropy_of(config) if options.data is None else None
    report |= {} if entropy is None else {"entropy": entropy}
    known = training_texts(trained)
    counts = (options.texts, options.samples, options.seed)
    report |= text_report(trained, data, known, *counts, say, validator)
    if known:
        rival = rival_of(known, data.texts, config.data.reading.has_end)
        report |= rival_report(rival, known, data.texts)
    report["findings"] = [vars(finding) for finding in findings(report)]
    sections = [evaluation_table(report), *text_tables(report), *end_sections(report)]
    show(options, report, "\n\n".join(sections))


def format_of_run(config: Config) -> str:
    """The format of a run's files, if it was named; that of lines may be from before there were
    others."""
    return config.data.format if config.data.format != "lines" else AUTO


def column_of(options: argparse.Namespace, config: Config) -> str:
    """The column of `--data`: the named one, else that of the run if the format has columns."""
    if options.column is not None:
        return str(options.column)
    form = FORMATS.get(options.format)
    return config.data.column if form is None or form.has_columns else ""


def check_options(options: argparse.Namespace, config: Config) -> None:
    """Raise `ConfigError` for options that would have no effect."""
    labels = "--labels" if options.labels else "--label-column"
    if (options.labels or options.label_column) and (
        options.data is None or not config.model.attributes
    ):
        raise ConfigError(
            f"{labels}: needs --data, whose texts it labels, and a model that was trained with "
            "labels"
        )
    if options.data is None and (options.format or options.column):
        raise ConfigError("--format and --column: need --data, the file that they are about")
