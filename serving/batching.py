"""The queue of requests for the model: each gets a fair share of the model's time, and requests of
one kind run as one batch.

Everything here runs in one event loop, except the model itself, which runs in a thread.
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
"""`run(items, cancel=cancellation)` returns one result per item; it is called in a thread."""

PLANNED_SHARE = 0.8
"""A new request is accepted only if it is expected to finish within this fraction of its time. The
rest is a reserve for later requests that are served first, and for a machine that becomes slower.
"""


class Busy(KvaeError):
    """The queue is full."""


class Unavailable(KvaeError):
    """The server cannot do this now; it may be able to in `retry` seconds."""

    def __init__(self, message: str, retry: int = 1) -> None:
        super().__init__(message)
        self.retry = retry


@dataclass(eq=False)
class Job:
    """The work of one request. Jobs of equal `kind` can be run together: their `run` differs only
    in its items."""

    kind: tuple[Hashable, ...]
    run: Run
    items: Sequence[Any]
    """Rows of a batch."""
    positions: int
    """Positions that the model processes per item."""
    speed: Speed
    deadline: float = math.inf
    """Time at which the answer must be ready, on the clock of `time.monotonic`."""
    items_taken: int = 0
    """Number of items that have run or are running."""
    finish_time: float = 0.0
    results: list[Any] = field(default_factory=list)
    answer: asyncio.Future[list[Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    @property
    def positions_left(self) -> int:
        return (len(self.items) - self.items_taken) * self.positions

    @property
    def seconds_left(self) -> float:
        """Cost in seconds of the items that still wait, run in pieces of full size."""
        return self.positions_left * self.speed.seconds_per_position

    def next_items(self, most: int) -> Sequence[Any]:
        """Take the next items, at most `most`."""
        items = self.items[self.items_taken : self.items_taken + most]
        self.items_taken += len(items)
        return items


Batch = Sequence[tuple[Job, Sequence[Any]]]
"""The jobs that run now, each with its items of this piece."""


class Batcher:
    """A queue of at most `max_jobs` jobs and the thread that runs them in pieces of at most
    `max_items` items.

    The next piece belongs to the job that would finish first if all shared the model equally
    (`FairClock`). The piece is filled up with items of other jobs of the same kind. So a small
    request waits for one piece only, and large requests finish one after another.

    A job that cannot finish in time, given the cost of the jobs before it, is refused with
    `Unavailable`. This happens when it is submitted, or later if newer jobs or a slower machine
    delay it, but never after its first piece has started.

    `window` is the time in seconds that an idle model waits for more jobs to join a batch; while
    the model is busy, jobs accumulate anyway. `observe(batch)` is called before each batch.
    """

    def __init__(
        self, max_jobs: int, max_items: int, window: float, observe: Callable[[Batch], None]
    ) -> None:
        self.max_jobs, self.max_items, self.window, self.observe = (
            max_jobs,
            max_items,
            window,
            observe,
        )
        self.jobs: list[Job] = []
        """Waiting and running jobs, in the order in which they are served."""
        self.running: Batch = ()
        self.clock = FairClock()
        self._piece_ends = 0.0
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "kvae-batch")

    @property
    def waiting(self) -> list[Job]:
        """Jobs of which no item is running now."""
        running = {id(job) for job, _ in self.running}
        return [job for job in self.jobs if id(job) not in running]

    @property
    def positions_waiting(self) -> int:
        return sum(job.positions_left for job in self.jobs)

    def submit(self, job: Job) -> asyncio.Future[list[Any]]:
        """Queue a job and return the future of its results, one per item. Cancel the future to
        withdraw the job. Raises `Busy` if the queue is full; the future fails with `Unavailable` if
        the job cannot finish in time."""
        if len(self.waiting) >= self.max_jobs:
            raise Busy(
                f"the queue holds {self.max_jobs} requests and is full; try again in a moment"
            )
        job.finish_time = self.clock.enter(job.seconds_left)
        insort(self.jobs, job, key=lambda other: other.finish_time)
        job.answer.add_done_callback(partial(self._leave, job))
        self._refuse_late_jobs(new_job=job)
        self._arrived.set()
        return job.answer

    async def work(self) -> None:
        """Run piece after piece until cancelled."""
        while True:
            if not self.jobs:
                self.clock = FairClock()
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self.window)
            if self.jobs:
                await self._run(self._next_batch())
                self._refuse_late_jobs()

    def close(self) -> None:
        """Shut down the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, job: Job, answer: asyncio.Future[Any]) -> None:
        if job in self.jobs:
            self.jobs.remove(job)
            if answer.cancelled() or answer.exception():
                self.clock.leave(job.finish_time)
        if not answer.cancelled():
            answer.exception()  # retrieved, so that asyncio does not log it

    def _refuse_late_jobs(self, new_job: Job | None = None) -> None:
        """Refuse jobs that have not started and would finish too late; jobs behind them then finish
        sooner."""
        now = time.monotonic()
        end, kinds = max(now, self._piece_ends), set()
        for job in list(self.jobs):
            expected_end = (
                end + job.seconds_left + (job.speed.fixed if job.kind not in kinds else 0.0)
            )
            left = (job.deadline - now) * (PLANNED_SHARE if job is new_job else 1.0)
            if expected_end - now > left and not job.items_taken and not job.answer.done():
                job.answer.set_exception(
                    lateness_error(
                        expected_end - now, job.deadline - now, expected_end - now - left
                    )
                )
                self._leave(job, job.answer)
            else:
                end = expected_end
                kinds.add(job.kind)

    def _next_batch(self) -> Batch:
        """The next piece: items of the first job, filled up with items of other jobs of its
        kind."""
        first = self.jobs[0]
        room = int(
            max(1, min(self.max_items, first.speed.positions_per_piece // max(first.positions, 1)))
        )
        batch = []
        for job in self.jobs:
            if job.kind == first.kind and (room or job is first):
                batch.append((job, job.next_items(room)))
                room -= len(batch[-1][1])
        return batch

    async def _run(self, batch: Batch) -> None:
        """Run one piece. Inputs were checked before, so an error here is an error of every job in
        the piece."""
        cancellation = Cancellation()

        def cancel_if_all_done(_: Any) -> None:
            if all(job.answer.done() for job, _ in batch):
                cancellation.cancel()

        for job, _ in batch:
            job.answer.add_done_callback(cancel_if_all_done)
        first, items = batch[0][0], [item for _, items in batch for item in items]
        positions, started_at = len(items) * first.positions, time.monotonic()
        self.running, self._piece_ends = batch, started_at + first.speed.seconds(positions)
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
        first.speed.update(positions, time.monotonic() - started_at)
        self.clock.advance(positions * first.speed.seconds_per_position)
        for job, job_items in batch:
            job.results += results[: len(job_items)]
            results = results[len(job_items) :]
            if not job.answer.done() and len(job.results) == len(job.items):
                job.answer.set_result(job.results)
            if job.answer.done():
                self._leave(job, job.answer)


def lateness_error(needed: float, left: float, over: float) -> Unavailable:
    """The refusal of a request that would take `needed` seconds from now, has `left` seconds, and
    exceeds its planned time by `over` seconds."""
    retry = max(1, math.ceil(over))
    return Unavailable(
        f"deadline: this would take {needed:.2g} seconds, earlier requests included, "
        f"and has {max(left, 0.0):.2g}; try again in {retry} s, ask for less at once, "
        f"or give it more time",
        retry,
    )
