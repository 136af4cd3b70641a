"""Splits: which texts are held out, or may show their label, by the hash of the text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kvae.configuration import Config

CELLS = 2**22
"""Cells that [0, 1) is divided into to count lines by hash: 32 MB of counts for every corpus."""

CELLS_WAITING = 2**20
"""Cells that are counted together."""

SHARE_TOLERANCE = 0.8
"""The limit stays at `fraction` if the share of the lines is 0.8 to 1 / 0.8 times as large."""


def text_hashes(texts: Iterable[str], seed: int, purpose: bytes = b"") -> np.ndarray:
    """The hashes in [0, 1) of texts with a seed and a purpose, (N,) float64: uniform, and the same
    in every process."""
    # A copy of one object takes 0.6 of the time that a new object with its key does.
    start = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8) + purpose).copy
    digests = []
    for text in texts:
        digest = start()
        digest.update(text.encode())
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), ">u8") / 2.0**64


@dataclass(frozen=True)
class Split:
    """A part of a corpus in whole texts: those with a hash of at most `limit`.

    `fraction` is the requested share. `frequent_cells` are the cells of frequent texts, which are
    left out.
    """

    fraction: float
    limit: float
    frequent_cells: tuple[int, ...] = ()

    @classmethod
    def usual(cls, fraction: float) -> Split:
        """The split of a corpus of many different texts."""
        return cls(fraction, fraction)

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each text belongs to the part, (N,) bool, by its hash, (N,) float64."""
        below = hashes <= self.limit
        return (
            below & ~np.isin(cells_of(hashes, self.fraction), self.frequent_cells)
            if self.frequent_cells
            else below
        )


def cells_below(fraction: float) -> int:
    """The number of cells below a fraction; the fraction is the end of a cell."""
    return max(1, round(fraction * CELLS))


def cell_count(fraction: float) -> int:
    """The number of all cells: about `CELLS`, since a cell ends at the fraction."""
    return int(cells_below(fraction) / fraction) + 1


def cells_of(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """The cell of each hash, (N,) int64: so many cells that two texts rarely share one."""
    return (hashes * (cells_below(fraction) / fraction)).astype(np.int64)


def split_by_lines(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split that holds about `fraction` of the lines; `lowest` is not used.

    `cells` are the cells that hold texts, in ascending order, and `lines` the number of lines in
    each.

    A frequent text, one that alone has more lines than the target, is left out of the part. Of the
    lines of all other texts the part takes at most half, or `fraction` if that is more. The limit
    is `fraction`, as if each text had one line. It moves by the smallest distance that brings the
    lines of the part to between `SHARE_TOLERANCE` and 1 / `SHARE_TOLERANCE` times the target, or as
    near to that as whole texts allow. At least one text is in the part and at least one is not. The
    split does not depend on the order of the lines, and few texts change sides when a line is
    added.
    """
    total, usual_end = lines.sum(), cells_below(fraction)
    target = fraction * total
    below = lines[: np.searchsorted(cells, usual_end)].sum()
    is_near = SHARE_TOLERANCE * target <= below <= target / SHARE_TOLERANCE
    if is_near and 0 < below < total and lines.max() <= target:
        return Split.usual(fraction)  # without the arrays below
    rare = lines <= max(target, lines.min())
    target = min(target, max(fraction, 0.5) * lines[rare].sum())
    rare_cells, lines_up_to = cells[rare], np.cumsum(lines[rare])
    # The limit is the end of one of the rare cells, or anything up to the next one: all such limits
    # give the same split.
    next_cell = np.append(rare_cells[1:], np.inf)
    shift = np.maximum(0, np.maximum(rare_cells + 1 - usual_end, usual_end - next_cell))
    low, high = SHARE_TOLERANCE * target, target / SHARE_TOLERANCE
    error = np.maximum(0, np.maximum(low - lines_up_to, lines_up_to - high))
    if rare.all():
        error[-1] = np.inf
    nearest = np.flatnonzero(error == error.min())
    best = nearest[shift[nearest].argmin()]
    end = min(max(usual_end, rare_cells[best] + 1), next_cell[best])
    return Split(
        fraction, float(fraction * (end / usual_end)), tuple(cells[~rare & (cells < end)].tolist())
    )


def split_by_texts(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split that holds about `fraction` of the different texts, however many lines each has.

    It holds at least the text with the hash `lowest`. Runs that are older than `data.split` have
    it.
    """
    return Split(fraction, max(fraction, lowest))


SPLITS: dict[str, Callable[[float, float, np.ndarray, np.ndarray], Split]] = {
    "lines": split_by_lines,
    "texts": split_by_texts,
}
"""The splits by `data.split`.

They are functions of the fraction, the lowest hash, the cells that hold texts, in ascending order,
and the number of lines in each cell.
"""


class Places:
    """Counts of the hashes of texts, from which their split follows."""

    def __init__(self, fraction: float) -> None:
        self.fraction, self.lowest = fraction, 1.0
        self.waiting: list[np.ndarray] = []
        """Cells that are not counted yet. A small corpus needs no table of all cells."""
        self.table: np.ndarray | None = None

    def add(self, hashes: np.ndarray) -> None:
        """Count more texts, (N,) float64."""
        self.lowest = min(self.lowest, hashes.min(initial=1.0))
        self.waiting.append(cells_of(hashes, self.fraction))
        if sum(map(len, self.waiting)) > CELLS_WAITING:
            if self.table is None:
                self.table = np.zeros(cell_count(self.fraction), np.int64)
            cells, counts = self.taken()
            self.table[cells] += counts

    def taken(self) -> tuple[np.ndarray, np.ndarray]:
        """The waiting cells, in ascending order, and how often each waits; none waits after it."""
        waiting, self.waiting = self.waiting, []
        return np.unique(np.concatenate([np.zeros(0, np.int64), *waiting]), return_counts=True)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells that hold texts, in ascending order, and the number of texts in each.

        The hashes are counted once: call it after the last `add`.
        """
        cells, counts = self.taken()
        if self.table is None:
            return cells, counts
        self.table[cells] += counts
        cells = np.flatnonzero(self.table)
        return cells, self.table[cells]

    def split(self, rule: str) -> Split:
        """The split of the counted texts; `rule` is `data.split`."""
        return SPLITS[rule](self.fraction, self.lowest, *self.counts())


OFF_TARGET_REASONS = {
    "lines": "equal lines stay together, and there are too few different lines to come nearer",
    "texts": (
        "data.split=texts counts different texts, whatever their number of lines; a new run splits "
        "by lines"
    ),
}
"""Why the share of the lines can be far from the requested fraction, by `data.split`."""


def is_far(share: float, target: float) -> bool:
    """Whether a share is more than twice or less than half of its target."""
    return not target / 2 <= share <= 2 * target


def note_share(config: Config, held: int, lines: int, notes: list[str]) -> None:
    """Add a note if the share of held-out lines is far from `data.validation_fraction`."""
    data, target = config.data, config.data.validation_fraction
    if is_far(held / lines, target):
        notes.append(
            f"{data.source}: {held:,} of {lines:,} lines are held out, {held / lines:.2%} where "
            f"data.validation_fraction asks for {target:.2%}: {OFF_TARGET_REASONS[data.split]}; "
            "--validation FILE holds out other texts"
        )
