"""How long work tells what it does: a function that is called with each message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Say = Callable[[str], None]


def quiet(message: str) -> None:
    """Say nothing."""


@contextlib.contextmanager
def optional(package: str, what: str, say: Say) -> Iterator[None]:
    """Context for what a run makes with `package`; without the package it is left out."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        say(f"{what} are left out, because {package} is not installed: pip install {package}")
