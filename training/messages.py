"""Messages of long-running work: a function that is called with each message."""

from __future__ import annotations

import contextlib
import time
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


LINE_SECONDS = 30.0
"""Seconds between two lines of progress."""


class Pace:
    """Tells `say` every half minute how much of a long work is done and how long the rest takes.

    `total` is the number of all `things`.
    """

    def __init__(self, say: Say, things: str, total: int) -> None:
        self.say, self.things, self.total = say, things, total
        self.started = self.shown = time.monotonic()

    def done(self, count: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = (now - self.started) * (self.total - count) / count
        self.say(f"{count:,} of {self.total:,} {self.things}, {left / 60:.1f} minutes left")
