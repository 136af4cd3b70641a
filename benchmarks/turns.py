"""Rivals that are measured in turn: each lives in a process of its own and runs when it is asked, so that none takes the
other's cores, and whatever the machine does meanwhile happens to all of them.

A worker is `python benchmarks/FILE.py --rival NAME ...`, which calls `serve`; the script that compares starts it as a `Rival`.
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
"""Where the figures of docs/performance.md lie."""

PRODUCTS = {
    *("MatMul", "BatchMatMulV2", "Einsum", "MatMulIntegerToFloat", "Gemm", "ConvTranspose"),
    *("Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"),
    *("dot", "convolution", "convolution-base-dilated", "convolution-window-dilated"),
}
"""Operations that multiply matrices, by their names in onnxruntime, TensorFlow and XLA."""


class Rival:
    """A process that answers each request, an object, with another."""

    def __init__(
        self, script: str, name: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        command = [sys.executable, script, "--rival", name, *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """What it answers; raises `RuntimeError` where the process has died."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(
                f"{self.name} died; run it alone to see why: {' '.join(map(str, self.process.args))}"
            )
        return json.loads(line)

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def serve(answer: Callable[..., Mapping[str, Any]]) -> None:
    """Answer the requests of `Rival.ask`, one line each, until there are no more."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), file=channel, flush=True)


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def steady(run: Callable[[], Any], least: float = 0.3) -> float:
    """Seconds of a call: the mean of as many as last `least` seconds, behind one that is not counted and wakes the caches and
    threads that the other rivals put to sleep."""
    run()
    taken: list[float] = []
    while sum(taken) < least:
        taken.append(timed(run))
    return statistics.mean(taken)


def in_turn(rivals: Iterable[Rival], rounds: int, **request: Any) -> dict[str, float]:
    """Median of the seconds that each answers, over `rounds` rounds behind one that warms up."""
    taken: dict[str, list[float]] = {rival.name: [] for rival in rivals}
    for turn in range(rounds + 1):
        for rival in rivals:
            seconds = rival.ask(**request)["seconds"]
            if turn:
                taken[rival.name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def arguments(description: str | None, name: str, rounds: int) -> argparse.ArgumentParser:
    """What every comparison takes."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--json", type=Path, default=RESULTS / f"{name}.json", help="where the figures go"
    )
    parser.add_argument("--rival", help=argparse.SUPPRESS)
    return parser


def written(path: Path, report: Mapping[str, Any]) -> None:
    """The figures, with the machine and the versions that they are of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {**report, "machine": machine(), "versions": versions()}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Of what is compared, where it is there."""
    names = ("numpy", "onnxruntime", "keras", "tensorflow", "jax", "torch")
    there = {found.metadata["Name"].lower() for found in importlib.metadata.distributions()}
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names if name in there
    }


MEMORY = "memory"
"""The rival that measures its bandwidth."""
ARRAY = 2**26
"""Numbers in each of its arrays, a quarter of a gigabyte: more than caches hold."""


def fastest_device() -> str:
    """What PyTorch calls the GPU, or the CPU where there is none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def finish(device: str) -> None:
    """Wait for what a GPU has been told to do."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize()


def triad(device: str = "cpu") -> Callable[..., dict[str, float]]:
    """A worker whose seconds are those of a = b + 3 c, all cores together (McCalpin 1995)."""
    import torch

    a, b, c = (torch.ones(ARRAY, device=device) for _ in range(3))

    def run() -> None:
        torch.add(b, c, alpha=3.0, out=a)
        finish(device)

    return lambda **request: {"seconds": steady(run)}


def bandwidth(seconds: float) -> float:
    """Gigabytes a second that a triad in so many seconds reads and writes."""
    return 3 * 4 * ARRAY / seconds / 1e9


def machine() -> str:
    """Cores, processor and what it can do with vectors."""
    said = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    )
    facts = dict(line.split(":", 1) for line in said.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    flags = facts.get("flags", "").split()
    vectors = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags]
    name = facts.get("model name", platform.machine())
    return f"{len(os.sched_getaffinity(0))} cores of {name}, {', '.join(vectors) or 'no vectors'}"
