"""The loop that runs a recurrent layer over all positions.

By default it is that of Keras, so a head alone or in an export needs Keras alone. A backend with a
faster loop sets it for the duration of a training step, in the same way as it sets the shard of a
batch (`kvae.replicas`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import keras

from .tensors import Tensor

Loop = Callable[[keras.layers.RNN, Tensor, list[Tensor], bool], Tensor]
"""Recurrent layer, inputs (B, T, ...), initial states, training -> outputs (B, T, units)."""


def keras_loop(
    recurrence: keras.layers.RNN, inputs: Tensor, states: list[Tensor], training: bool
) -> Tensor:
    """The `Loop` of Keras, which takes `training` from the enclosing layer call."""
    return recurrence(inputs, initial_state=states)


_loop: ContextVar[Loop] = ContextVar("loop", default=keras_loop)


@contextlib.contextmanager
def looping(loop: Loop) -> Iterator[None]:
    """Context in which recurrent layers run in `loop`."""
    token = _loop.set(loop)
    try:
        yield
    finally:
        _loop.reset(token)


def over_positions(
    recurrence: keras.layers.RNN, inputs: Tensor, states: list[Tensor], training: bool
) -> Tensor:
    """Run a recurrent layer over all positions in the loop that is set; a `Loop` itself."""
    return _loop.get()(recurrence, inputs, states, training)
