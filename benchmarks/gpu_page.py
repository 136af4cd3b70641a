"""The chapter of docs/performance.md on a GPU, from the figures of `gpu.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]

NOT_MEASURED = "Not measured."


def gpu(report: Found) -> str:
    """The chapter. A section without figures says that it was not measured."""
    found = report.get("sections", {})
    sections = {
        "Matrix products and memory": machine(found.get("machine", {})),
        "Training": training(found.get("training", {}), found.get("machine", {})),
        "Feeding the device": pipeline(found.get("pipeline", {})),
        "Profiles of a step": profile(found.get("profile", {})),
        "A run on tweets": run(found.get("run", {})),
        "Sampling": sampler(found.get("sampler", {})),
    }
    device = ", ".join(found.get("machine", {}).get("devices", []))
    text = "\n".join(f"### {title}\n\n{section}\n" for title, section in sections.items())
    where = f"Measured on {device}." if device else "No GPU has been at hand yet."
    return f"""## On a GPU

`python benchmarks/gpu.py` measures this in at most eight minutes. Its docstring says what the
machine needs. kvae runs on JAX there, without TensorFlow. {where}

{text}"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns after the first are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ending(found: Found) -> str:
    """A sentence on a section that did not come to its end, or nothing."""
    return f"\n\nThe section ended early: {found['ended']}." if "ended" in found else ""


def machine(found: Found) -> str:
    """Throughput of products by precision, and the memory bandwidth."""
    if "gflops" not in found:
        return NOT_MEASURED + ending(found)
    rates: dict[str, dict[str, float]] = {}
    for name, rate in found["gflops"].items():
        precision, shape = name.split(", ")
        rates.setdefault(shape, {})[precision] = rate
    precisions = list(dict.fromkeys(name.split(", ")[0] for name in found["gflops"]))
    rows = [
        [shape, *(f"{by[name] / 1e3:,.1f}" if name in by else "" for name in precisions)]
        for shape, by in rates.items()
    ]
    memory = found.get("memory_gigabytes_per_second")
    text = f" The memory bandwidth is {memory:,.0f} GB/s." if memory else ""
    return f"TFLOP/s of matrix products.{text}\n\n{table(['', *precisions], rows)}{ending(found)}"


def training(found: Found, machine: Found) -> str:
    """Examples per second, speedup over PyTorch, and percentage of the peak of the precision."""
    if "steps" not in found:
        return NOT_MEASURED + ending(found)
    names = ["JAX", "PyTorch", "PyTorch, compiled"]
    rows = []
    for case, seconds in found["steps"].items():
        every = {**seconds, "PyTorch, compiled": found.get("compiled", {}).get(case)}
        rows.append([case, *(cell(case, name, every, found, machine) for name in names)])
    return f"""Examples per second of a training step. In brackets: the speedup over eager PyTorch,
and the percentage of the largest throughput of a matrix product in this precision.

{table(["", "kvae on JAX", *names[1:]], rows)}{ending(found)}"""


def cell(case: str, name: str, seconds: Found, found: Found, machine: Found) -> str:
    """Examples per second of a program with its ratios; what failed, or nothing."""
    taken = seconds.get(name)
    if not isinstance(taken, float):
        return "" if taken is None else "failed"
    system, precision, batch = case.rsplit(", ", 3)[0], *case.rsplit(", ", 2)[1:]
    examples = int(batch.removeprefix("batch ")) / taken
    ratios = []
    if isinstance(seconds.get("PyTorch"), float) and name != "PyTorch":
        ratios.append(f"{seconds['PyTorch'] / taken:.2f}")
    rates = [
        rate for key, rate in machine.get("gflops", {}).items() if key.startswith(f"{precision},")
    ]
    operations = found.get("operations", {}).get(system)
    if rates and operations:
        ratios.append(f"{examples * operations / max(rates) / 1e9:.1%}")
    return f"{examples:,.0f}" + (f" ({'; '.join(ratios)})" if ratios else "")


def pipeline(found: Found) -> str:
    """What reaches the device, and how long it waits."""
    if "seconds" not in found or "delivered_per_second" not in found:
        return NOT_MEASURED + ending(found)
    seconds = found["seconds"]
    waits = 1 - seconds["from memory"] / seconds["from the pipeline"]
    return f"""The pipeline delivers {found["delivered_per_second"]:,} examples per second to the
device. A step of the plain hybrid takes {1e3 * seconds["from memory"]:.2f} ms with arrays in memory
and {1e3 * seconds["from the pipeline"]:.2f} ms with the pipeline: the device waits for
{max(waits, 0.0):.0%} of the time.{ending(found)}"""


def profile(found: Found) -> str:
    """Shares of the time by kind of operation."""
    profiles = {name: shares for name, shares in found.items() if isinstance(shares, Mapping)}
    if not profiles:
        return NOT_MEASURED + ending(found)
    rows = [
        [name, ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())]
        for name, shares in profiles.items()
    ]
    return table(["", "share of the time in operations"], rows) + ending(found)


def run(found: Found) -> str:
    """Bound, KL and samples of the run."""
    if "evaluation" not in found:
        return NOT_MEASURED + ending(found)
    numbers = found["evaluation"]
    samples = "\n".join(f"    {text}" for text in found.get("samples", []))
    return f"""`hybrid-lstm-tweets` in bytes after {found["minutes"]:.1f} minutes of training: a
bound of {numbers["elbo"]:.2f} nats with a KL of {numbers["kl"]:.2f}, on {numbers["texts"]:,}
held-out texts. Greedy samples from the prior:

{samples}{ending(found)}"""


def sampler(found: Found) -> str:
    """Characters per second of the bundle and of PyTorch."""
    if "characters_per_second" not in found:
        return NOT_MEASURED + ending(found)
    rates = found["characters_per_second"]
    names = list(next(iter(rates.values())))
    rows = [[batch, *(f"{by[name]:,.0f}" for name in names)] for batch, by in rates.items()]
    heads = {"bundle": "bundle, onnxruntime on the CPU", "PyTorch": "PyTorch on its device"}
    return f"""Characters per second of the PTB-sized hybrid, samples of full length.

{table(["batch", *(heads[name] for name in names)], rows)}{ending(found)}"""
