"""A model behind a queue: the state that the server's endpoints share."""

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
from .checks import as_float, as_int
from .limits import call_limits
from .sampler import CHUNK
from .shares import Speed


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    max_texts: int = 1024
    """Texts per request; for scores, texts times samples."""
    max_body_bytes: int = 2**20
    """Bytes of a request's body."""
    queue: int = 256
    """Requests that wait for the model."""
    deadline: float = 30.0
    """Seconds from a request's first byte to its answer, or to the last piece of a stream."""
    window: float = 0.003
    """Seconds that an idle model waits for further requests to share a batch."""
    shutdown_deadline: float = 30.0
    """Seconds for running requests to finish when the server is stopped."""
    connections: int = 1024
    """Open connections; fewer if the process may open fewer files."""
    head_deadline: float = 10.0
    """Seconds for the head of a request to arrive, from the start of the connection or the previous
    answer."""

    def __post_init__(self) -> None:
        counts = {
            "max_texts": 100_000,
            "max_body_bytes": 2**30,
            "queue": 100_000,
            "connections": 100_000,
        }
        for name, most in counts.items():
            as_int(name, getattr(self, name), 1, most)
        for name in ("deadline", "shutdown_deadline", "window", "head_deadline"):
            if not 0 < as_float(name, getattr(self, name)) <= 86_400:
                raise ConfigError(
                    f"{name} must be above 0 and at most 86400 seconds, got {getattr(self, name)}"
                )


WORK = {
    "sample": "writing",
    "reconstruct": "writing",
    "decode": "writing",
    "interpolate": "writing",
    "encode": "reading",
    "score": "scoring",
    "stream": "streaming",
}
"""The kind of work of each endpoint. Endpoints of one kind have the same cost per position and one
measured speed."""

MEASURED_ROWS = 32
"""Rows of the large piece that is timed at the start."""

MEASURED_TIMES = 3
"""Runs of each piece at the start; the fastest counts."""

LARGE_INPUT = 2**16
"""In characters: larger inputs are tokenized in a thread of their own, so that small ones do not
wait for them."""

ANSWER_SECONDS = 1.0
"""Seconds for the last answers to be sent at shutdown."""

SHUT_DOWN = "the server shut down before this was done; try again in a moment"


class ClientLeft(Exception):
    """The client closed the connection before the answer."""


class Metrics:
    """The metrics for Prometheus."""

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
            "kvae_positions_waiting", "Positions that wait to be processed", **named
        )
        sizes: dict[str, Any] = {"buckets": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}
        self.batch_texts = prometheus_client.Histogram(
            "kvae_batch_texts", "Texts run together", ["endpoint"], **sizes, **named
        )
        self.batch_requests = prometheus_client.Histogram(
            "kvae_batch_requests", "Requests run together", ["endpoint"], **sizes, **named
        )
        self.texts_written = prometheus_client.Counter(
            "kvae_texts_written", "Texts sampled by the model", ["endpoint"], **named
        )

    def batch(self, batch: Batch) -> None:
        """Count a batch before it runs; the first part of a job's kind is its endpoint."""
        endpoint = batch[0][0].kind[0]
        if endpoint == "stream":  # a stream is never batched
            return
        self.batch_requests.labels(endpoint).observe(len(batch))
        self.batch_texts.labels(endpoint).observe(sum(len(items) for _, items in batch))


class Service:
    """A model behind a queue. `load` loads its graphs and `measure` returns how fast they are."""

    def __init__(
        self,
        load: Callable[[], Sampler],
        limits: Limits,
        measure: Callable[[Sampler], Mapping[str, Speed]] | None = None,
    ) -> None:
        self.load, self.limits, self.metrics, self.measure = load, limits, Metrics(), measure
        self.sampler: Sampler | None = None
        self.failure: Exception | None = None
        """The error of loading the graphs, if any."""
        self.running = 0
        """Number of requests that are being answered."""
        self.speeds = {work: Speed() for work in WORK.values()}
        self.started, self.stopping = asyncio.Event(), asyncio.Event()
        self.stop_now = False
        """True after a second request to stop."""
        self.waits_ended = False
        """True once running requests are abandoned."""
        self.batcher = Batcher(limits.queue, CHUNK, limits.window, self.metrics.batch)
        self.metrics.running.set_function(lambda: self.running)
        self.metrics.queue_depth.set_function(lambda: len(self.batcher.waiting))
        self.metrics.positions_waiting.set_function(lambda: self.batcher.positions_waiting)
        self._waits: set[asyncio.Timeout] = set()
        self._readers = {large: ThreadPoolExecutor(1, "kvae-read") for large in (False, True)}

    @contextlib.asynccontextmanager
    async def running_tasks(self) -> AsyncIterator[None]:
        """Context in which the graphs are loaded and requests are accepted."""
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
        """Load the graphs, or store the error."""
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
        """Refuse new requests and finish running ones; on the second call, do not wait for them."""
        if self.stopping.is_set():
            self.stop_now = True
        self.stopping.set()

    async def stopped(self) -> None:
        """Wait until the server was stopped and all requests are finished or abandoned."""
        await self.stopping.wait()
        await self._idle(self.limits.shutdown_deadline)
        self.waits_ended = True
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0.0)
        await self._idle(ANSWER_SECONDS)

    async def _idle(self, seconds: float) -> None:
        """Wait until no request runs, at most `seconds`; return at once after a second request to
        stop."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end and (self.waits_ended or not self.stop_now):
            await asyncio.sleep(0.02)

    def model(self, request: Request) -> Sampler:
        """The sampler; raises `Unavailable` if the graphs are not loaded yet or the server is
        shutting down."""
        if request.state.after_stop:
            raise Unavailable("the server is shutting down; try again in a moment")
        if self.sampler is None:
            raise Unavailable("the graphs are being started; try again in a moment")
        return self.sampler

    def check_texts(self, name: str, texts: int) -> None:
        """Raise `ConfigError` if a request asks for too many texts."""
        if texts > self.limits.max_texts:
            raise ConfigError(
                f"{name} must be at most {self.limits.max_texts} texts a request, got {texts}; "
                "send several requests"
            )

    def deadline(self, request: Request, seconds: float | None) -> float:
        """The deadline of a request, on the clock of `time.monotonic`."""
        started_at: float = request.state.started_at
        return started_at + min(self.limits.deadline, seconds or self.limits.deadline)

    @contextlib.asynccontextmanager
    async def time_out(self, deadline: float, late: Exception) -> AsyncIterator[None]:
        """Context whose waits end with the error `late` at the deadline, and with `Unavailable`
        when the server stops waiting."""
        try:
            async with asyncio.timeout(
                0.0 if self.waits_ended else deadline - time.monotonic()
            ) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise Unavailable(SHUT_DOWN) if self.waits_ended else late from None

    async def answer_in_time(
        self, request: Request, deadline: float, answer: asyncio.Future[Any]
    ) -> Any:
        """The result of `answer`. It is cancelled at the deadline or when the client leaves."""
        client_gone: asyncio.Future[Any] = asyncio.create_task(client_disconnect(request))
        try:
            async with self.time_out(deadline, deadline_error(deadline - request.state.started_at)):
                await asyncio.wait({answer, client_gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            client_gone.cancel()
            if not answer.done():
                answer.cancel()
        if answer.cancelled():
            raise ClientLeft
        return answer.result()

    async def prepare(
        self,
        request: Request,
        deadline: float,
        characters: int,
        read: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """The result of `read(*arguments)`, which prepares the input for the model in a thread;
        large inputs wait in a queue of their own."""
        cancellation = Cancellation()

        def call() -> Any:
            with call_limits(cancel=cancellation):
                return read(*arguments)

        answer = asyncio.get_running_loop().run_in_executor(
            self._readers[characters > LARGE_INPUT], call
        )
        try:
            return await self.answer_in_time(request, deadline, answer)
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
        """The results, one per item of `positions` positions. Requests of the same endpoint with
        equal `shared` run together."""
        endpoint = request.url.path[1:]
        job = Job((endpoint, *shared), run, items, positions, self.speeds[WORK[endpoint]], deadline)
        answer = self.batcher.submit(job)
        results: list[Any] = await self.answer_in_time(request, deadline, answer)
        return results

    async def pieces(
        self, request: Request, sampler: Sampler, deadline: float, positions: int, **options: Any
    ) -> AsyncGenerator[str, None]:
        """The pieces of one text of at most `positions` tokens, as they are sampled. Closing the
        generator stops the sampling."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[str | None]()
        cancellation = Cancellation()
        sampled = sampler.stream(**options, cancel=cancellation)

        def forward(positions: Sequence[int], cancel: Cancellation) -> Sequence[int]:
            for piece in islice(sampled, len(positions)):
                loop.call_soon_threadsafe(queue.put_nowait, piece)
            return positions

        job = Job(
            ("stream", object()),
            forward,
            range(positions),
            1,
            self.speeds[WORK["stream"]],
            deadline,
        )
        answer = self.batcher.submit(job)
        # None marks the end; `call_soon` puts it behind the pieces.
        answer.add_done_callback(lambda _: loop.call_soon(queue.put_nowait, None))
        try:
            while True:
                async with self.time_out(
                    deadline, deadline_error(deadline - request.state.started_at)
                ):
                    piece = await queue.get()
                if piece is None:
                    answer.result()
                    return
                yield piece
        finally:
            answer.cancel()
            cancellation.cancel()


def measured_speeds(sampler: Sampler) -> dict[str, Speed]:
    """The speed of each kind of work on this machine, from timed pieces of one row and of
    `MEASURED_ROWS` rows."""
    length = sampler.length
    tokens = np.zeros((MEASURED_ROWS, length), np.int32)
    rows = np.arange(MEASURED_ROWS)

    def seconds(run: Callable[[], Any]) -> float:
        times = []
        for _ in range(MEASURED_TIMES):
            started_at = time.monotonic()
            run()
            times.append(time.monotonic() - started_at)
        return min(times)

    def speed(run: Callable[[int], Any]) -> Speed:
        large, small = (seconds(partial(run, n)) for n in (MEASURED_ROWS, 1))
        return Speed.from_two_pieces(length, small, MEASURED_ROWS * length, large)

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


def deadline_error(seconds: float) -> DeadlineError:
    return DeadlineError(
        f"deadline: not done in {seconds:g} seconds; give it more time, or ask for less at once"
    )


async def client_disconnect(request: Request) -> None:
    """Wait until the client closes the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
