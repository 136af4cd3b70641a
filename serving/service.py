"""A model behind a queue: what the endpoints of the server share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import prometheus_client
from fastapi import Request

from . import Cancellation, ConfigError, DeadlineError, KvaeError, Sampler
from .batching import Batch, Batcher, Busy, Job
from .checks import real, whole
from .sampler import CHUNK


@dataclass(frozen=True)
class Limits:
    """What a server takes on."""

    max_texts: int = 1024
    """Texts a request: written, read or on the way between two; of scores, texts by samples."""
    max_body_bytes: int = 2**20
    """Bytes of a request's body."""
    queue: int = 256
    """Requests that wait for the model, and as many streams."""
    deadline: float = 30.0
    """Seconds for a request, from its first byte to its answer, or to the last piece of a stream."""
    streams: int = 4
    """Streams that are written at once."""
    window: float = 0.003
    """Seconds that an idle model waits for requests to share a batch."""
    shutdown_deadline: float = 30.0
    """Seconds for what runs when the server is told to stop."""

    def __post_init__(self) -> None:
        for name, most in {"max_texts": 100_000, "max_body_bytes": 2**30, "queue": 100_000, "streams": 256}.items():
            whole(name, getattr(self, name), 1, most)
        for name in ("deadline", "shutdown_deadline", "window"):
            if not 0 < real(name, getattr(self, name)) <= 86_400:
                raise ConfigError(f"{name} must be above 0 and at most 86400 seconds, got {getattr(self, name)}")


class Unavailable(KvaeError):
    """The server is starting or shutting down."""


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Metrics:
    """What Prometheus is told."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self.registry)
        named: dict[str, Any] = {"registry": self.registry}
        self.requests = prometheus_client.Counter("kvae_requests", "Requests answered", ["endpoint", "status"], **named)
        self.seconds = prometheus_client.Histogram(
            "kvae_request_seconds",
            "From a request's first byte to the last of its answer",
            ["endpoint"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            **named,
        )
        self.running = prometheus_client.Gauge("kvae_requests_running", "Requests being answered", **named)
        self.queue_depth = prometheus_client.Gauge("kvae_queue_depth", "Requests that wait for the model", **named)
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
        self.batch_requests.labels(endpoint).observe(len(batch))
        self.batch_texts.labels(endpoint).observe(sum(job.weight * len(items) for job, items in batch))


class Service:
    """A model behind a queue: what the endpoints share. `load` starts the graphs."""

    def __init__(self, load: Callable[[], Sampler], limits: Limits) -> None:
        self.load, self.limits, self.metrics = load, limits, Metrics()
        self.sampler: Sampler | None = None
        self.failure: Exception | None = None
        """Why the graphs did not start."""
        self.running = 0
        """Requests that are being answered."""
        self.streams = 0
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.batcher = Batcher(limits.queue, CHUNK, limits.window, self.metrics.batch)
        self.metrics.running.set_function(lambda: self.running)
        self.metrics.queue_depth.set_function(lambda: len(self.batcher.waiting))
        self._stream_threads = ThreadPoolExecutor(limits.streams, "kvae-stream")

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
            self._stream_threads.shutdown(wait=False, cancel_futures=True)

    async def start(self) -> None:
        """Start the graphs, or remember why they did not start."""
        try:
            self.sampler = await asyncio.to_thread(self.load)
        except Exception as error:
            self.failure = error
            self.stopping.set()
        self.started.set()

    async def stopped(self) -> None:
        """Return when the server was told to stop and nothing runs any more, or has run for too long."""
        await self.stopping.wait()
        until = time.monotonic() + self.limits.shutdown_deadline
        while self.running and time.monotonic() < until:
            await asyncio.sleep(0.02)
        self.batcher.abandon(Unavailable("the server shut down before this was done; try again in a moment"))

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

    async def run(
        self,
        request: Request,
        wanted: float | None,
        run: Callable[..., Sequence[Any]],
        items: Sequence[Any],
        weight: int,
        *shared: Hashable,
    ) -> list[Any]:
        """One result an item, of `weight` texts each. Requests of equal endpoint and `shared` run together."""
        deadline = self.deadline(request, wanted)
        job = Job((request.url.path[1:], *shared), run, items, weight)
        answer: asyncio.Future[Any] = self.batcher.submit(job)
        gone: asyncio.Future[Any] = asyncio.create_task(client_left(request))
        try:
            await asyncio.wait({answer, gone}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not answer.done():
                answer.cancel()
        if not answer.cancelled():
            return answer.result()
        if gone.done() and not gone.cancelled():
            raise ClientLeft
        raise too_late(deadline - request.state.began)

    async def pieces(
        self, sampler: Sampler, deadline: float, seconds: float, **options: Any
    ) -> AsyncGenerator[str, None]:
        """The pieces of one text as they are written; left early, the writing ends."""
        if self.streams >= self.limits.queue:
            raise Busy(f"{self.streams} streams wait or are being written, no more may; try again in a moment")
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | Exception | None]()
        cancellation = Cancellation()

        def put(item: str | Exception | None) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def write() -> None:
            try:
                for piece in sampler.stream(**options, cancel=cancellation):
                    put(piece)
                put(None)
            except Exception as error:
                put(error)

        writing = loop.run_in_executor(self._stream_threads, write)
        self.streams += 1
        try:
            while True:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        item = await queue.get()
                except TimeoutError:
                    raise too_late(seconds) from None
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.streams -= 1
            cancellation.cancel()
            writing.cancel()


def too_late(seconds: float) -> DeadlineError:
    return DeadlineError(f"deadline: not done in {seconds:g} seconds; give it more time, or ask for less at once")


async def client_left(request: Request) -> None:
    """Return when the client closed the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
