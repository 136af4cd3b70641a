"""Does `kvae serve` hold under load: no failed request, and memory that stays flat?

    python benchmarks/server.py BUNDLE [--clients 64] [--seconds 300] [--json FILE]

Starts `kvae serve BUNDLE` on a free port of this machine and lets 64 clients ask, each on a connection of its own and each
waiting for its answer before it asks again: mostly samples of one text, every tenth time something else (a stream, a
reconstruction, a score, a code, samples of eight texts). Printed are latencies, texts a second, failures, and the resident
memory of the server over time; at the end the server is told to stop. Clients run in this process and share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import itertools
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WARM_UP = 0.2
"""Share of the time after which memory has to be flat."""

EVERY = 10
"""One request in so many is not a sample of one text."""


@dataclass
class Tally:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    texts: int = 0


def main() -> None:
    options = arguments()
    with serving(options.bundle, options.threads) as (process, port):
        tally, memory, seconds = asyncio.run(load(process.pid, port, options.clients, options.seconds))
        metrics = asyncio.run(batch_sizes(port))
        process.send_signal(signal.SIGTERM)
        exit_code = process.wait(60)
    report = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "clients": options.clients,
        "seconds": round(seconds, 1),
        **summary(tally, seconds),
        **metrics,
        **memory_summary(memory),
        "exit_code": exit_code,
        "memory": memory,
    }
    print(json.dumps({name: value for name, value in report.items() if name != "memory"}, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if report["failed"] or exit_code:
        raise SystemExit("requests failed, or the server did")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--threads", type=int, help="of the server (default: all cores)")
    parser.add_argument("--json", metavar="FILE", help="write the report here too, with the memory over time")
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


async def load(pid: int, port: int, clients: int, seconds: float) -> tuple[Tally, list[tuple[float, int]], float]:
    """What the clients saw, (seconds, bytes) of resident memory, and how long it took."""
    tally, numbers, began = Tally(), itertools.count(), time.monotonic()
    watching = asyncio.create_task(watch(pid, began))
    texts = await some_texts(port)
    await asyncio.gather(*(client(port, began + seconds, numbers, texts, tally) for _ in range(clients)))
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
    status, body = await ask(*await asyncio.open_connection("127.0.0.1", port), "/sample", {"n": 64, "seed": 0})
    assert status == 200, body
    texts = [sample["text"] for sample in json.loads(body)["samples"]]
    return [text[: len(text) // 3] for text in texts if len(text) >= 3]


async def client(port: int, until: float, numbers: Iterator[int], texts: list[str], tally: Tally) -> None:
    """One client: it asks, waits for the answer, and asks again."""
    connection = None
    while time.monotonic() < until:
        path, body, written = request(next(numbers), texts)
        began = time.monotonic()
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            status, answer = await ask(*connection, path, body)
        except (OSError, EOFError, ValueError) as error:
            tally.errors[f"{path} {type(error).__name__}"] += 1
            connection = None
            continue
        tally.statuses[status] += 1
        tally.seconds[path].append(time.monotonic() - began)
        if status == 200 and b"event: problem" not in answer:
            tally.texts += written
        else:
            tally.errors[f"{path} {status}"] += 1


def request(number: int, texts: list[str]) -> tuple[str, dict[str, Any], int]:
    """The address, the body, and how many texts are written for it."""
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
) -> tuple[int, bytes]:
    """One request on a connection that stays open: status and body. HTTP by hand, so that clients take little time."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    )
    writer.write(head.encode() + b"\r\n\r\n" + content)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    if "content-length" in headers:
        answer = await reader.readexactly(int(headers["content-length"]))
    else:
        answer = b"".join([part async for part in parts(reader)])
    return int(lines[0].split()[1]), answer


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
    told = dict(line.rsplit(" ", 1) for line in (await reader.read()).decode().splitlines() if line.startswith("kvae"))
    requests, batches = (float(told[f'kvae_batch_requests_{part}{{endpoint="sample"}}']) for part in ("sum", "count"))
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
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds * 99
    return {
        name: round(1000 * value, 1) for name, value in (("p50", cuts[49]), ("p99", cuts[98]), ("max", max(seconds)))
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
