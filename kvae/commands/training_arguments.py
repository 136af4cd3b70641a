"""The arguments of the commands that train, and the configuration that they give."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvae.run_defaults import MINUTES, PRESET
from kvae.token_patterns import TOKEN_PATTERNS

from .arguments import Commands, Run, add_command, table_arguments

if TYPE_CHECKING:
    from kvae.configuration import Config


def add_training_command(
    commands: Commands, name: str, run: Run, description: str, out: str
) -> argparse.ArgumentParser:
    """Add a command that trains and return its parser; `out` is the help of `--out`."""
    parser = add_command(commands, name, run, description)
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--preset", help=f"see `kvae presets` (default: {PRESET})")
    base.add_argument(
        "--like",
        metavar="RUN",
        help="the settings and the data of another run, instead of --preset",
    )
    parser.add_argument(
        "--data",
        metavar="NAME|FILE",
        help="see `kvae data list`; a file of texts or a table, also packed, a folder or a "
        "pattern; - is standard input (default: unicode-names)",
    )
    data_arguments(parser)
    parser.add_argument("--out", required=True, help=out)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int)
    length.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--devices", type=int, metavar="N", help="split each batch between N devices (default: 1)"
    )
    set_argument(parser)
    return parser


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a planned run."""
    parser.add_argument(
        "--minutes",
        type=minutes,
        metavar="N",
        help="plan a run of N minutes, reading and reports included: settings that are not given "
        f"are made from the texts (default without --preset, --epochs and --steps: {MINUTES:g})",
    )
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument(
        "--goal",
        choices=("generation", "balanced", "reconstruction"),
        help="what the code is for (default: balanced)",
    )
    wish.add_argument(
        "--rate",
        type=nats,
        metavar="NATS",
        help="what the code may carry, in nats, instead of a goal",
    )


def minutes(text: str) -> float:
    """Minutes from the command line, above 0 and at most a month."""
    return positive(text, 43_200.0)


def nats(text: str) -> float:
    """Nats from the command line, above 0."""
    return positive(text, 10_000.0)


def positive(text: str, most: float) -> float:
    """A number above 0 and at most `most`. Raises `ArgumentTypeError`."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and at most {most:,.0f}")
    return value


def set_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--set`, for any setting."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any setting, such as model.latent_size=64; may be repeated",
    )


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the data: columns, tokenizer, labels, held-out texts."""
    table_arguments(parser)
    parser.add_argument(
        "--tokenizer",
        choices=("char", "byte", "word", "wordpiece", "pattern", "bpe", *TOKEN_PATTERNS),
        help="what a token is (default: the preset's or the corpus', else char); `pattern` needs "
        "--set model.token_pattern=REGEX; `smiles` and `selfies` are patterns for molecules; a "
        "plan chooses `bpe` or `char`",
    )
    parser.add_argument(
        "--fold-case",
        action="store_true",
        default=None,
        help="read texts in lower case, in training and by the encoder of the bundle",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FILE",
        help="the symbols, one in each line, a vocab.txt of wordpieces or a tokenizer.json "
        "(default: the most frequent of the data)",
    )
    parser.add_argument(
        "--validation", metavar="FILE", help="held-out texts (default: a twentieth of the data)"
    )
    parser.add_argument(
        "--labels",
        metavar="FILE",
        help="condition on labels, one in each line of FILE; `corpus`: the corpus' own labels",
    )
    parser.add_argument("--validation-labels", metavar="FILE", help="the labels of --validation")
    parser.add_argument(
        "--label-column",
        metavar="NAME|NUMBER",
        help="condition on the labels in this column of the table",
    )


OF_THE_TEXTS = (
    "model.vocabulary_size",
    "model.attributes",
    "data.format",
    "data.column",
    "data.labels",
    "data.label_column",
    "data.validation",
    "data.validation_labels",
)
"""Settings of a run that say what its texts are, and so nothing about other texts."""


def base_of(options: argparse.Namespace) -> Config:
    """The configuration that the arguments change: that of the run of `--like`, or a preset.

    With `--data`, the settings that belong to the texts of that run are left out.
    """
    from kvae.configuration import Config, dotted_value
    from kvae.presets import preset
    from kvae.runs import read_config

    if options.like is None:
        return preset(options.preset or PRESET)
    config = read_config(Path(options.like))
    if options.data is None:
        return config
    default = Config()
    return config.with_settings({key: dotted_value(default, key) for key in OF_THE_TEXTS})


def with_arguments(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with the changes of the command line: the options, then `--set`."""
    from kvae.configuration import parse_setting

    settings = data_settings(options) | training_settings(options)
    if options.epochs is not None:
        settings["training.steps"] = None  # a stored run may have been given in steps
    return config.with_settings({**settings, **dict(map(parse_setting, options.set))})


def training_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the arguments of the training give, by dotted name."""
    return given_only(
        {
            "training.epochs": options.epochs,
            "training.steps": options.steps,
            "training.batch_size": options.batch_size,
            "training.seed": options.seed,
            "training.devices": options.devices,
        }
    )


def given_only(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that the command line gives."""
    return {key: value for key, value in flags.items() if value is not None}


def given_settings(options: argparse.Namespace) -> set[str]:
    """The dotted names of all settings that the command line gives."""
    from kvae.configuration import parse_setting

    named = {key for key, _ in map(parse_setting, options.set)}
    return {*data_settings(options), *training_settings(options), *named}


def tokenizer_settings(name: str | None) -> dict[str, Any]:
    """The settings that `--tokenizer` gives: a tokenizer, or a pattern by its name."""
    if name in TOKEN_PATTERNS:
        return {"model.tokenizer": "pattern", "model.token_pattern": TOKEN_PATTERNS[name]}
    settings: dict[str, Any] = given_only({"model.tokenizer": name})
    if name not in (None, "pattern"):
        settings["model.token_pattern"] = ""  # a preset may have one
    return settings


def data_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that the arguments of the data give, by dotted name."""
    settings = given_only(
        {
            "data.source": options.data,
            "data.format": options.format,
            "data.column": options.column,
            "data.label_column": options.label_column,
            **tokenizer_settings(options.tokenizer),
            "data.fold_case": options.fold_case,
            "data.vocabulary": options.vocabulary,
            "data.validation": options.validation,
            "data.labels": options.labels,
            "data.validation_labels": options.validation_labels,
        }
    )
    if options.labels or options.label_column:  # a preset may hide some; all of the user's are used
        settings["data.labelled_fraction"] = 1.0
    return settings
