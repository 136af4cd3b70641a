"""How long work tells what it does: a function that is called with each message."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]


def quiet(message: str) -> None:
    """Say nothing."""
