"""Whose turn it is and how long work takes: what a queue needs to give fair shares of one model by cost.

A cost is seconds of the model: the positions that a request makes it write or read, by the speed measured on earlier ones.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

PIECE_SECONDS = 0.15
"""How long a piece of work should take: what a small request waits for at most before its turn."""

FIXED_SHARE = 0.25
"""Largest share of a piece's time that may be the same for a piece of any size: longer pieces where it would be more."""

STEP = 0.2
"""How far one measured piece moves the speed."""


@dataclass
class Speed:
    """How long a piece of one kind of work takes: `fixed + each * positions` seconds, followed piece by piece."""

    fixed: float = 0.0
    """Seconds of any piece, whatever its size."""
    each: float = 0.0
    """Seconds of a position; 0 while nothing is known."""
    scale: float = 1.0
    """Positions of a large piece."""

    @classmethod
    def of_two(cls, small: int, small_seconds: float, large: int, large_seconds: float) -> Speed:
        """Of a small and a large piece: their positions and seconds."""
        each = max((large_seconds - small_seconds) / (large - small), 0.1 * large_seconds / large)
        return cls(max(small_seconds - each * small, 0.0), each, large)

    def seconds(self, positions: float) -> float:
        """Of one piece."""
        return self.fixed + self.each * positions

    def saw(self, positions: float, seconds: float) -> None:
        """Follow a piece that ran: least mean squares, normalised. Small pieces move `fixed`, large ones both. A single piece
        counts as at most twice as long as expected."""
        if positions <= 0:
            return
        if not self.each:
            self.each, self.scale = seconds / positions, positions
            return
        error = min(seconds - self.seconds(positions), self.seconds(positions))
        share = positions / self.scale
        moved = STEP * error / (1.0 + share**2)
        self.fixed = max(self.fixed + moved, 0.0)
        self.each = max(self.each + moved * share / self.scale, 0.1 * self.each)

    @property
    def piece(self) -> float:
        """Positions of a piece."""
        if not self.each:
            return float("inf")
        in_time, worth_it = PIECE_SECONDS - self.fixed, self.fixed * (1.0 / FIXED_SHARE - 1.0)
        return max(in_time, worth_it) / self.each

    @property
    def rate(self) -> float:
        """Seconds of a position in full pieces; as good as none while nothing is known, which still tells small from large."""
        return self.seconds(self.piece) / self.piece if self.each else 1e-9


class FairClock:
    """The virtual time of a model that all unfinished requests would share equally.

    A request gets the virtual time at which it would be done there. Served in the order of these times, one after another,
    none is done later than by equal shares, and most are done sooner (Friedman and Henderson 2003, fair sojourn protocol).
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.ends: list[float] = []

    def enter(self, cost: float) -> float:
        """The virtual time at which a request of `cost` seconds will be done."""
        end = self.now + cost
        heapq.heappush(self.ends, end)
        return end

    def leave(self, end: float) -> None:
        """Forget a request that is not wanted any more."""
        if end in self.ends:
            self.ends.remove(end)
            heapq.heapify(self.ends)

    def advance(self, work: float) -> None:
        """The model did `work` seconds, which all unfinished requests would have shared."""
        while self.ends:
            until_next_end = (self.ends[0] - self.now) * len(self.ends)
            if work < until_next_end:
                self.now += work / len(self.ends)
                return
            work -= until_next_end
            self.now = heapq.heappop(self.ends)
