"""Workers that are timed in turn.

Each program under comparison is a worker in a process of its own, which computes only while a
request is pending. So no program takes cores from another, and a change in the load of the machine
affects all of them.

A worker is `python benchmarks/FILE.py --rival NAME ...`, which calls `serve_requests`. The script
that compares starts it as a `Worker`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "docs" / "performance"
"""Folder of the figures from which docs/performance.md is made."""

MATRIX_PRODUCTS = {
    *("MatMul", "BatchMatMulV2", "Einsum", "MatMulIntegerToFloat", "Gemm", "ConvTranspose"),
    *("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    *("dot", "convolution", "convolution-base-dilated", "convolution-window-dilated"),
}
"""Matrix products and convolutions, by their names in onnxruntime, TensorFlow and XLA."""


class Worker:
    """A process that answers each request with a response, both JSON objects."""

    def __init__(
        self,
        script: str,
        name: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        python: str = sys.executable,
    ) -> None:
        self.name = name
        command = [python, script, "--rival", name, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """The response to a request; raises `RuntimeError` if the process has died."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            command = " ".join(map(str, self.process.args))
            raise RuntimeError(f"{self.name} died; run it alone to see why: {command}")
        response: dict[str, Any] = json.loads(line)
        return response

    def close(self) -> None:
        """Close the worker's input, which ends it, and wait for it."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve_requests(answer: Callable[..., Mapping[str, Any]]) -> None:
    """Answer the requests of `Worker.ask`, one JSON object per line, until the input ends."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the prints of libraries out of the responses
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=channel, flush=True)


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def mean_seconds(run: Callable[[], Any], minimum: float = 0.3) -> float:
    """Mean seconds of a call, over as many calls as take `minimum` seconds in all.

    A first call is not counted: it refills the caches and wakes the threads after the turns of the
    other workers.
    """
    run()
    seconds: list[float] = []
    while sum(seconds) < minimum:
        seconds.append(seconds_of(run))
    return statistics.mean(seconds)


def median_seconds(workers: Iterable[Worker], rounds: int, **request: Any) -> dict[str, float]:
    """Median seconds of each worker over `rounds` rounds, after one round of warm-up."""
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(rounds + 1):
        for worker in workers:
            response = worker.ask(**request)
            if number:
                seconds[worker.name].append(response["seconds"])
    return {name: statistics.median(values) for name, values in seconds.items()}


def argument_parser(description: str | None, name: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that all comparisons have; `name` is that of the result file."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each program")
    parser.add_argument(
        "--json", type=Path, default=RESULTS / f"{name}.json", help="file for the figures"
    )
    parser.add_argument("--rival", help=argparse.SUPPRESS)
    return parser


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write the figures as JSON, with the machine and the versions on which they were measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {**report, "machine": machine(), "versions": versions()}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of Python and of those packages under comparison that are installed."""
    names = ("numpy", "onnxruntime", "keras", "tensorflow", "jax", "torch")
    installed = {item.metadata["Name"].lower() for item in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names if name in installed
    }


MEMORY = "memory"
"""Name of the worker that measures memory bandwidth."""
ARRAY_SIZE = 2**26
"""float32 elements of each array of the triad: a quarter of a gigabyte, more than caches hold."""


def fastest_device() -> str:
    """PyTorch's name of the GPU, or of the CPU if there is no GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize(device: str) -> None:
    """Wait until the GPU has finished its queued work; nothing on the CPU."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def memory_triad() -> Callable[..., dict[str, float]]:
    """A worker's answer: mean seconds of a = b + 3 c on all cores together (McCalpin 1995)."""
    import torch

    a, b, c = (torch.ones(ARRAY_SIZE) for _ in range(3))
    return lambda **request: {"seconds": mean_seconds(lambda: torch.add(b, c, alpha=3.0, out=a))}


def bandwidth(seconds: float, size: int = ARRAY_SIZE) -> float:
    """Gigabytes per second, reads and writes together, of a triad that takes `seconds`."""
    return 3 * 4 * size / seconds / 1e9


def machine() -> str:
    """Number of cores, name of the processor and its vector extensions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in pairs}
    flags = facts.get("flags", "").split()
    extensions = ("avx2", "avx512f", "avx512_vnni", "avx_vnni")
    vectors = [flag for flag in extensions if flag in flags]
    name = facts.get("model name", platform.machine())
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores of {name}, {', '.join(vectors) or 'no vectors'}"
