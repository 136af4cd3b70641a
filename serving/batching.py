"""Requests that wait for the model: each gets a fair share of it by cost, and those of one kind run as one batch.

Everything here belongs to one event loop; only the model itself runs in a thread.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import Cancellation, KvaeError
from .shares import FairClock, Speed

Run = Callable[..., Sequence[Any]]
"""`run(items, cancel=cancellation)`: one result for each item, in a thread."""

PLANNED = 0.8
"""Share of its time within which a request has to be expected done when it is taken: the rest is for what comes after it and
goes first, and for a machine that becomes slower."""


class Busy(KvaeError):
    """More requests wait than the queue holds."""


class Unavailable(KvaeError):
    """The server cannot do this now; it may in `retry` seconds."""

    def __init__(self, message: str, retry: int = 1) -> None:
        super().__init__(message)
        self.retry = retry


@dataclass(eq=False)
class Job:
    """What one request wants done; jobs of equal `kind` have the same `run` but for their items."""

    kind: tuple[Hashable, ...]
    run: Run
    items: Sequence[Any]
    """Rows of a batch."""
    positions: int
    """What the model writes or reads for an item."""
    speed: Speed
    deadline: float = math.inf
    """When the answer has to be there, on the clock of `time.monotonic`."""
    given: int = 0
    """Items that run or have run."""
    turn: float = 0.0
    results: list[Any] = field(default_factory=list)
    answer: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def positions_left(self) -> int:
        return (len(self.items) - self.given) * self.positions

    @property
    def seconds_left(self) -> float:
        """What its waiting items cost in full pieces."""
        return self.positions_left * self.speed.rate

    def next_items(self, most: int) -> Sequence[Any]:
        """The next items, at most so many, which count as given."""
        items = self.items[self.given : self.given + most]
        self.given += len(items)
        return items


Batch = Sequence[tuple[Job, Sequence[Any]]]
"""Jobs, with the items of each that run now."""


class Batcher:
    """A queue of at most `longest` jobs and the thread that runs them, piece by piece, at most `most` items at a time.

    The next piece is of the job that equal shares would finish first (`FairClock`), filled up with what has the same kind: a
    small request waits for one piece, and of large ones one after another is finished. A job that cannot be done in its
    time, by the cost of what goes before it, is refused with `Unavailable`: when it comes, or when what came later and the
    machine's speed made it so, but never once it was begun. `window` is how many seconds an idle model waits for company;
    while it is busy, the jobs that come collect by themselves. `observe(batch)` is told of each batch.
    """

    def __init__(
        self, longest: int, most: int, window: float, observe: Callable[[Batch], None]
    ) -> None:
        self.longest, self.most, self.window, self.observe = longest, most, window, observe
        self.jobs: list[Job] = []
        """What waits and what runs, in the order of their turns."""
        self.running: Batch = ()
        self.clock = FairClock()
        self._piece_ends = 0.0
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "kvae-batch")

    @property
    def waiting(self) -> list[Job]:
        """Jobs that the model does not run at this moment."""
        running = {id(job) for job, _ in self.running}
        return [job for job in self.jobs if id(job) not in running]

    @property
    def positions_waiting(self) -> int:
        return sum(job.positions_left for job in self.jobs)

    def submit(self, job: Job) -> asyncio.Future[list[Any]]:
        """Queue a job; its results, one an item. Cancel the future to take it back. Raises `Busy` where the queue is full;
        the future fails with `Unavailable` where the job cannot be done in its time."""
        if len(self.waiting) >= self.longest:
            raise Busy(
                f"the queue holds {self.longest} requests and is full; try again in a moment"
            )
        job.turn = self.clock.enter(job.seconds_left)
        insort(self.jobs, job, key=lambda other: other.turn)
        job.answer.add_done_callback(partial(self._leave, job))
        self._refuse_what_is_late(newcomer=job)
        self._arrived.set()
        return job.answer

    async def work(self) -> None:
        """Run piece after piece, until cancelled."""
        while True:
            if not self.jobs:
                self.clock = FairClock()
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self.window)
            if self.jobs:
                await self._run(self._next_batch())
                self._refuse_what_is_late()

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, job: Job, answer: asyncio.Future[Any]) -> None:
        if job in self.jobs:
            self.jobs.remove(job)
            if answer.cancelled() or answer.exception():
                self.clock.leave(job.turn)
        if not answer.cancelled():
            answer.exception()  # seen, even where nobody waits for it any more

    def _refuse_what_is_late(self, newcomer: Job | None = None) -> None:
        """Refuse the jobs that are not begun and would be done too late; what they would cost is free for the others."""
        now = time.monotonic()
        end, kinds = max(now, self._piece_ends), set()
        for job in list(self.jobs):
            here = end + job.seconds_left + (job.speed.fixed if job.kind not in kinds else 0.0)
            left = (job.deadline - now) * (PLANNED if job is newcomer else 1.0)
            if here - now > left and not job.given and not job.answer.done():
                job.answer.set_exception(
                    too_late(here - now, job.deadline - now, here - now - left)
                )
                self._leave(job, job.answer)
            else:
                end = here
                kinds.add(job.kind)

    def _next_batch(self) -> Batch:
        """Of the job whose turn it is what a piece holds, and of its kind what fits beside it."""
        first = self.jobs[0]
        room = int(max(1, min(self.most, first.speed.piece // max(first.positions, 1))))
        batch = []
        for job in self.jobs:
            if job.kind == first.kind and (room or job is first):
                batch.append((job, job.next_items(room)))
                room -= len(batch[-1][1])
        return batch

    async def _run(self, batch: Batch) -> None:
        """Run a piece. Inputs were checked before: what fails here fails for all of one kind."""
        cancellation = Cancellation()

        def unwanted(_: Any) -> None:
            if all(job.answer.done() for job, _ in batch):
                cancellation.cancel()

        for job, _ in batch:
            job.answer.add_done_callback(unwanted)
        first, items = batch[0][0], [item for _, items in batch for item in items]
        positions, began = len(items) * first.positions, time.monotonic()
        self.running, self._piece_ends = batch, began + first.speed.seconds(positions)
        self.observe(batch)
        call = partial(first.run, items, cancel=cancellation)
        try:
            results = list(await asyncio.get_running_loop().run_in_executor(self._pool, call))
        except Exception as error:
            for job, _ in batch:
                if not job.answer.done():
                    job.answer.set_exception(error)
                self._leave(job, job.answer)
            return
        finally:
            self.running = ()
        first.speed.saw(positions, time.monotonic() - began)
        self.clock.advance(positions * first.speed.rate)
        for job, some in batch:
            job.results += results[: len(some)]
            results = results[len(some) :]
            if not job.answer.done() and len(job.results) == len(job.items):
                job.answer.set_result(job.results)
            if job.answer.done():
                self._leave(job, job.answer)


def too_late(needed: float, left: float, over: float) -> Unavailable:
    """A request that would be done `needed` seconds from now, has `left`, and is `over` seconds beyond what may be planned."""
    retry = max(1, math.ceil(over))
    return Unavailable(
        f"deadline: this would take {needed:.2g} seconds, what goes first included, and has {max(left, 0.0):.2g}; "
        f"try again in {retry} s, ask for less at once, or give it more time",
        retry,
    )
