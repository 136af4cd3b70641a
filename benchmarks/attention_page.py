"""The chapter of docs/performance.md on the hybrid with a Transformer, from `attention.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = Mapping[str, Any]

LEAST_SPEEDUP = 0.9
"""Speed of a training step on TensorFlow with XLA that we aim for, over that in PyTorch."""


def attention(report: Report) -> str:
    """A training step beside PyTorch, and the bundle beside that of the LSTM hybrid."""
    parts = [training(report["training"])] if "training" in report else []
    parts += [sampling(report["sampling"])] if "sampling" in report else []
    return "## A Transformer in place of the LSTM\n\n" + "\n\n".join(parts)


def training(part: Report) -> str:
    """Examples per second of each framework, and the speedup over PyTorch."""
    seconds, rival = part["seconds"], part["seconds"]["PyTorch"]
    cells = [
        f"{part['batch'] / taken:,.0f} ({rival / taken:.2f}; {1e3 * taken:,.0f} ms)"
        for taken in seconds.values()
    ]
    reached = rival / seconds["TensorFlow XLA"] >= LEAST_SPEEDUP
    return f"""Training: examples per second of the tweet-sized hybrid with a Transformer of three
layers of 384 units (T 128, batch {part["batch"]}, {part["parameters"]["PyTorch"] / 1e6:.1f} M
parameters), medians of {part["rounds"]}. PyTorch has the same network, eager, with its own scaled
dot-product attention. In brackets: the speedup over it, and the time of a step. The aim of
{LEAST_SPEEDUP} on TensorFlow with XLA is {"reached" if reached else "not reached"}.

| {" | ".join(seconds)} |
|{"---:|" * len(seconds)}
| {" | ".join(cells)} |"""


def speedups(report: Report) -> dict[str, list[float]]:
    """Speedup of a training step over PyTorch, by framework."""
    seconds = report["training"]["seconds"]
    return {"training": [seconds["PyTorch"] / taken for taken in seconds.values()]}


def sampling(part: Report) -> str:
    """Milliseconds of a batch from each bundle, and the size of the bundles."""
    batches = list(part["seconds"])
    lstm = next(iter(part["megabytes"]))
    rows = [
        f"| {name}, {part['megabytes'][name]:.0f} MB | "
        + " | ".join(cell(part, batch, name, lstm) for batch in batches)
        + " |"
        for name in part["megabytes"]
    ]
    return f"""Sampling: characters per second from the bundles of this hybrid and of the one with a
layer-normalised LSTM of 1,000 units (11.1 M parameters). The weights are random, samples have all
{part["length"]} characters, medians of {part["rounds"]}. In brackets: the speedup over the LSTM in
float32, and the time of a batch. A position of the Transformer reads the keys and values of all
positions before it, an LSTM reads its state.

| batch | {" | ".join(batches)} |
|---|{"---:|" * len(batches)}
""" + "\n".join(rows)


def cell(part: Report, batch: str, name: str, baseline: str) -> str:
    """Throughput of a bundle in a batch."""
    seconds = part["seconds"][batch]
    rate = part["length"] * int(batch) / seconds[name]
    speedup = seconds[baseline] / seconds[name]
    return f"{rate:,.0f} ({speedup:.2f}; {1e3 * seconds[name]:,.0f} ms)"
