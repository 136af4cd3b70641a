"""Requests that wait for the model: those of one kind that come within a few milliseconds run as one batch.

Everything here belongs to one event loop; only the model itself runs in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from . import Cancellation, Cancelled, KvaeError

Run = Callable[..., Sequence[Any]]
"""`run(items, cancel=cancellation)`: one result for each item, in a thread."""


class Busy(KvaeError):
    """More requests wait than the queue holds."""


@dataclass(eq=False)
class Job:
    """What one request wants done; jobs of equal `kind` have the same `run` but for their items."""

    kind: tuple[Hashable, ...]
    run: Run
    items: Sequence[Any]
    weight: int
    """How many texts that is for the model."""
    answer: asyncio.Future[list[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """A queue of at most `longest` jobs and the thread that runs them, `most` texts at a time.

    A batch is what has the kind of the oldest job. `window` is how many seconds an idle model waits for company; while it
    is busy, the jobs that come collect by themselves. `observe(jobs)` is told of each batch.
    """

    def __init__(self, longest: int, most: int, window: float, observe: Callable[[Sequence[Job]], None]) -> None:
        self.longest, self.most, self.window, self.observe = longest, most, window, observe
        self.waiting: list[Job] = []
        self.running: list[Job] = []
        self._arrived = asyncio.Event()
        self._pool = ThreadPoolExecutor(1, "kvae-batch")

    def submit(self, job: Job) -> asyncio.Future[list[Any]]:
        """Queue a job; its results, one an item. Cancel the future to take it back. Raises `Busy` where the queue is full."""
        if len(self.waiting) >= self.longest:
            raise Busy(f"the queue holds {self.longest} requests and is full; try again in a moment")
        self.waiting.append(job)
        self._arrived.set()
        job.answer.add_done_callback(partial(self._leave, job))
        return job.answer

    async def work(self) -> None:
        """Run batch after batch, until cancelled."""
        while True:
            if not self.waiting:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self.window)
            if self.waiting:
                self.running = self._next_batch()
                await self._run(self.running)
                self.running = []

    def abandon(self, error: KvaeError) -> None:
        """Answer all jobs with an error; what runs for them ends."""
        for job in [*self.waiting, *self.running]:
            if not job.answer.done():
                job.answer.set_exception(error)

    def close(self) -> None:
        """Let the thread end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _leave(self, job: Job, answer: asyncio.Future[list[Any]]) -> None:
        if job in self.waiting:
            self.waiting.remove(job)
        if not answer.cancelled():
            answer.exception()  # seen, even where nobody waits for it any more

    def _next_batch(self) -> list[Job]:
        """The oldest job, and of its kind what fits beside it."""
        batch, texts = [self.waiting[0]], self.waiting[0].weight
        for job in self.waiting[1:]:
            if job.kind == batch[0].kind and texts + job.weight <= self.most:
                batch.append(job)
                texts += job.weight
        self.waiting = [job for job in self.waiting if job not in batch]
        return batch

    async def _run(self, jobs: Sequence[Job]) -> None:
        """One batch; what cannot be run together for the fault of one runs one by one."""
        cancellation = Cancellation()

        def unwanted(_: Any) -> None:
            if all(job.answer.done() for job in jobs):
                cancellation.cancel()

        for job in jobs:
            job.answer.add_done_callback(unwanted)
        self.observe(jobs)
        items = [item for job in jobs for item in job.items]
        call = partial(jobs[0].run, items, cancel=cancellation)
        try:
            results = list(await asyncio.get_running_loop().run_in_executor(self._pool, call))
        except Exception as error:
            shared = len(jobs) == 1 or isinstance(error, Cancelled) or not isinstance(error, KvaeError)
            for job in jobs:
                if not job.answer.done() and shared:
                    job.answer.set_exception(error)
                elif not job.answer.done():
                    await self._run([job])
            return
        for job in jobs:
            mine, results = results[: len(job.items)], results[len(job.items) :]
            if not job.answer.done():
                job.answer.set_result(mine)
