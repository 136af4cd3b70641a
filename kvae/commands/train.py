"""`kvae train`: train a preset on a corpus or a file, into a run folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from kvae.runs import CONFIG
from kvae.serving.errors import ConfigError

from .arguments import Commands, overwrite_argument
from .heavy_imports import heavy_imports
from .output import program, say, show
from .reports import evaluation_table
from .training_arguments import PRESET, add_training_command, with_arguments


def add(commands: Commands) -> None:
    parser = add_training_command(
        commands, "train", run, "train a preset on a corpus or a file", out="run folder to make"
    )
    existing_run = parser.add_mutually_exclusive_group()
    overwrite_argument(existing_run)
    existing_run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from its last checkpoint, or start it",
    )


def run(options: argparse.Namespace) -> None:
    from kvae.presets import preset

    resumes = options.resume and (Path(options.out) / CONFIG).is_file()
    if options.resume and not resumes and options.preset is None and options.data is None:
        raise ConfigError(
            f"--resume: {options.out} holds no run; give the folder of one, or --preset and --data "
            "to start it"
        )
    with heavy_imports("train"):
        from kvae.training import experiment
    if resumes and options.preset is None:
        base = experiment.stored_config(Path(options.out))
    else:
        base = preset(options.preset or PRESET)
    config = with_arguments(base, options)
    if resumes:
        trained, _ = experiment.resume(config, options.out, say)
    else:
        trained, _ = experiment.run(config, options.out, say, options.overwrite)
    report = {"run": str(trained.path), **trained.evaluation}
    show(options, report, evaluation_table(report))
    if not options.json:
        print(
            f"\nnext: {on_tensorflow()}{program('kvae')} export {options.out} {options.out}/bundle"
        )
        print(f"      {program('tensorboard')} --logdir {options.out}/logs")


def on_tensorflow() -> str:
    """The prefix of a command that needs TensorFlow; empty if TensorFlow is the Keras backend."""
    import keras

    return "" if keras.backend.backend() == "tensorflow" else "KERAS_BACKEND=tensorflow "
