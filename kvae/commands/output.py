"""Output of commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvae.runs import to_json


def say(sentence: str) -> None:
    """Print a line on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def show(options: argparse.Namespace, report: Any, text: str) -> None:
    """Print a command's result: `report` as one JSON object with `--json`, else `text`."""
    print(to_json(report) if options.json else text)


def table(rows: Mapping[str, Any]) -> str:
    """Names and values in two aligned columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def program(name: str) -> str:
    """The call of a program of this environment: its name if the shell finds it, else its path."""
    return name if shutil.which(name) else os.path.relpath(Path(sys.executable).parent / name)
