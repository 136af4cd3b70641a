"""The command line: the parser of all commands, and what becomes of their errors.

The commands are in `kvae/commands/`. Each imports what it needs when it runs: `kvae sample` works with numpy and
onnxruntime alone. Results go to standard output, progress and errors to standard error. Exit codes: 0 ok, 1 a check
failed, 2 usage, 3 bad model or bundle, 4 bad input or data, 5 not done in the time of --deadline.
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
    codes,
    data,
    demo,
    evaluate,
    export,
    info,
    presets,
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
from .disk import sentence
from .runs import CHECKPOINTS

COMMANDS = (
    demo,
    train,
    tune,
    evaluate,
    export,
    verify,
    info,
    sample,
    score,
    codes,
    walks,
    serve,
    reproduce,
    presets,
    data,
)
"""The files of the commands, in the order of `kvae --help`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a stopped job keeps its model, as with Ctrl-C
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a terminal that lacks a character gets its code
    try:
        options.run(options)
        sys.stdout.flush()
    except KvaeError as error:
        say(f"kvae {options.command}: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return 130
    except BrokenPipeError:  # the reader of a pipe has left, as `head` does
        discard_output()
        return 141
    except OSError as error:  # a full disk, a folder that may not be written
        if error.filename is None and raised_here(error):  # these files write nothing else
            error.filename = "standard output"
            discard_output()
        say(f"kvae {options.command}: {sentence(error)}{goes_on(options)}")
        return DataError.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments."""
    top = argparse.ArgumentParser(
        prog="kvae",
        description="Text VAEs whose latent code stays alive, shipped as ONNX samplers.",
    )
    top.add_argument("--version", action="version", version=f"kvae {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    return top


def raised_here(error: BaseException) -> bool:
    """Whether a line of this file or of a command's raised an error, and no function that it called."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    file, here = Path(frame.f_code.co_filename), Path(__file__)
    return file == here or file.parent == here.with_name("commands")


def discard_output() -> None:
    """Send what is still to be written to standard output nowhere, which Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def goes_on(options: argparse.Namespace) -> str:
    """How a command that wrote part of its work goes on after its error."""
    if options.command == "train" and any((Path(options.out) / CHECKPOINTS).glob("*.npz")):
        return f"; then `kvae train --resume --out {quote(options.out)}` goes on"
    return "; then the same command goes on" if options.command in ("tune", "reproduce") else ""
