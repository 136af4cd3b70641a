"""Cost and order of the work in a queue whose requests get fair shares of one model.

A cost is seconds of the model: the positions of a request, at the speed measured on earlier
requests.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

PIECE_SECONDS = 0.15
"""Target duration of one piece of work: how long a small request waits at most before it is
served."""

FIXED_SHARE = 0.25
"""Largest fraction of a piece's duration that may be fixed cost; pieces grow longer where it would
be more."""

LEARNING_RATE = 0.2
"""How much one measured piece changes the estimated speed."""


@dataclass
class Speed:
    """The duration of a piece of one kind of work, `fixed + per_position * positions` seconds,
    estimated from measured pieces."""

    fixed: float = 0.0
    """Seconds per piece, whatever its size."""
    per_position: float = 0.0
    """Seconds per position; 0 before the first measurement."""
    large_piece: float = 1.0
    """Positions of a large piece, the unit of the estimate's step size."""

    @classmethod
    def from_two_pieces(
        cls, small: int, small_seconds: float, large: int, large_seconds: float
    ) -> Speed:
        """The speed estimated from the positions and seconds of a small and a large piece."""
        per_position = max(
            (large_seconds - small_seconds) / (large - small), 0.1 * large_seconds / large
        )
        return cls(max(small_seconds - per_position * small, 0.0), per_position, large)

    def seconds(self, positions: float) -> float:
        """The expected seconds of one piece."""
        return self.fixed + self.per_position * positions

    def update(self, positions: float, seconds: float) -> None:
        """Update the estimate with a measured piece, by normalised least mean squares. Small pieces
        mainly change `fixed`, large ones change both. A measurement counts as at most twice the
        expected duration."""
        if positions <= 0:
            return
        if not self.per_position:
            self.per_position, self.large_piece = seconds / positions, positions
            return
        error = min(seconds - self.seconds(positions), self.seconds(positions))
        relative_size = positions / self.large_piece
        correction = LEARNING_RATE * error / (1.0 + relative_size**2)
        self.fixed = max(self.fixed + correction, 0.0)
        self.per_position = max(
            self.per_position + correction * relative_size / self.large_piece,
            0.1 * self.per_position,
        )

    @property
    def positions_per_piece(self) -> float:
        """Positions of a piece of full size; infinite before the first measurement."""
        if not self.per_position:
            return float("inf")
        in_time, amortised = PIECE_SECONDS - self.fixed, self.fixed * (1.0 / FIXED_SHARE - 1.0)
        return max(in_time, amortised) / self.per_position

    @property
    def seconds_per_position(self) -> float:
        """Seconds per position in pieces of full size. Before the first measurement it is tiny,
        which still orders small and large requests."""
        return (
            self.seconds(self.positions_per_piece) / self.positions_per_piece
            if self.per_position
            else 1e-9
        )


class FairClock:
    """The virtual time of a model that all unfinished requests would share equally.

    Each request gets the virtual time at which it would finish on that model. Served one after
    another in the order of these times, no request finishes later than with equal shares, and most
    finish sooner (Friedman and Henderson 2003, fair sojourn protocol).
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.ends: list[float] = []

    def enter(self, cost: float) -> float:
        """The virtual finish time of a new request that costs `cost` seconds."""
        end = self.now + cost
        heapq.heappush(self.ends, end)
        return end

    def leave(self, end: float) -> None:
        """Forget a request that was withdrawn."""
        if end in self.ends:
            self.ends.remove(end)
            heapq.heapify(self.ends)

    def advance(self, work: float) -> None:
        """Advance the clock by `work` seconds of the model, shared equally by all unfinished
        requests."""
        while self.ends:
            until_next_end = (self.ends[0] - self.now) * len(self.ends)
            if work < until_next_end:
                self.now += work / len(self.ends)
                return
            work -= until_next_end
            self.now = heapq.heappop(self.ends)
