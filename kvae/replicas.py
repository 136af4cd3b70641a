"""A batch that is split between devices, or whose texts have weights: what is drawn or averaged over a batch goes through here,
so that the numbers do not depend on how many devices share it, and a text of weight 2 counts as the same text twice. A training
step says which part is its own; without that a batch is whole and its texts count alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Replica:
    """Part `index` of `count` equal parts of a batch; `mean` averages a tensor over all parts, `weights` (B,) are those of this
    part's texts, None where they count alike."""

    index: Any = 0
    count: int = 1
    mean: Callable[[Any], Any] = lambda value: value
    weights: Any = None


WHOLE = Replica()
_replica: ContextVar[Replica] = ContextVar("replica", default=WHOLE)


@contextlib.contextmanager
def replica(part: Replica) -> Iterator[None]:
    """Context in which the batch is one shard of a larger batch."""
    token = _replica.set(part)
    try:
        yield
    finally:
        _replica.reset(token)


def draw_rows(draw: Callable[[Any], Any], rows: Any) -> Any:
    """`draw(n)` makes a random row for each of n texts: those of the whole batch are drawn, and this part's `rows` kept."""
    part = _replica.get()
    if part.count == 1:
        return draw(rows)
    whole = draw(rows * part.count)
    return ops.slice(
        whole, [part.index * rows, *[0] * (len(whole.shape) - 1)], [rows, *ops.shape(whole)[1:]]
    )


@contextlib.contextmanager
def repeated_batch(times: int) -> Iterator[None]:
    """Within this the batch stands `times` behind itself."""
    part = _replica.get()
    weights = None if part.weights is None else ops.tile(part.weights, (times,))
    with replica(replace(part, weights=weights)):
        yield


def text_weights() -> Any:
    """The weights (B,) of this part's texts, None where they count alike."""
    return _replica.get().weights


def shard_mean(values: Any) -> Any:
    """The weighted mean over this part's texts, (B, ...) -> (...); 0 where their weights are."""
    weights = text_weights()
    if weights is None:
        return ops.mean(values, axis=0)
    return ops.divide_no_nan(ops.tensordot(weights, values, 1), ops.sum(weights))


def shard_fraction() -> Any:
    """How much of the whole batch's weight this part has: the whole mean is the sum of each part's mean times its share."""
    part = _replica.get()
    if part.weights is None:
        return 1.0 / part.count
    own = ops.sum(part.weights)
    return ops.divide_no_nan(own, part.count * mean_over_shards(own))


def batch_mean(values: Any) -> Any:
    """The weighted mean over the first axis of the whole batch: (B, ...) -> (...). Its gradient is that of this part's own
    mean: with the loss taken times `own_share`, the gradients of all parts add up to that of the whole."""
    own = shard_mean(values)
    if not is_split():
        return own
    whole = _replica.get().count * mean_over_shards(shard_fraction() * own)
    return own + ops.stop_gradient(whole - own)


def mean_over_shards(values: Any) -> Any:
    """The mean of a tensor over all parts of the batch; no gradient goes through it."""
    return _replica.get().mean(values)


def is_split() -> bool:
    """Whether this batch is a part of a larger one."""
    return _replica.get().count > 1
