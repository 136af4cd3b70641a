"""Does `kvae serve` hold under load, is it fair, and does it finish what it begins?

    python benchmarks/server.py BUNDLE [--clients 64] [--seconds 300] [--json FILE]
    python benchmarks/server.py BUNDLE --measure beside [--seconds 20] [--json FILE]
    python benchmarks/server.py BUNDLE --measure overload [--seconds 120] [--json FILE]

Each starts `kvae serve BUNDLE` on a free port of this machine. Clients run in this process and share the machine; each has a
connection of its own and waits for its answer before it asks again.

*load*: 64 clients ask mostly for samples of one text, every tenth time something else (a stream, a reconstruction, a score, a
code, samples of eight texts). Printed are latencies, texts a second, failures, and the resident memory of the server over
time.

*beside*: one client asks for one text again and again, alone and beside clients that ask for much, for as long as --seconds
each. Printed are its median latency, its 99th percentile and its largest, and what the others were answered.

*overload*: requests of 1,024 texts come at twice the rate that the server finishes when two clients ask for them, and 64
clients ask for them, coming again when a refusal tells them to. Printed is the share of the texts that are finished by the
rate without overload, measured before and after, and the statuses.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

WARM_UP = 0.2
"""Share of the time after which memory has to be flat."""

EVERY = 10
"""One request in so many is not a sample of one text."""


CAPACITY_CLIENTS = 2
"""Clients by whom the rate without overload is measured: one is answered while the other's answer is sent."""

LARGE = 1024
"""Texts of a large request."""

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
"""Beside whom one text is asked for: clients, address and body; "text" stands for a text of the model's."""


@dataclass
class Tally:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: int = 0
    written: list[tuple[float, int]] = field(default_factory=list)
    """When answers came, and how many texts they held."""


def main() -> None:
    options = arguments()
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": round(os.getloadavg()[0], 1),
        **MEASURES[options.measure](options),
    }
    print(json.dumps({name: value for name, value in report.items() if name != "memory"}, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report.get("failed") or report.get("exit_code"):
        raise SystemExit("requests failed, or the server did")


def loaded(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *load*."""
    with serving(options.bundle, options.threads) as (process, port):
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


def beside(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *beside*: what a client that asks for one text sees."""
    found = {}
    for name, (clients, path, body) in COMPANIONS.items():
        with serving(options.bundle, options.threads) as (_, port):
            one, others = asyncio.run(one_beside(port, options.seconds, clients, path, body))
        found[name] = {
            "one_text_ms": latencies(
                [second for seconds in one.seconds.values() for second in seconds] or [math.nan]
            ),
            "one_text_statuses": dict(one.statuses),
            "others_statuses": dict(others.statuses),
        }
        print(name, json.dumps(found[name]), file=sys.stderr)
    return {"seconds": options.seconds, "beside": found}


async def one_beside(
    port: int, seconds: float, clients: int, path: str, body: dict[str, Any]
) -> tuple[Tally, Tally]:
    """What one client of one text and what the others saw; the others begin two seconds earlier."""
    one, others, numbers = Tally(), Tally(), itertools.count()
    text = (await some_texts(port))[0]
    body = {name: text if value == "text" else value for name, value in body.items()}
    body |= {"texts": [text] * len(body["texts"])} if "texts" in body else {}
    until = time.monotonic() + 2.0 + seconds

    def ask_others() -> tuple[str, dict[str, Any], int]:
        number = next(numbers)
        own = {"temperature": 0.5 + 0.01 * (number % 100)} if "temperature" in body else {}
        return (
            path,
            {**body, **own, **({"seed": number} if path in ("/sample", "/stream") else {})},
            1,
        )

    busy = [
        asyncio.create_task(client(port, until, ask_others, others, patient=True))
        for _ in range(clients)
    ]
    await asyncio.sleep(2.0)
    await client(port, until, lambda: ("/sample", {"seed": next(numbers)}, 1), one, pause=0.1)
    for task in busy:
        task.cancel()
    return one, others


def overload(options: argparse.Namespace) -> dict[str, Any]:
    """The report of *overload*: the share of the texts that two clients get which is finished where more is asked for."""
    with serving(options.bundle, options.threads) as (_, port):
        return asyncio.run(overloaded(port, options.seconds))


async def overloaded(port: int, seconds: float) -> dict[str, Any]:
    numbers = itertools.count()

    def large() -> tuple[str, dict[str, Any], int]:
        return "/sample", {"n": LARGE, "seed": next(numbers)}, LARGE

    async def many(clients: int) -> Tally:
        tally, until = Tally(), time.monotonic() + seconds
        await asyncio.gather(
            *(client(port, until, large, tally, patient=True) for _ in range(clients))
        )
        return tally

    async def twofold(rate: float) -> Tally:
        tally, asking = Tally(), []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            asking.append(asyncio.create_task(client(port, time.monotonic() + 1e-3, large, tally)))
            await asyncio.sleep(LARGE / (2.0 * rate))
        await asyncio.gather(*asking)
        return tally

    before = finished(await many(CAPACITY_CLIENTS))
    tallies = {"requests at twice the rate": await twofold(before), "64 clients": await many(64)}
    after = finished(await many(CAPACITY_CLIENTS))
    capacity = (before + after) / 2
    return {
        "texts_per_second_without_overload": [round(before, 1), round(after, 1)],
        "overload": {
            name: {
                "texts_per_second": round(finished(tally), 1),
                "share_of_capacity": round(finished(tally) / capacity, 2),
                "statuses": dict(tally.statuses),
                "errors": dict(tally.errors),
            }
            for name, tally in tallies.items()
        },
    }


def finished(tally: Tally) -> float:
    """Texts a second between the first and the last answer."""
    (first, _), *others = tally.written
    return sum(texts for _, texts in others) / (others[-1][0] - first)


MEASURES = {"load": loaded, "beside": beside, "overload": overload}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("--measure", choices=MEASURES, default="load")
    parser.add_argument("--clients", type=int, default=64, help="of load")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--threads", type=int, help="of the server (default: all cores)")
    parser.add_argument(
        "--json", metavar="FILE", help="write the report here too, with the memory over time"
    )
    return parser.parse_args()


@contextmanager
def serving(bundle: str, threads: int | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server that takes requests, and its port."""
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
    """What the clients saw, (seconds, bytes) of resident memory, and how long it took."""
    tally, numbers, began = Tally(), itertools.count(), time.monotonic()
    watching = asyncio.create_task(watch(pid, began))
    texts = await some_texts(port)
    ask_next = partial(mixed, numbers, texts)
    await asyncio.gather(*(client(port, began + seconds, ask_next, tally) for _ in range(clients)))
    took = time.monotonic() - began
    watching.cancel()
    return tally, await watching, took


async def watch(pid: int, began: float) -> list[tuple[float, int]]:
    """Resident memory, once a second until cancelled."""
    import psutil

    process, seen = psutil.Process(pid), []
    try:
        while True:
            seen.append((round(time.monotonic() - began, 1), process.memory_info().rss))
            await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        return seen


async def some_texts(port: int) -> list[str]:
    """Texts that the model can read: beginnings of its own. Stray bytes, which untrained models write, count three each when
    they are read again."""
    status, body, _ = await ask(
        *await asyncio.open_connection("127.0.0.1", port), "/sample", {"n": 64, "seed": 0}
    )
    assert status == 200, body
    texts = [sample["text"] for sample in json.loads(body)["samples"]]
    return [text[: len(text) // 3] for text in texts if len(text) >= 3]


async def client(
    port: int,
    until: float,
    request: Callable[[], tuple[str, dict[str, Any], int]],
    tally: Tally,
    pause: float = 0.0,
    patient: bool = False,
) -> None:
    """One client: it asks, waits for the answer, and asks again, after a pause; a patient one comes when it is told."""
    connection = None
    while time.monotonic() < until:
        path, body, written = request()
        began = time.monotonic()
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            status, answer, retry = await ask(*connection, path, body)
        except (OSError, EOFError, ValueError) as error:
            tally.errors[f"{path} {type(error).__name__}"] += 1
            connection = None
            continue
        tally.statuses[status] += 1
        tally.seconds[path].append(time.monotonic() - began)
        if status == 200 and b"event: problem" not in answer:
            tally.texts += written
            tally.written.append((time.monotonic(), written))
        else:
            tally.errors[f"{path} {status}"] += 1
        await asyncio.sleep(max(pause, retry if patient else 0.0))


def mixed(numbers: Iterator[int], texts: list[str]) -> tuple[str, dict[str, Any], int]:
    """The next address and body of *load*, and how many texts are written for it."""
    number = next(numbers)
    if number % EVERY:
        return "/sample", {"seed": number}, 1
    some = [texts[(number + i) % len(texts)] for i in range(4)]
    others = (
        ("/stream", {"seed": number}, 1),
        ("/reconstruct", {"texts": some}, 4),
        ("/score", {"texts": some}, 0),
        ("/encode", {"texts": some}, 0),
        ("/sample", {"n": 8, "seed": number, "temperature": 0.8}, 8),
        ("/interpolate", {"first": some[0], "last": some[1], "steps": 5}, 5),
    )
    return others[number // EVERY % len(others)]


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, body: dict[str, Any]
) -> tuple[int, bytes, float]:
    """One request on a connection that stays open: status, body and Retry-After in seconds. HTTP by hand, so that clients take
    little time."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    writer.write(head.encode() + b"\r\n\r\n" + content)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    if "content-length" in headers:
        answer = await reader.readexactly(int(headers["content-length"]))
    else:
        answer = b"".join([part async for part in parts(reader)])
    return int(lines[0].split()[1]), answer, float(headers.get("retry-after", 0.0))


async def parts(reader: asyncio.StreamReader) -> Any:
    """The chunks of a body without a length."""
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


async def batch_sizes(port: int) -> dict[str, float]:
    """How many samples ran together, from /metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    told = dict(
        line.rsplit(" ", 1)
        for line in (await reader.read()).decode().splitlines()
        if line.startswith("kvae")
    )
    requests, batches = (
        float(told[f'kvae_batch_requests_{part}{{endpoint="sample"}}']) for part in ("sum", "count")
    )
    return {"mean_sample_requests_a_batch": round(requests / batches, 1)}


def summary(tally: Tally, seconds: float) -> dict[str, Any]:
    """Counts, rates, and latencies in milliseconds."""
    everything = [second for found in tally.seconds.values() for second in found]
    return {
        "requests": len(everything),
        "failed": sum(tally.errors.values()),
        "errors": dict(tally.errors),
        "requests_per_second": round(len(everything) / seconds, 1),
        "texts_per_second": round(tally.texts / seconds, 1),
        "latency_ms": {
            "all": latencies(everything),
            **{path: latencies(found) for path, found in sorted(tally.seconds.items())},
        },
    }


def latencies(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and largest, in milliseconds."""
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
    """Resident MB after warming up and at the end, and the slope in between (least squares)."""
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
