"""Arguments that are what they must be, or an error that names the argument, the rule and the value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .errors import ConfigError, DataError


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high], or `ConfigError`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | np.integer)
        or not low <= value <= high
    ):
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def real(name: str, value: Any) -> float:
    """`value` as a number, or `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise `ConfigError` for a value that is not among those allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def listed(texts: Any) -> list[str]:
    """One text or several as a list, or `DataError`."""
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, Iterable) and not isinstance(texts, bytes):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise DataError(f"texts must be one str or a sequence of str, got {texts!r:.80}")


def numbers(name: str, values: Any, width: int) -> np.ndarray:
    """`values` as finite float32 of shape (n, width), or `DataError`."""
    try:
        with np.errstate(over="ignore"):  # infinite, and refused below
            found = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} must be numbers of shape (n, {width}), got {type(values).__name__}"
        ) from error
    if found.ndim != 2 or found.shape[1] != width or not np.isfinite(found).all():
        raise DataError(
            f"{name} must be finite numbers of shape (n, {width}), got shape {found.shape}"
        )
    return found
