"""The arguments of the commands that train, and the configuration they make."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import Commands, Run, add_command

if TYPE_CHECKING:
    from kvae.configuration import Config

PRESET = "hybrid-lstm"
"""What is trained where no preset is named."""


def add_training_command(
    commands: Commands, name: str, run: Run, description: str, out: str
) -> argparse.ArgumentParser:
    """The parser of a new command that trains; `out` is the help of `--out`."""
    parser = add_command(commands, name, run, description)
    parser.add_argument("--preset", help=f"see `kvae presets` (default: {PRESET})")
    data_arguments(parser)
    parser.add_argument("--out", required=True, help=out)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int)
    length.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--devices", type=int, metavar="N", help="share each batch between N devices (default: 1)"
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, as model.latent_size=64; may be repeated",
    )
    return parser


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """What is learned from: texts, their symbols, their labels, those held out."""
    parser.add_argument(
        "--data",
        metavar="NAME|FILE",
        help="see `kvae data list`; UTF-8 files, plain, .gz, .bz2 or .xz, a folder or a pattern (default: unicode-names)",
    )
    parser.add_argument(
        "--tokenizer",
        choices=("char", "byte", "word", "wordpiece"),
        help="what a symbol is (default: the preset's or the corpus', else char)",
    )
    parser.add_argument(
        "--validation", metavar="FILE", help="held-out texts (default: a twentieth of the data)"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="condition on the label in each line of FILE; `corpus`: the corpus' own labels",
    )
    parser.add_argument("--validation-labels", metavar="FILE", help="the labels of --validation")


def with_arguments(config: Config, options: argparse.Namespace) -> Config:
    """The preset with what the command line changes: flags, then --set."""
    from kvae.configuration import parse_setting

    flags = {
        "data.source": options.data,
        "model.tokenizer": options.tokenizer,
        "data.validation": options.validation,
        "data.labels": options.labels,
        "data.validation_labels": options.validation_labels,
        "training.epochs": options.epochs,
        "training.steps": options.steps,
        "training.batch_size": options.batch_size,
        "training.seed": options.seed,
        "training.devices": options.devices,
    }
    settings = {key: value for key, value in flags.items() if value is not None}
    if options.epochs is not None:
        settings["training.steps"] = None  # a run made longer may have been counted in steps
    if options.labels:
        settings["data.labelled_fraction"] = (
            1.0  # a preset may hide some, the user's own are all for use
        )
    return config.with_settings({**settings, **dict(map(parse_setting, options.set))})
