"""Batches of token ids in numpy, from memory or from disk. The content of batch number n depends on
the seed alone.

Reading a batch alone costs as much as reading several, so they are read in groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .columns import MemoryColumn
from .orders import lengths_of, order_of
from .prepare import Prepared
from .rows import Rows, Stream

ROUNDING = 4
"""Batches are trimmed to a multiple of this length, so that few shapes are compiled."""

MOST_TOGETHER, TOKENS_TOGETHER = 32, 2**19
"""Largest number of batches that are read together, and the tokens that they have at most."""


class Group(NamedTuple):
    """Batches that were read together: tokens (G, B, T), the length (G,) that each is trimmed to,
    and attributes (G, B) or None. All are int32."""

    tokens: np.ndarray
    lengths: np.ndarray
    attribute: np.ndarray | None

    def batches(self) -> Iterator[Any]:
        """The tokens (B, T) of each batch; with attributes {"tokens", "attribute"}."""
        trimmed = (tokens[:, :end] for tokens, end in zip(self.tokens, self.lengths, strict=True))
        if self.attribute is None:
            return trimmed
        return (
            {"tokens": tokens, "attribute": attribute}
            for tokens, attribute in zip(trimmed, self.attribute, strict=True)
        )


@dataclass(frozen=True)
class Feed:
    """Numbered batches: `read` returns those of consecutive numbers (G,).

    The first one is number `first`. A pass has `count` batches; None: it never ends. `shape` is
    (B, T), that of most batches. With `is_ragged` the last batch of a pass may be smaller, and with
    `is_trimmed` each has a T of its own.
    """

    read: Callable[[np.ndarray], Group]
    shape: tuple[int, int]
    count: int | None
    first: int = 0
    is_ragged: bool = False
    is_trimmed: bool = False
    has_attribute: bool = False

    def number(self, index: int, passes: int) -> int:
        """The number of a batch after so many complete passes."""
        return self.first + passes * (self.count or 0) + index

    @property
    def together(self) -> int:
        """Number of batches that are read together."""
        batch_size, length = self.shape
        return max(1, min(MOST_TOGETHER, TOKENS_TOGETHER // (batch_size * length)))

    def bounds(self, count: int) -> list[tuple[int, int]]:
        """The first index of each group of a pass, and the index after its last one."""
        whole = count - self.is_ragged  # a batch that may be smaller is a group of its own
        edges = [*range(0, whole, self.together), whole, count]
        return [(start, end) for start, end in itertools.pairwise(edges) if start < end]

    def groups(self, passes: int = 0) -> Iterator[Group]:
        """The batches of a pass, in groups."""
        if self.count is None:
            starts = itertools.count(0, self.together)
            pairs: Iterable[tuple[int, int]] = ((start, start + self.together) for start in starts)
        else:
            pairs = self.bounds(self.count)
        first = self.number(0, passes)
        return (self.read(np.arange(first + start, first + end)) for start, end in pairs)

    def batches(self, passes: int = 0) -> Iterator[Any]:
        """The batches of a pass, while a thread reads the next group."""
        return (batch for group in ahead(self.groups(passes)) for batch in group.batches())


def ahead(groups: Iterator[Group]) -> Iterator[Group]:
    """Yield the same groups; a thread reads the next one."""
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, groups, None)
        while (group := upcoming.result()) is not None:
            upcoming = thread.submit(next, groups, None)
            yield group


def training_feed(prepared: Prepared, first_step: int | None = None) -> Feed:
    """The batches of the training split: one pass, or from `first_step` on without end."""
    order, trim = order_of(prepared), prepared.config.training.length_buckets
    take = reader(prepared.train, prepared.config.model.length)
    size = len(order.places(np.arange(1))[0])
    return Feed(
        lambda numbers: group_of(take, order.places(numbers), prepared.train_attribute, trim),
        shape=(size, prepared.config.model.length),
        count=order.steps if first_step is None else None,
        first=first_step or 0,
        is_trimmed=trim,
        has_attribute=prepared.train_attribute is not None,
    )


def validation_feed(prepared: Prepared, batch_size: int, parts: int) -> Feed:
    """The batches of the held-out split, each divisible into `parts` equal parts."""
    rows, trim = prepared.validation, prepared.config.training.length_buckets
    places = np.arange(len(rows) // parts * parts)
    if trim:
        places = np.argsort(lengths_of(rows)[places], kind="stable")
    return ordered_feed(
        rows, places, batch_size // parts * parts or parts, prepared.validation_attribute, trim
    )


def ordered_feed(
    rows: np.ndarray,
    places: np.ndarray,
    batch_size: int,
    attribute: np.ndarray | None = None,
    trim: bool = False,
) -> Feed:
    """The rows at `places` (N,) once, in this order; the last batch may be smaller."""
    count = -(-len(places) // batch_size)

    def read(numbers: np.ndarray) -> Group:
        first, last = (int(number) % count * batch_size for number in numbers[[0, -1]])
        chosen = places[first : last + batch_size].reshape(len(numbers), -1)
        return group_of(memory_reader(rows), chosen, attribute, trim)

    return Feed(
        read,
        shape=(batch_size, rows.shape[1]),
        count=count,
        is_ragged=True,
        is_trimmed=trim,
        has_attribute=attribute is not None,
    )


def ordered_rows(rows: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Batches (B, T) int32 with every row once, in order; the last one may be smaller."""
    return (
        rows[start : start + batch_size].astype(np.int32)
        for start in range(0, len(rows), batch_size)
    )


def reader(values: Rows | Stream, length: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function that reads the rows at its argument (N,), or the windows that begin there, as
    (N, T) int32."""
    if isinstance(values.tokens, MemoryColumn):
        numbers = values.numbers()
        is_stream = isinstance(values, Stream)
        windows = np.lib.stride_tricks.sliding_window_view
        return memory_reader(windows(numbers, length) if is_stream else numbers)
    if isinstance(values, Stream):
        return lambda starts: values.take(starts, length)
    return values.take


def memory_reader(table: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that reads rows of `table` as int32."""
    return lambda places: table[places].astype(np.int32)


def group_of(
    take: Callable[[np.ndarray], np.ndarray],
    places: np.ndarray,
    attribute: np.ndarray | None,
    trim: bool,
) -> Group:
    """The batches at the places (G, B). With `trim` each is trimmed to its longest text."""
    tokens = take(places.ravel()).reshape(*places.shape, -1)
    lengths = trimmed_lengths(tokens) if trim else np.full(len(tokens), tokens.shape[2], np.int32)
    return Group(tokens, lengths, None if attribute is None else attribute[places].astype(np.int32))


def trimmed_lengths(tokens: np.ndarray) -> np.ndarray:
    """The longest text of each batch of tokens (G, B, T), rounded up to a multiple of `ROUNDING`
    or to T, (G,)."""
    longest = np.array([lengths_of(batch).max() for batch in tokens], np.int32)
    return np.minimum(-(-longest // ROUNDING) * ROUNDING, np.int32(tokens.shape[2]))
