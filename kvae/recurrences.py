"""A recurrence over all positions: heads run Keras' loop, unless a step of training has put a loop of its own in its place.

A head that stands alone, or that is exported, needs nothing but Keras. A step on a backend with a faster loop says so for as
long as it lasts, as it says which part of a batch is its own (`kvae.replicas`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras

Loop = Callable[[keras.layers.RNN, Any, list[Any], bool], Any]
"""Outputs (B, T, units) of a recurrence, from its inputs (B, T, ...), its first states and whether it is training."""


def keras_loop(recurrence: keras.layers.RNN, inputs: Any, states: list[Any], training: bool) -> Any:
    """As `Loop`: Keras knows from the layer around it whether it is training."""
    return recurrence(inputs, initial_state=states)


_loop: ContextVar[Loop] = ContextVar("loop", default=keras_loop)


@contextlib.contextmanager
def looping(loop: Loop) -> Iterator[None]:
    """Within this, recurrences run in that loop."""
    token = _loop.set(loop)
    try:
        yield
    finally:
        _loop.reset(token)


def over_positions(
    recurrence: keras.layers.RNN, inputs: Any, states: list[Any], training: bool
) -> Any:
    """As `Loop`, in the loop of the moment."""
    return _loop.get()(recurrence, inputs, states, training)
