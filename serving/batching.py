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
    """How many texts an item is for the model."""
    results: list[Any] = field(default_factory=list)
    answer: asyncio.Future[list[Any]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def next_items(self, texts: int) -> Sequence[Any]:
        """The next items, of about so many texts."""
        start = len(self.results)
        return self.items[start : start + max(1, texts // self.weight)]

    @property
    def texts_left(self) -> int:
        return (len(self.items) - len(self.results)) * self.weight


Batch = Sequence[tuple[Job, Sequence[Any]]]
"""Jobs, with the items of each that run now."""


class Batcher:
    """A queue of at most `longest` jobs and the thread that runs them, `most` texts at a time.

    A batch is what has the kind of the oldest job. What is larger than a batch goes to the end of the queue after each, so
    that small requests overtake large ones. `window` is how many seconds an idle model waits for company; while it is
    busy, the jobs that come collect by themselves. `observe(batch)` is told of each batch.
    """

    def __init__(self, longest: int, most: int, window: float, observe: Callable[[Batch], None]) -> None:
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
                batch = self._next_batch()
                self.running = [job for job, _ in batch]
                await self._run(batch)
                self.waiting += [job for job in self.running if not job.answer.done()]
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

    def _next_batch(self) -> Batch:
        """Of the oldest job what a batch holds, and of its kind what fits beside it."""
        oldest = self.waiting[0]
        batch = [(oldest, oldest.next_items(self.most))]
        room = self.most - len(batch[0][1]) * oldest.weight
        for job in self.waiting[1:]:
            if job.kind == oldest.kind and job.texts_left <= room:
                batch.append((job, job.next_items(self.most)))
                room -= job.texts_left
        taken = {id(job) for job, _ in batch}
        self.waiting = [job for job in self.waiting if id(job) not in taken]
        return batch

    async def _run(self, batch: Batch) -> None:
        """Run a batch. What cannot run together for the fault of one runs one by one and whole, so that an error is that of
        the request alone."""
        cancellation = Cancellation()

        def unwanted(_: Any) -> None:
            if all(job.answer.done() for job, _ in batch):
                cancellation.cancel()

        for job, _ in batch:
            job.answer.add_done_callback(unwanted)
        self.observe(batch)
        call = partial(batch[0][0].run, [item for _, items in batch for item in items], cancel=cancellation)
        try:
            results = list(await asyncio.get_running_loop().run_in_executor(self._pool, call))
        except Exception as error:
            alone = len(batch) == 1 and len(batch[0][1]) == len(batch[0][0].items)
            final = alone or isinstance(error, Cancelled) or not isinstance(error, KvaeError)
            for job in [job for job, _ in batch if not job.answer.done()]:
                if final:
                    job.answer.set_exception(error)
                else:
                    job.results.clear()
                    await self._run([(job, job.items)])
            return
        for job, items in batch:
            job.results += results[: len(items)]
            results = results[len(items) :]
            if not job.answer.done() and not job.texts_left:
                job.answer.set_result(job.results)
