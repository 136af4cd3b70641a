"""Checks of arguments; each error names the argument, the rule and the value received."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from .errors import ConfigError, DataError

Function = TypeVar("Function", bound=Callable[..., Any])


def checked_names(function: Function) -> Function:
    """A function that raises `ConfigError` for an argument that it does not have, with the nearest
    one that it has."""
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        for name in named:
            if name not in names:
                raise ConfigError(unknown_name(function.__name__, name, names))
        return function(*arguments, **named)

    return cast(Function, call)


def unknown_name(function: str, name: str, names: list[str]) -> str:
    """The sentence about an argument that a function does not have."""
    near = difflib.get_close_matches(name, names, 1)
    known = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(names)}"
    return f"{function}: has no argument {name!r}; {known}"


def as_int(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high]; raises `ConfigError` otherwise."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | np.integer)
        or not low <= value <= high
    ):
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def as_float(name: str, value: Any) -> float:
    """`value` as a float; raises `ConfigError` if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_one_of(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise `ConfigError` if a value is not one of those allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise ConfigError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}")


def as_texts(texts: Any) -> list[str]:
    """One text or several as a list; raises `DataError` otherwise."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Iterable) and not isinstance(texts, bytes):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            checked: list[str] = texts
            return checked
    raise DataError(f"texts must be one str or a sequence of str, got {texts!r:.80}")


def as_matrix(name: str, values: Any, width: int) -> np.ndarray:
    """`values` as finite float32 of shape (n, width); raises `DataError` otherwise."""
    try:
        with np.errstate(over="ignore"):  # infinite, and refused below
            matrix = np.asarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} must be numbers of shape (n, {width}), got {type(values).__name__}"
        ) from error
    if matrix.ndim != 2 or matrix.shape[1] != width or not np.isfinite(matrix).all():
        raise DataError(
            f"{name} must be finite numbers of shape (n, {width}), got shape {matrix.shape}"
        )
    return matrix
