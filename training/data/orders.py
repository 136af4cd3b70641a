"""The order in which a corpus is read: the rows, or windows of a stream, of each batch.

It depends only on the seed and the step, so that an interrupted run continues with the batches it
would have seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kvae.serving.alphabet import PAD

from .draws import shuffled, uniform
from .prepare import Prepared
from .rows import Rows, Stream

POOL = 50
"""Number of batches that are sorted by length together.

More batches make the lengths within a batch more similar; fewer are closer to a plain shuffle.
"""


@dataclass(frozen=True)
class Order:
    """The order in which a corpus is read.

    `places(steps)` are the places (G, B) of the batches of the steps (G,): indices of rows, or the
    first positions of windows. `steps` steps make one pass.
    """

    places: Callable[[np.ndarray], np.ndarray]
    steps: int


def order_of(prepared: Prepared) -> Order:
    """The order of the training split, from the data mode, batch size and seed."""
    config, train = prepared.config, prepared.train
    batch_size, seed = config.training.batch_size, config.training.seed
    if isinstance(train, Stream):
        return random_windows(len(train), config.model.length, batch_size, seed)
    if config.training.length_buckets:
        return bucketed_rows(lengths_of(train), batch_size, seed)
    return shuffled_rows(len(train), batch_size, seed)


def steps_of_a_pass(prepared: Prepared) -> int:
    """Number of training steps in one pass over the training split."""
    return order_of(prepared).steps


def batch_size_of(prepared: Prepared) -> int:
    """Texts per training step: `training.batch_size`, or all texts of a smaller corpus."""
    config, rows = prepared.config, len(prepared.train)
    return min(
        config.training.batch_size,
        window_count(rows, config.model.length) if config.data.reading.is_stream else rows,
    )


def shuffled_rows(rows: int, batch_size: int, seed: int) -> Order:
    """A random order in which every row occurs at most once per pass, in full batches.

    Every pass has a different order. If there are fewer rows than `batch_size`, one batch contains
    all of them.
    """
    batch_size = min(batch_size, rows)
    steps_of_pass = rows // batch_size

    def places(steps: np.ndarray) -> np.ndarray:
        passes, within = np.divmod(steps, steps_of_pass)
        positions = within[:, None] * batch_size + np.arange(batch_size)
        for number in np.unique(passes).tolist():
            of_pass = passes == number
            positions[of_pass] = shuffled(positions[of_pass], seed, number, rows)
        return positions

    return Order(places, steps_of_pass)


def bucketed_rows(lengths: np.ndarray, batch_size: int, seed: int) -> Order:
    """A random order like that of `shuffled_rows`, with texts of similar length in a batch.

    The rows of `POOL` batches at a time are sorted by their `lengths` (N,). The resulting batches
    come in a random order.
    """
    batch_size = min(batch_size, len(lengths))
    order = shuffled_rows(len(lengths), batch_size, seed)

    @lru_cache(maxsize=2)
    def pool(first: int) -> np.ndarray:
        """The batches (P, B) of the pool that begins at step `first`, in their order."""
        steps = np.arange(min(POOL, order.steps - first % order.steps))
        rows = order.places(first + steps).ravel()
        by_length = rows[np.argsort(lengths[rows], kind="stable")].reshape(-1, batch_size)
        in_order: np.ndarray = by_length[shuffled(steps, seed, first, len(steps))]
        return in_order

    def places(steps: np.ndarray) -> np.ndarray:
        firsts = steps - steps % order.steps % POOL
        return np.stack(
            [pool(first)[step] for first, step in zip(firsts.tolist(), steps - firsts, strict=True)]
        )

    return Order(places, order.steps)


def random_windows(tokens: int, length: int, batch_size: int, seed: int) -> Order:
    """Windows of `length` tokens at random positions of a stream of so many tokens.

    A pass has about as many tokens as the stream.
    """
    count = window_count(tokens, length)
    batch_size = min(batch_size, count)
    return Order(
        lambda steps: uniform(seed, steps, batch_size, tokens - length + 1), count // batch_size
    )


def window_count(tokens: int, length: int) -> int:
    """Number of windows that make one pass over a stream of so many tokens."""
    return max(1, tokens // length)


def lengths_of(rows: Rows | np.ndarray) -> np.ndarray:
    """Number of positions of each row without padding, (N,)."""
    if isinstance(rows, np.ndarray):
        return np.asarray(np.sum(rows != PAD, axis=1))
    return rows.lengths()
