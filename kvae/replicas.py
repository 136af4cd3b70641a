"""A batch that is split between devices: what is drawn or averaged over a batch goes through here, so that the numbers do
not depend on how many devices share it. A training step says which part is its own; without that a batch is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Replica:
    """Part `index` of `count` equal parts of a batch; `mean` averages a tensor over all parts."""

    index: Any = 0
    count: int = 1
    mean: Callable[[Any], Any] = lambda value: value


WHOLE = Replica()
_replica: ContextVar[Replica] = ContextVar("replica", default=WHOLE)


@contextlib.contextmanager
def replica(part: Replica) -> Iterator[None]:
    """Within this the batch is that part of a larger one."""
    token = _replica.set(part)
    try:
        yield
    finally:
        _replica.reset(token)


def drawn(draw: Callable[[Any], Any], rows: Any) -> Any:
    """`draw(n)` makes a random row for each of n texts: those of the whole batch are drawn, and this part's `rows` kept."""
    part = _replica.get()
    if part.count == 1:
        return draw(rows)
    whole = draw(rows * part.count)
    return ops.slice(whole, [part.index * rows, *[0] * (len(whole.shape) - 1)], [rows, *ops.shape(whole)[1:]])


def batch_mean(values: Any) -> Any:
    """The mean over the first axis of the whole batch: (B, ...) -> (...). Its gradient is that of this part's share, so that
    the gradients of all parts add up to that of the whole."""
    own = ops.mean(values, axis=0)
    return own + ops.stop_gradient(everywhere(own) - own) if is_split() else own


def everywhere(values: Any) -> Any:
    """The mean of a tensor over all parts of the batch; no gradient goes through it."""
    return _replica.get().mean(values)


def is_split() -> bool:
    """Whether this batch is a part of a larger one."""
    return _replica.get().count > 1
