"""`kvae train`: train a preset on a corpus or a file, into a run folder."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kvae.run_defaults import MINUTES
from kvae.runs import CONFIG
from kvae.serving.errors import ConfigError

from .arguments import Commands, overwrite_argument
from .heavy_imports import heavy_imports
from .output import program, say, show
from .reports import end_sections, evaluation_table
from .training_arguments import (
    add_training_command,
    base_of,
    given_settings,
    plan_arguments,
    with_arguments,
)

if TYPE_CHECKING:
    from kvae.training.experiment import Read


def add(commands: Commands) -> None:
    parser = add_training_command(
        commands, "train", run, "train a preset on a corpus or a file", out="run folder to make"
    )
    plan_arguments(parser)
    existing_run = parser.add_mutually_exclusive_group()
    overwrite_argument(existing_run)
    existing_run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from its last checkpoint, or start it",
    )


def run(options: argparse.Namespace) -> None:
    started = time.monotonic()
    resumes = options.resume and (Path(options.out) / CONFIG).is_file()
    if options.resume and not resumes and not is_based(options) and options.data is None:
        raise ConfigError(
            f"--resume: {options.out} holds no run; give the folder of one, or --preset and --data "
            "to start it"
        )
    with heavy_imports("train"):
        from kvae.training import experiment
        from kvae.training.end_report import reported
    if resumes and not is_based(options):
        base = experiment.stored_config(Path(options.out))
    else:
        base = base_of(options)
    config = with_arguments(base, options)
    if resumes:
        trained, prepared = experiment.resume(config, options.out, say)
    else:
        plan = plan_of(options, started)
        trained, prepared = experiment.run(config, options.out, say, options.overwrite, read=plan)
    report = reported(trained, prepared, say)
    show(options, report, "\n\n".join([evaluation_table(report), *end_sections(report)]))
    if not options.json:
        print(
            f"\nnext: {on_tensorflow()}{program('kvae')} export {options.out} {options.out}/bundle"
        )
        print(f"      {program('tensorboard')} --logdir {options.out}/logs")
        print(f"page: {options.out}/report/report.html")


def plan_of(options: argparse.Namespace, started: float) -> Read | None:
    """The function that plans a run and reads its texts, or None if the run needs no plan.

    A run needs one if its length is given in minutes, or not at all. The settings of a preset or a
    run that is named stay as they are, apart from the length.
    """
    from kvae.configuration import dotted_keys
    from kvae.training.plan import STEP_SETTINGS, Clock, Wishes, planned

    given = given_settings(options)
    has_length = bool(given & {"training.epochs", "training.steps"})
    if options.minutes is None and (is_based(options) or has_length):
        if options.goal is not None or options.rate is not None:
            raise ConfigError(
                "--goal and --rate: need a plan; give --minutes instead of --epochs, --steps or "
                "a preset's own length"
            )
        return None
    if is_based(options):
        given |= set(dotted_keys()) - STEP_SETTINGS
    clock = Clock(MINUTES if options.minutes is None else options.minutes, started)
    wishes = Wishes(options.goal or "balanced", options.rate)
    return lambda config, tell: planned(config, given, clock, wishes, tell)


def is_based(options: argparse.Namespace) -> bool:
    """Whether the command line names a preset or a run to start from."""
    return options.preset is not None or options.like is not None


def on_tensorflow() -> str:
    """The prefix of a command that needs TensorFlow; empty if TensorFlow is the Keras backend."""
    import keras

    return "" if keras.backend.backend() == "tensorflow" else "KERAS_BACKEND=tensorflow "
