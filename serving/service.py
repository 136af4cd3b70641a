"""A model behind a queue: what the endpoints of the server share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import prometheus_client
from fastapi import Request

from . import Cancellation, ConfigError, DeadlineError, Sampler
from .batching import Batch, Batcher, Job, Unavailable
from .checks import real, whole
from .limits import within
from .sampler import CHUNK
from .shares import Speed


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    max_texts: int = 1024
    """Texts a request: written, read or on the way between two; of scores, texts by samples."""
    max_body_bytes: int = 2**20
    """Bytes of a request's body."""
    queue: int = 256
    """Requests that wait for the model."""
    deadline: float = 30.0
    """Seconds for a request, from its first byte to its answer, or to the last piece of a stream."""
    window: float = 0.003
    """Seconds that an idle model waits for requests to share a batch."""
    shutdown_deadline: float = 30.0
    """Seconds for what runs when the server is told to stop."""
    connections: int = 1024
    """Connections that are open at once; fewer where the process may open fewer files."""
    head_deadline: float = 10.0
    """Seconds for the head of a request to arrive, from the opening of the connection or the answer before."""

    def __post_init__(self) -> None:
        counts = {
            "max_texts": 100_000,
            "max_body_bytes": 2**30,
            "queue": 100_000,
            "connections": 100_000,
        }
        for name, most in counts.items():
            whole(name, getattr(self, name), 1, most)
        for name in ("deadline", "shutdown_deadline", "window", "head_deadline"):
            if not 0 < real(name, getattr(self, name)) <= 86_400:
                raise ConfigError(
                    f"{name} must be above 0 and at most 86400 seconds, got {getattr(self, name)}"
                )


WORK = {
    "sample": "writing",
    "reconstruct": "writing",
    "interpolate": "writing",
    "encode": "reading",
    "score": "scoring",
    "stream": "streaming",
}
"""Which endpoints cost the same for a position; each work has a measured speed."""

MEASURED_ROWS = 32
"""Rows of the large piece by which speeds are measured at the start."""

MEASURED_TIMES = 3
"""Runs of a piece at the start; the fastest counts."""

LARGE_INPUT = 2**16
"""Characters beyond which texts wait for each other to be read, and not with the small ones."""

ANSWER_SECONDS = 1.0
"""How long the last answers may take to be sent."""

ENDED = "the server shut down before this was done; try again in a moment"


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus_client.Counter(
            "kvae_requests", "Requests answered", ["endpoint", "status"], **named
        )
        self.seconds = prometheus_client.Histogram(
            "kvae_request_seconds",
            "From a request's first byte to the last of its answer",
            ["endpoint"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            **named,
        )
        self.running = prometheus_client.Gauge(
            "kvae_requests_running", "Requests being answered", **named
        )
        self.queue_depth = prometheus_client.Gauge(
            "kvae_queue_depth", "Requests that wait for the model", **named
        )
        self.positions_waiting = prometheus_client.Gauge(
            "kvae_positions_waiting", "Positions that wait to be written or read", **named
        )
        sizes: dict[str, Any] = {"buckets": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}
        self.batch_texts = prometheus_client.Histogram(
            "kvae_batch_texts", "Texts run together", ["endpoint"], **sizes, **named
        )
        self.batch_requests = prometheus_client.Histogram(
            "kvae_batch_requests", "Requests run together", ["endpoint"], **sizes, **named
        )
        self.texts_written = prometheus_client.Counter(
            "kvae_texts_written", "Texts the model wrote", ["endpoint"], **named
        )

    def batch(self, batch: Batch) -> None:
        """Count a batch that is about to run; the first part of a job's kind is its endpoint."""
        endpoint = batch[0][0].kind[0]
        if endpoint == "stream":  # one text alone, turn by turn
            return
        self.batch_requests.labels(endpoint).observe(len(batch))
        self.batch_texts.labels(endpoint).observe(sum(len(items) for _, items in batch))


class Service:
    """A model behind a queue: what the endpoints share. `load` starts the graphs, `measure` says how fast they are."""

    def __init__(
        self,
        load: Callable[[], Sampler],
        limits: Limits,
        measure: Callable[[Sampler], Mapping[str, Speed]] | None = None,
    ) -> None:
        self.load, self.limits, self.metrics, self.measure = load, limits, Metrics(), measure
        self.sampler: Sampler | None = None
        self.failure: Exception | None = None
        """Why the graphs did not start."""
        self.running = 0
        """Requests that are being answered."""
        self.speeds = {work: Speed() for work in WORK.values()}
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.hurried = False
        """Whether it was told to stop a second time."""
        self.ended = False
        """Whether no request is waited for any more."""
        self.batcher = Batcher(limits.queue, CHUNK, limits.window, self.metrics.batch)
        self.metrics.running.set_function(lambda: self.running)
        self.metrics.queue_depth.set_function(lambda: len(self.batcher.waiting))
        self.metrics.positions_waiting.set_function(lambda: self.batcher.positions_waiting)
        self._waits: set[asyncio.Timeout] = set()
        self._readers = {large: ThreadPoolExecutor(1, "kvae-read") for large in (False, True)}

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Within this the graphs start, and requests are taken once they have."""
        tasks = [asyncio.create_task(self.start()), asyncio.create_task(self.batcher.work())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self.batcher.close()
            for pool in self._readers.values():
                pool.shutdown(wait=False, cancel_futures=True)

    async def start(self) -> None:
        """Start the graphs, or remember why they did not start."""
        try:
            sampler = await asyncio.to_thread(self.load)
            if self.measure and not self.stopping.is_set():
                self.speeds.update(await asyncio.to_thread(self.measure, sampler))
            self.sampler = sampler
        except Exception as error:
            self.failure = error
            self.stopping.set()
        self.started.set()

    def stop(self) -> None:
        """Take nothing new and finish what runs; told a second time, do not wait for it."""
        if self.stopping.is_set():
            self.hurried = True
        self.stopping.set()

    async def stopped(self) -> None:
        """Return when the server was told to stop and nothing runs any more, or what ran has been told so."""
        await self.stopping.wait()
        await self._idle(self.limits.shutdown_deadline)
        self.ended = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0.0)
        await self._idle(ANSWER_SECONDS)

    async def _idle(self, seconds: float) -> None:
        """Return when nothing runs, after so many seconds, or at once when nothing is to be waited for."""
        until = time.monotonic() + seconds
        while self.running and time.monotonic() < until and (self.ended or not self.hurried):
            await asyncio.sleep(0.02)

    def model(self, request: Request) -> Sampler:
        """The sampler, or `Unavailable` where the request came before the graphs ran or after the server was told to stop."""
        if request.state.late:
            raise Unavailable("the server is shutting down; try again in a moment")
        if self.sampler is None:
            raise Unavailable("the graphs are being started; try again in a moment")
        return self.sampler

    def check_texts(self, name: str, texts: int) -> None:
        """Raise `ConfigError` for more texts than a request may ask for."""
        if texts > self.limits.max_texts:
            raise ConfigError(
                f"{name} must be at most {self.limits.max_texts} texts a request, got {texts}; send several"
            )

    def deadline(self, request: Request, wanted: float | None) -> float:
        """When a request is to be answered, on the clock of `time.monotonic`."""
        return request.state.began + min(self.limits.deadline, wanted or self.limits.deadline)

    @contextlib.asynccontextmanager
    async def until(self, deadline: float, late: Exception) -> AsyncIterator[None]:
        """What waits inside ends with `late` at the deadline, and with `Unavailable` when the server does not wait any more."""
        try:
            async with asyncio.timeout(0.0 if self.ended else deadline - time.monotonic()) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise Unavailable(ENDED) if self.ended else late from None

    async def patiently(
        self, request: Request, deadline: float, answer: asyncio.Future[Any]
    ) -> Any:
        """An answer, if it comes before the deadline and before the client leaves; else it is cancelled."""
        gone: asyncio.Future[Any] = asyncio.create_task(client_left(request))
        try:
            async with self.until(deadline, not_done(deadline - request.state.began)):
                await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not answer.done():
                answer.cancel()
        if answer.cancelled():
            raise ClientLeft
        return answer.result()

    async def prepared(
        self,
        request: Request,
        deadline: float,
        characters: int,
        read: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """What `read(*arguments)` makes of the input, before the model's work begins: in a thread, large inputs one by one."""
        cancellation = Cancellation()

        def call() -> Any:
            with within(cancel=cancellation):
                return read(*arguments)

        answer = asyncio.get_running_loop().run_in_executor(
            self._readers[characters > LARGE_INPUT], call
        )
        try:
            return await self.patiently(request, deadline, answer)
        finally:
            cancellation.cancel()

    async def run(
        self,
        request: Request,
        deadline: float,
        run: Callable[..., Sequence[Any]],
        items: Sequence[Any],
        positions: int,
        *shared: Hashable,
    ) -> list[Any]:
        """One result an item, of `positions` each. Requests of equal endpoint and `shared` run together."""
        endpoint = request.url.path[1:]
        job = Job((endpoint, *shared), run, items, positions, self.speeds[WORK[endpoint]], deadline)
        return await self.patiently(request, deadline, self.batcher.submit(job))

    async def pieces(
        self, request: Request, sampler: Sampler, deadline: float, positions: int, **options: Any
    ) -> AsyncGenerator[str, None]:
        """The pieces of one text of at most `positions` tokens as they are written; left early, the writing ends."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        cancellation = Cancellation()
        written = sampler.stream(**options, cancel=cancellation)

        def write(turns: Sequence[int], cancel: Cancellation) -> Sequence[int]:
            for piece in islice(written, len(turns)):
                loop.call_soon_threadsafe(queue.put_nowait, piece)
            return turns

        job = Job(
            ("stream", object()), write, range(positions), 1, self.speeds[WORK["stream"]], deadline
        )
        answer = self.batcher.submit(job)
        answer.add_done_callback(
            lambda _: loop.call_soon(queue.put_nowait, None)
        )  # after the pieces
        try:
            while True:
                async with self.until(deadline, not_done(deadline - request.state.began)):
                    piece = await queue.get()
                if piece is None:
                    answer.result()
                    return
                yield piece
        finally:
            answer.cancel()
            cancellation.cancel()


def measured(sampler: Sampler) -> dict[str, Speed]:
    """How fast each kind of work is on this machine: a piece of one row and one of `MEASURED_ROWS`, run at the start."""
    length = sampler.length
    tokens = np.zeros((MEASURED_ROWS, length), np.int32)
    rows = np.arange(MEASURED_ROWS)

    def seconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(MEASURED_TIMES):
            began = time.monotonic()
            run()
            times.append(time.monotonic() - began)
        return min(times)

    def speed(run: Callable[[int], Any]) -> Speed:
        large, small = (seconds(partial(run, n)) for n in (MEASURED_ROWS, 1))
        return Speed.of_two(length, small, MEASURED_ROWS * length, large)

    speeds = {
        "writing": speed(
            lambda n: sampler.generate_rows([0] * n, rows[:n].tolist(), min_length=length)
        ),
        "scoring": speed(
            lambda n: sampler.score_tokens(tokens[:n], np.zeros(n, np.int64), rows[:n])
        ),
        "streaming": Speed(
            0.0, seconds(lambda: list(sampler.stream(0, 0, min_length=length))) / length, length
        ),
    }
    if sampler.manifest["latent"]["kind"] != "none":
        speeds["reading"] = speed(lambda n: sampler.posterior_of_tokens(tokens[:n]))
    return speeds


def not_done(seconds: float) -> DeadlineError:
    return DeadlineError(
        f"deadline: not done in {seconds:g} seconds; give it more time, or ask for less at once"
    )


async def client_left(request: Request) -> None:
    """Return when the client closed the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
