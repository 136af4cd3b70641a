"""`kvae tune`: search for settings by training many models."""

from __future__ import annotations

import argparse
import json

from .arguments import Commands
from .heavy_imports import heavy_imports
from .output import program, say, show
from .training_arguments import add_training_command, base_of, with_arguments


def add(commands: Commands) -> None:
    parser = add_training_command(
        commands,
        "tune",
        run,
        "search for settings: train many models for the best bound on held-out texts",
        out="folder of the search; an interrupted search in it continues",
    )
    parser.add_argument(
        "--trials", type=int, default=20, help="models to train (default: %(default)s)"
    )
    parser.add_argument(
        "--search",
        metavar="KEY=VALUES",
        action="append",
        default=[],
        help="values to try: objective.alpha=0.05..0.5 or model.latent_size=[16,64,[32,16]]; "
        "may be repeated (default: weight of the KL, size and levels of the code, auxiliary loss)",
    )


def run(options: argparse.Namespace) -> None:
    config = with_arguments(base_of(options), options)
    with heavy_imports("tune"):
        from kvae.training.tune import parse_search, results_table, tune
    results = tune(
        config, options.out, say, options.trials, dict(map(parse_search, options.search))
    )
    best = " ".join(
        f"--set {key}={json.dumps(value)}" for key, value in results[0]["settings"].items()
    )
    show(
        options,
        {"best": results[0], "trials": results},
        f"{results_table(results)}\n\nbest: {best}",
    )
    if not options.json:
        print(f"next: {program('tensorboard')} --logdir {options.out}/trials   (HParams)")
