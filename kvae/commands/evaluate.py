"""`kvae evaluate`: measure a run on its held-out texts or on a file."""

from __future__ import annotations

import argparse

from kvae.serving.errors import ConfigError

from .arguments import Commands, add_command
from .heavy_imports import heavy_imports
from .output import say, show
from .reports import evaluation_table, text_tables
from .run_folders import open_run, training_texts


def add(commands: Commands) -> None:
    parser = add_command(
        commands, "evaluate", run, "measure a run on its held-out texts or on a file"
    )
    parser.add_argument("run_folder", metavar="RUN")
    parser.add_argument("--data", metavar="FILE", help="other texts than the held-out split")
    parser.add_argument("--labels", metavar="FILE", help="their labels, one a line")
    parser.add_argument(
        "--importance-samples",
        type=int,
        default=0,
        metavar="K",
        help="also the importance-weighted bound on -log p(x), with K codes a text",
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
        "--seed", type=int, default=0, help="seed of the sampled codes (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    with heavy_imports("train"):
        from kvae.training.data.corpora import entropy_of
        from kvae.training.data.prepare import held_out
        from kvae.training.evaluation import evaluate
        from kvae.training.generation import text_report
        from kvae.training.ngram import character_count
    trained = open_run(options.run_folder)
    config = trained.config
    if options.too_long is not None:
        config = config.with_settings({"data.too_long": options.too_long})
    if options.labels and (options.data is None or not config.model.attributes):
        raise ConfigError(
            "--labels: needs --data, whose texts it labels, and a model that was trained with "
            "labels"
        )
    data = held_out(config, trained.alphabet, options.data, options.labels)
    for note in data.notes:
        say(note)
    samples = options.importance_samples
    say(
        f"measuring {len(data.rows):,} texts"
        + (f", then again with {samples:,} codes each" if samples > 0 else "")
    )
    numbers = evaluate(
        trained.model,
        data.rows,
        seed=options.seed,
        attribute=data.attribute,
        importance_samples=samples,
        characters=character_count(data.texts, config.data.reading.has_end),
    )
    report = {"run": options.run_folder, "data": options.data or "held-out split", **numbers}
    entropy = entropy_of(config) if options.data is None else None
    report |= {} if entropy is None else {"entropy": entropy}
    report |= text_report(
        trained,
        data,
        training_texts(trained),
        options.texts,
        options.samples,
        options.seed,
        say,
    )
    show(options, report, "\n\n".join([evaluation_table(report), *text_tables(report)]))
