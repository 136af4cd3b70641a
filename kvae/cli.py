"""The command line: the parser of all commands, and how their errors are reported.

The commands are in `kvae/commands/`. Each imports its packages when it runs, so that `kvae sample`
needs only numpy and onnxruntime. Results go to standard output, progress and errors to standard
error. Exit codes: 0 success, 1 a check failed, 2 usage, 3 bad model or bundle, 4 bad input or data,
5 `--deadline` exceeded, 130 stopped, 141 the reader of standard output is gone.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from kvae.serving.errors import DataError, KvaeError

from . import __version__
from .commands import (
    bulk,
    codes,
    compare,
    data,
    demo,
    diagnose,
    evaluate,
    export,
    fit_prior,
    info,
    presets,
    probe,
    reproduce,
    sample,
    score,
    serve,
    train,
    tune,
    verify,
    walks,
)
from .commands.output import say
from .disk import describe_os_error
from .runs import CHECKPOINTS

COMMANDS = (
    demo,
    train,
    tune,
    evaluate,
    compare,
    probe,
    diagnose,
    fit_prior,
    export,
    verify,
    info,
    sample,
    score,
    codes,
    walks,
    bulk,
    serve,
    reproduce,
    presets,
    data,
)
"""The files of the commands, in the order of `kvae --help`."""

RESTARTABLE = ("tune", "reproduce", "bulk")
"""Commands that keep what they have done and go on when they are run again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    # SIGTERM acts as Ctrl-C does, so that a stopped job keeps its model.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Characters that the terminal's encoding lacks are printed as escape codes.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.run(options)
        sys.stdout.flush()
    except KvaeError as error:
        say(f"kvae {options.command}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except BrokenPipeError:  # the reader of the pipe has closed it, as `head` does
        discard_output()
        return 141
    except OSError as error:  # a full disk, a folder without write permission
        # An error of a print in these files: they write to nothing but standard output.
        if error.filename is None and raised_by_a_command(error):
            error.filename = "standard output"
            discard_output()
        say(f"kvae {options.command}: {describe_os_error(error)}{resume_hint(options)}")
        return DataError.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of all commands with their arguments."""
    top = argparse.ArgumentParser(
        prog="kvae",
        description="Text VAEs whose latent code stays alive, shipped as ONNX samplers.",
    )
    top.add_argument("--version", action="version", version=f"kvae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return top


def raised_by_a_command(error: BaseException) -> bool:
    """Whether this file or the file of a command raised an error, not a function that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file, here = Path(frame.f_code.co_filename), Path(__file__)
    return file == here or file.parent == here.with_name("commands")


def discard_output() -> None:
    """Redirect standard output to the null device; Python would flush it again at exit and fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def resume_hint(options: argparse.Namespace) -> str:
    """The end of an error message: how to continue a command that kept a part of its work."""
    if options.command == "train" and any((Path(options.out) / CHECKPOINTS).glob("*.npz")):
        return f"; then `kvae train --resume --out {quote(options.out)}` goes on"
    return "; then the same command goes on" if options.command in RESTARTABLE else ""
