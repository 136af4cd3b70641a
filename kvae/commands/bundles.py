"""Helpers of the commands that load a bundle: arguments, deadline, sampler and input texts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .arguments import Commands, Run, add_command, bundle_arguments
from .output import say

if TYPE_CHECKING:
    from kvae.serving.sampler import Sampler


def add_bundle_command(
    commands: Commands, name: str, run: Run, description: str
) -> argparse.ArgumentParser:
    """Add a command that loads a bundle; its parser has BUNDLE, `--threads` and `--deadline`."""
    parser = add_command(commands, name, within_deadline(run), description)
    bundle_arguments(parser)
    parser.add_argument(
        "--deadline",
        type=float,
        metavar="SECONDS",
        help="stop after this time, with exit code 5",
    )
    return parser


def within_deadline(run: Run) -> Run:
    """The command `run` with the time limit of `--deadline`."""

    def limited(options: argparse.Namespace) -> None:
        from kvae.serving.limits import call_limits

        with call_limits(options.deadline):
            run(options)

    return limited


def load_sampler(options: argparse.Namespace) -> Sampler:
    """The sampler of the bundle in a command's options."""
    from kvae.serving.sampler import Sampler

    return Sampler.load(options.bundle, options.threads)


def input_texts(options: argparse.Namespace) -> list[str]:
    """The texts in FILE without blank lines; notes about them go to standard error."""
    from kvae.training.data.corpora import read_texts

    notes: list[str] = []
    texts = read_texts(options.file, "lines", notes)
    for note in notes:
        say(note)
    return texts
