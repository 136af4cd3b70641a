"""Measure `kvae serve` under load, beside large requests, and under overload.

    python benchmarks/server.py BUNDLE [--clients 64] [--seconds 300] [--json FILE]
    python benchmarks/server.py BUNDLE --measure beside [--seconds 20] [--json FILE]
    python benchmarks/server.py BUNDLE --measure overload [--seconds 120] [--json FILE]

Each measurement starts `kvae serve BUNDLE` on a free port of this machine. The clients run in this
process and share the machine with the server. Each client has its own connection and waits for the
answer before it sends the next request.

*load*: 64 clients mostly sample one text. Every tenth request is another one (a stream, a
reconstruction, a score, an encoding, an interpolation, samples of eight texts). The report has
latencies, texts per second, failures, and the resident memory of the server over time.

*beside*: one client repeatedly samples one text, alone and beside clients with large requests, for
--seconds in each case. The report has the client's median, 99th percentile and largest latency, and
the statuses of the other clients' answers.

*overload*: requests for 1,024 texts come at twice the rate at which the server answers two clients;
then 64 clients send such requests and, when refused, wait as long as the refusal says. The report
has the statuses, and the texts per second as a fraction of the rate without overload, which is
measured before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

WARM_UP = 0.2
"""Fraction of the time that is warm-up; memory must not grow after it."""

EVERY = 10
"""Of this many requests of *load*, one is not a sample of one text."""

CAPACITY_CLIENTS = 2
"""Clients at capacity: the server computes for one while it sends to the other."""

LARGE = 1024
"""Texts in a large request."""

COMPANIONS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "alone": (0, "", {}),
    "4 clients that score one text by 1,024 samples": (
        4,
        "/score",
        {"texts": ["text"], "samples": LARGE},
    ),
    "4 clients that ask for 1,024 texts": (4, "/sample", {"n": LARGE}),
    "64 clients that ask for 1,024 texts": (64, "/sample", {"n": LARGE}),
    "4 clients that ask for 1,024 steps": (
        4,
        "/interpolate",
        {"first": "text", "last": "text", "steps": LARGE},
    ),
    "64 clients that reconstruct 256 texts": (64, "/reconstruct", {"texts": ["text"] * 256}),
    "64 clients that ask for one text": (64, "/sample", {}),
    "64 clients that ask for one text, each of its own temperature": (
        64,
        "/sample",
        {"temperature": 1.0},
    ),
    "64 clients that stream one text": (64, "/stream", {}),
}
"""By name, the other clients of *beside*: number, path, body ("text": a text of the model)."""


Request: TypeAlias = tuple[str, dict[str, Any], int]
"""Path, body, and number of texts that the answer holds."""


@dataclass
class Tally:
    """Answers that the clients received: seconds by path, statuses, and errors by path and kind."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: int = 0
    completions: list[tuple[float, int]] = field(default_factory=list)
    """Time (monotonic seconds) and number of texts of each answer."""


def main() -> None:
    options = parse_arguments()
    report = {
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        ),
        "load_average": round(os.getloadavg()[0], 1),
        **MEASURES[options.measure](options),
    }
    print(json.dumps({name: value for name, value in report.items() if name != "memory"}, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report.get("failed") or report.get("exit_code"):
        raise SystemExit("error: requests failed, or the server did; see the report above")


def load_report(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *load*."""
    with running_server(options.bundle, options.threads) as (process, port):
        tally, memory, seconds = asyncio.run(
            load(process.pid, port, options.clients, options.seconds)
        )
        metrics = asyncio.run(batch_sizes(port))
        process.send_signal(signal.SIGTERM)
        exit_code = process.wait(60)
    return {
        "clients": options.clients,
        "seconds": round(seconds, 1),
        **summary(tally, seconds),
        **metrics,
        **memory_summary(memory),
        "exit_code": exit_code,
        "memory": memory,
    }


def beside_report(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *beside*: latencies of a client that samples one text."""
    results = {}
    for name, (clients, path, body) in COMPANIONS.items():
        with running_server(options.bundle, options.threads) as (_, port):
            one, others = asyncio.run(run_beside(port, options.seconds, clients, path, body))
        results[name] = {
            "one_text_ms": latencies(
                [second for seconds in one.seconds.values() for second in seconds] or [math.nan]
            ),
            "one_text_statuses": dict(one.statuses),
            "others_statuses": dict(others.statuses),
        }
        print(name, json.dumps(results[name]), file=sys.stderr)
    return {"seconds": options.seconds, "beside": results}


async def run_beside(
    port: int, seconds: float, clients: int, path: str, body: dict[str, Any]
) -> tuple[Tally, Tally]:
    """Answers of a client that samples one text, and of the others, which start 2 s earlier."""
    one, others, numbers = Tally(), Tally(), itertools.count()
    text = (await readable_texts(port))[0]
    body = {name: text if value == "text" else value for name, value in body.items()}
    body |= {"texts": [text] * len(body["texts"])} if "texts" in body else {}
    until = time.monotonic() + 2.0 + seconds

    def other_request() -> Request:
        number = next(numbers)
        varied = {"temperature": 0.5 + 0.01 * (number % 100)} if "temperature" in body else {}
        return (
            path,
            {**body, **varied, **({"seed": number} if path in ("/sample", "/stream") else {})},
            1,
        )

    tasks = [
        asyncio.create_task(client(port, until, other_request, others, patient=True))
        for _ in range(clients)
    ]
    await asyncio.sleep(2.0)
    await client(port, until, lambda: ("/sample", {"seed": next(numbers)}, 1), one, pause=0.1)
    for task in tasks:
        task.cancel()
    return one, others


def overload_report(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *overload*: throughput as a fraction of that of `CAPACITY_CLIENTS` clients."""
    with running_server(options.bundle, options.threads) as (_, port):
        return asyncio.run(overload_figures(port, options.seconds))


async def overload_figures(port: int, seconds: float) -> dict[str, Any]:
    """Texts per second without overload, and in both kinds of overload, each for `seconds`."""
    numbers = itertools.count()

    def large_request() -> Request:
        return "/sample", {"n": LARGE, "seed": next(numbers)}, LARGE

    async def with_clients(clients: int) -> Tally:
        tally, until = Tally(), time.monotonic() + seconds
        await asyncio.gather(
            *(client(port, until, large_request, tally, patient=True) for _ in range(clients))
        )
        return tally

    async def at_twice(rate: float) -> Tally:
        tally, tasks = Tally(), []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            tasks.append(
                asyncio.create_task(client(port, time.monotonic() + 1e-3, large_request, tally))
            )
            await asyncio.sleep(LARGE / (2.0 * rate))
        await asyncio.gather(*tasks)
        return tally

    before = throughput(await with_clients(CAPACITY_CLIENTS))
    tallies = {
        "requests at twice the rate": await at_twice(before),
        "64 clients": await with_clients(64),
    }
    after = throughput(await with_clients(CAPACITY_CLIENTS))
    capacity = (before + after) / 2
    return {
        "texts_per_second_without_overload": [round(before, 1), round(after, 1)],
        "overload": {
            name: {
                "texts_per_second": round(throughput(tally), 1),
                "share_of_capacity": round(throughput(tally) / capacity, 2),
                "statuses": dict(tally.statuses),
                "errors": dict(tally.errors),
            }
            for name, tally in tallies.items()
        },
    }


def throughput(tally: Tally) -> float:
    """Texts per second between the first and the last answer."""
    (first, _), *others = tally.completions
    return sum(texts for _, texts in others) / (others[-1][0] - first)


MEASURES = {"load": load_report, "beside": beside_report, "overload": overload_report}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="folder of the bundle")
    parser.add_argument("--measure", choices=MEASURES, default="load", help="(default: load)")
    parser.add_argument("--clients", type=int, default=64, help="number of clients of load")
    parser.add_argument(
        "--seconds", type=float, default=300.0, help="seconds of each measurement (default: 300)"
    )
    parser.add_argument("--threads", type=int, help="threads of the server (default: all cores)")
    parser.add_argument(
        "--json", metavar="FILE", help="also write the report to FILE, with the memory over time"
    )
    return parser.parse_args()


@contextmanager
def running_server(bundle: str, threads: int | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Context with a running server: its process and its port. Kills the server at the end."""
    command = [sys.executable, "-m", "kvae", "serve", bundle, "--port", "0", "--json"]
    command += ["--threads", str(threads)] if threads else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


async def load(
    pid: int, port: int, clients: int, seconds: float
) -> tuple[Tally, list[tuple[float, int]], float]:
    """Answers of the clients, resident memory as (seconds, bytes), and seconds in all."""
    tally, numbers, started = Tally(), itertools.count(), time.monotonic()
    memory = asyncio.create_task(resident_memory(pid, started))
    texts = await readable_texts(port)
    next_request = partial(mixed_request, numbers, texts)
    await asyncio.gather(
        *(client(port, started + seconds, next_request, tally) for _ in range(clients))
    )
    elapsed = time.monotonic() - started
    memory.cancel()
    return tally, await memory, elapsed


async def resident_memory(pid: int, started: float) -> list[tuple[float, int]]:
    """Resident memory as (seconds, bytes), once per second until cancelled."""
    import psutil

    process, samples = psutil.Process(pid), []
    try:
        while True:
            samples.append((round(time.monotonic() - started, 1), process.memory_info().rss))
            await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        return samples


async def readable_texts(port: int) -> list[str]:
    """Texts that fit into the model: the first third of each of its samples.

    Untrained models emit stray bytes, and each is three bytes long when the text is encoded again.
    """
    status, body, _ = await ask(
        *await asyncio.open_connection("127.0.0.1", port), "/sample", {"n": 64, "seed": 0}
    )
    assert status == 200, body
    texts = [sample["text"] for sample in json.loads(body)["samples"]]
    return [text[: len(text) // 3] for text in texts if len(text) >= 3]


async def client(
    port: int,
    until: float,
    request: Callable[[], Request],
    tally: Tally,
    pause: float = 0.0,
    patient: bool = False,
) -> None:
    """Send requests until a time, each after the answer to the one before and a pause.

    `until` is in monotonic seconds. A patient client waits at least as long as Retry-After says.
    """
    connection = None
    while time.monotonic() < until:
        path, body, texts = request()
        started = time.monotonic()
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            status, answer, retry = await ask(*connection, path, body)
        except (OSError, EOFError, ValueError) as error:
            tally.errors[f"{path} {type(error).__name__}"] += 1
            connection = None
            continue
        tally.statuses[status] += 1
        tally.seconds[path].append(time.monotonic() - started)
        if status == 200 and b"event: problem" not in answer:
            tally.texts += texts
            tally.completions.append((time.monotonic(), texts))
        else:
            tally.errors[f"{path} {status}"] += 1
        await asyncio.sleep(max(pause, retry if patient else 0.0))


def mixed_request(numbers: Iterator[int], texts: list[str]) -> Request:
    """The next request of *load*."""
    number = next(numbers)
    if number % EVERY:
        return "/sample", {"seed": number}, 1
    four = [texts[(number + i) % len(texts)] for i in range(4)]
    others = (
        ("/stream", {"seed": number}, 1),
        ("/reconstruct", {"texts": four}, 4),
        ("/score", {"texts": four}, 0),
        ("/encode", {"texts": four}, 0),
        ("/sample", {"n": 8, "seed": number, "temperature": 0.8}, 8),
        ("/interpolate", {"first": four[0], "last": four[1], "steps": 5}, 5),
    )
    return others[number // EVERY % len(others)]


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: dict[str, Any]
) -> tuple[int, bytes, float]:
    """Send a request on an open connection; return status, body and Retry-After in seconds.

    A minimal HTTP client, so that the clients take little processor time.
    """
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + content)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    if "content-length" in headers:
        answer = await reader.readexactly(int(headers["content-length"]))
    else:
        answer = b"".join([chunk async for chunk in chunks(reader)])
    return int(lines[0].split()[1]), answer, float(headers.get("retry-after", 0.0))


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Chunks of a body with chunked transfer encoding."""
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


async def batch_sizes(port: int) -> dict[str, float]:
    """Mean number of `/sample` requests in a batch, from /metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    metrics = dict(
        line.rsplit(" ", 1)
        for line in (await reader.read()).decode().splitlines()
        if line.startswith("kvae")
    )
    requests, batches = (
        float(metrics[f'kvae_batch_requests_{part}{{endpoint="sample"}}'])
        for part in ("sum", "count")
    )
    return {"mean_sample_requests_a_batch": round(requests / batches, 1)}


def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """Counts, rates per second, and latencies in milliseconds."""
    all_seconds = [second for seconds in tally.seconds.values() for second in seconds]
    return {
        "requests": len(all_seconds),
        "failed": sum(tally.errors.values()),
        "errors": dict(tally.errors),
        "requests_per_second": round(len(all_seconds) / seconds, 1),
        "texts_per_second": round(tally.texts / seconds, 1),
        "latency_ms": {
            "all": latencies(all_seconds),
            **{path: latencies(values) for path, values in sorted(tally.seconds.items())},
        },
    }


def latencies(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest latency, in milliseconds."""
    cuts = (
        statistics.quantiles(seconds, n=100, method="inclusive")
        if len(seconds) > 1
        else seconds * 99
    )
    return {
        name: round(1000 * value, 1)
        for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(seconds)))
    }


def memory_summary(memory: list[tuple[float, int]]) -> dict[str, float]:
    """Resident memory in MB at the start, after warm-up and at the end, and its growth.

    The growth after warm-up is the least-squares slope in kB per minute.
    """
    warm = [(second, size) for second, size in memory if second >= WARM_UP * memory[-1][0]]
    slope = statistics.linear_regression(*zip(*warm, strict=True)).slope if len(warm) > 1 else 0.0
    return {
        "resident_mb_at_start": round(memory[0][1] / 1e6, 1),
        "resident_mb_when_warm": round(warm[0][1] / 1e6, 1),
        "resident_mb_at_end": round(memory[-1][1] / 1e6, 1),
        "resident_kb_a_minute": round(60 * slope / 1e3, 1),
    }


if __name__ == "__main__":
    main()
