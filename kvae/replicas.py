"""Random numbers and means over a batch that is split between devices, or whose texts have weights.

Everything that is drawn or averaged over a batch goes through this module. The results then do not
depend on the number of devices, and a text of weight 2 counts as the same text twice. A training
step sets the shard of its device with `replica`; by default a batch is not split and all texts have
equal weights.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace

from keras import ops

from .tensors import Tensor


@dataclass(frozen=True)
class Replica:
    """Shard `index` of a batch that is split into `count` shards of equal size.

    `mean` averages a tensor over all shards. `weights` (B,) are the weights of this shard's texts,
    None if all are equal.
    """

    index: int | Tensor = 0
    count: int = 1
    mean: Callable[[Tensor], Tensor] = lambda value: value
    weights: Tensor | None = None


WHOLE = Replica()
_replica: ContextVar[Replica] = ContextVar("replica", default=WHOLE)


@contextlib.contextmanager
def replica(shard: Replica) -> Iterator[None]:
    """Context in which the batch is one shard of a larger batch."""
    token = _replica.set(shard)
    try:
        yield
    finally:
        _replica.reset(token)


def draw_rows(draw: Callable[[int | Tensor], Tensor], rows: int | Tensor) -> Tensor:
    """Random rows for the `rows` texts of this shard, (rows, ...).

    `draw(n)` makes n rows. It draws the rows of the whole batch, of which this shard keeps its own.
    """
    shard = _replica.get()
    if shard.count == 1:
        return draw(rows)
    whole = draw(rows * shard.count)
    return ops.slice(
        whole, [shard.index * rows, *[0] * (len(whole.shape) - 1)], [rows, *ops.shape(whole)[1:]]
    )


@contextlib.contextmanager
def repeated_batch(times: int) -> Iterator[None]:
    """Context in which the batch is repeated `times` along its first axis; so are the weights."""
    shard = _replica.get()
    weights = None if shard.weights is None else ops.tile(shard.weights, (times,))
    with replica(replace(shard, weights=weights)):
        yield


def text_weights() -> Tensor | None:
    """The weights of this shard's texts, (B,), or None if all are equal."""
    return _replica.get().weights


def shard_mean(values: Tensor) -> Tensor:
    """Weighted mean over this shard's texts, (B, ...) -> (...); 0 if all their weights are 0."""
    weights = text_weights()
    if weights is None:
        return ops.mean(values, axis=0)
    return ops.divide_no_nan(ops.tensordot(weights, values, 1), ops.sum(weights))


def shard_fraction() -> float | Tensor:
    """This shard's fraction of the weight of the whole batch.

    The mean of the whole batch is the sum over shards of `shard_mean` times this fraction.
    """
    shard = _replica.get()
    if shard.weights is None:
        return 1.0 / shard.count
    weight = ops.sum(shard.weights)
    return ops.divide_no_nan(weight, shard.count * mean_over_shards(weight))


def batch_mean(values: Tensor) -> Tensor:
    """Weighted mean over the first axis of the whole batch, (B, ...) -> (...).

    Its gradient is that of `shard_mean`. If each shard multiplies its loss by `shard_fraction`, the
    gradients of all shards add up to the gradient of the whole batch.
    """
    mean = shard_mean(values)
    if not is_split():
        return mean
    whole = _replica.get().count * mean_over_shards(shard_fraction() * mean)
    return mean + ops.stop_gradient(whole - mean)


def mean_over_shards(values: Tensor) -> Tensor:
    """Mean of a tensor over all shards of the batch; it passes no gradient."""
    return _replica.get().mean(values)


def is_split() -> bool:
    """True if this batch is one shard of a larger batch."""
    return _replica.get().count > 1
