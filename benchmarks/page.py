"""docs/performance.md out of the figures in docs/performance/, which the comparisons write.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from turns import RESULTS

Report = Mapping[str, Any]

HEAD = """# Performance

What one would use instead, beside kvae, on the same work: each rival in a process of its own, all in turn, medians. Made by
`python benchmarks/page.py` from the figures that the scripts of `benchmarks/` write into `docs/performance/`; each script says
at its top how to run it again. Trust the ratios more than the speeds, and least at batch 1: on the shared machine these are
of, two runs in a row differed by up to a half there, and by a tenth at batch 64.
"""


def sampling(report: Report) -> str:
    """Characters a second, and the ratios to PyTorch."""
    seconds, changed = report["seconds"], report["quantization"]
    names = [name for name in next(iter(seconds.values())) if name not in PRODUCTS_OF.values()]
    rows = [
        f"| {name} | " + " | ".join(cell(int(batch), found, name, report["length"]) for batch, found in seconds.items())
        for name in names
    ]
    rows += [
        f"| {products.replace('products', 'products alone')} | "
        + " | ".join(
            f"{int(batch) * report['length'] / found[products]:,.0f} ({share(found, name):.0%})"
            for batch, found in seconds.items()
        )
        for name, products in PRODUCTS_OF.items()
    ]
    return f"""## Writing

Characters a second of the tweet-sized hybrid (code 100, five deconvolutions, a layer-normalised LSTM of 1,000, T
{report["length"]}), all with the same weights, trained on tweets for 1,200 steps ({report["same_texts"]:.0%} of 64 greedy texts
are equal between the bundle and PyTorch), and in brackets how many times PyTorch's eager speed that is, and how long a batch
takes. The last rows are what the products alone would allow, measured at these sizes in the same run (by PyTorch or
onnxruntime, whichever is faster; in eight bits those of the LSTM's state), and which share of that the bundle reaches.

| batch | {" | ".join(seconds)} |
|---|{"---:|" * len(seconds)}
{chr(10).join(row + " |" for row in rows)}

In eight bits the bound of {changed["texts"]} held-out tweets is {changed["bound"]:.2f} nats instead of
{changed["bound_in_float32"]:.2f} ({worse(changed):+.2%}), {changed["likeliest_symbols_unchanged"]:.2%} of the likeliest next
symbols behind the true ones stay the same, and the files are {changed["size_ratio"]:.0%} as large.

{report["machine"]}, median of {report["rounds"]}: `python benchmarks/sampling.py`.
"""


PRODUCTS_OF = {"bundle": "products", "bundle, eight bits": "products, eight bits"}
"""The products that a bundle cannot do without."""


def cell(batch: int, found: Mapping[str, float], name: str, length: int) -> str:
    taken = found[name]
    return f"{batch * length / taken:,.0f} ({found['PyTorch'] / taken:.2f}; {1e3 * taken:,.0f} ms)"


def share(found: Mapping[str, float], name: str = "bundle") -> float:
    """Of the speed that the products alone allow."""
    return found[PRODUCTS_OF[name]] / found[name]


def worse(changed: Mapping[str, float]) -> float:
    """By which share of itself the bound is higher in eight bits."""
    return changed["bound"] / changed["bound_in_float32"] - 1


def training(report: Report) -> str:
    """Examples a second of each system and framework."""
    seconds, batch = report["seconds"], report["batch"]
    systems = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in seconds))
    frameworks = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name in seconds))
    rows = "\n".join(
        f"| {system}, {report['parameters'][f'{system}, {frameworks[0]}'] / 1e6:.2f} M | "
        + " | ".join(
            f"{batch / seconds[f'{system}, {name}']:.0f} ({seconds[f'{system}, PyTorch'] / seconds[f'{system}, {name}']:.2f})"
            for name in frameworks
        )
        + " |"
        for system in systems
    )
    alone = report["recurrence"]
    lengths = ", ".join(f"{1e3 * taken / int(length):.1f} at {length}" for length, taken in report["lengths"].items())
    return f"""## Training

Examples a second, T {report["length"]}, LSTM 500, batch {batch}, and in brackets how many times PyTorch's speed that is: its
layer-normalised LSTM is written by hand, its plain one is `nn.LSTM`.

| system | {" | ".join(frameworks)} |
|---|{"---:|" * len(frameworks)}
{rows}

The recurrence alone, forward and backward, reaches {share_of_recurrence(alone, "normalised"):.0%} (normalised) and
{share_of_recurrence(alone, "plain"):.0%} (plain) of the speed of its products, the faster way on TensorFlow, which the machine
computes at {alone["gflops"]:.0f} GFLOP/s. The products of the LSTM VAE's step take {fewer_operations(report):.2f} times the
operations of the hybrid's. Milliseconds a position of the hybrid's step: {lengths}.

{report["machine"]}, median of {report["rounds"]}: `python benchmarks/training_step.py`.
"""


def share_of_recurrence(alone: Mapping[str, float], kind: str) -> float:
    """Of the speed that the recurrence's products alone allow, by the faster way on TensorFlow."""
    return alone["products"] / min(alone[f"recurrence, {kind}, {name}"] for name in ("TensorFlow", "TensorFlow XLA"))


def fewer_operations(report: Report) -> float:
    """How many times those of the hybrid's products the LSTM VAE's take."""
    return report["operations"]["LSTM VAE"] / report["operations"]["hybrid"]


def pipeline(report: Report) -> str:
    """Examples a second that are delivered and consumed."""
    found = report["examples_per_second"]
    rows = "\n".join(f"| {name} | {rate:,} |" for name, rate in found.items())
    return f"""## Data

Examples a second, T {report["length"]}, batch {report["batch"]}: the pipeline (*from memory*, *from disk*; *cold* from the
opening of the file to the end of the first epoch), what small presets consume, and what one would write instead. The slowest
pipeline delivers {report["times_fastest_model"]:.0f} times what the fastest preset consumes, that of lines in memory
{report["times_loader"]:.1f} times a `DataLoader`.

| | examples a second |
|---|---:|
{rows}

{report["machine"]}, median of {report["rounds"]}: `python benchmarks/pipeline.py`.
"""


ENDING = ", the first text"
"""Of the names of rivals that start and write."""
OPENED = "onnxruntime, the graph open"


def startup(report: Report) -> str:
    """Seconds and megabytes to the first text."""
    ours = f"kvae{ENDING}"
    seconds, peak = report["seconds"], report["peak_megabytes"]
    rows = "\n".join(
        f"| {name.removesuffix(ENDING)} | {seconds[name]:.2f} ({seconds[name] / seconds[ours]:.1f}) | "
        f"{megabytes:,.0f} ({megabytes / peak[ours]:.1f}) |"
        for name, megabytes in peak.items()
        if name != OPENED
    )
    imports = seconds["import kvae.serving"] / seconds["import numpy, onnxruntime"]
    whole, alone = report["kvae"], report["kvae-serving"]
    return f"""## Start

From the start of a process to the end of its first text, the tweet-sized hybrid, T 128, and in brackets how many times ours
that is.

| | seconds | peak memory, MB |
|---|---:|---:|
{rows}

Of ours, {seconds[OPENED]:.2f} s and {peak[OPENED]:.0f} MB are those of onnxruntime that opens the same graph unchecked and
writes nothing. `import kvae.serving` takes {imports:.2f} times what `import numpy, onnxruntime` takes. With its byte-code
kvae-serving adds {alone["installed"]:.2f} MB to numpy, onnxruntime and what those need ({alone["numpy and onnxruntime"]:.0f}
MB); kvae, which holds training and export too, {whole["installed"]:.2f} MB ({whole["source"]:.2f} of source).

{report["machine"]}, median of {report["rounds"]}: `python benchmarks/startup.py`.
"""


def profiles(report: Report) -> str:
    """Shares of the time by operation."""
    rows = "\n".join(
        f"| {name} | " + ", ".join(f"{operation} {share:.0%}" for operation, share in shares.items()) + " |"
        for name, shares in report["shares"].items()
    )
    return f"""## What limits it

Where the time goes, by kind of operation, on one thread: the graphs of *Writing* by onnxruntime's profile, a step of the
layer-normalised hybrid of *Training* by TensorFlow's. To note an operation takes longer than a small one: at batch 1 the
products' share is larger than it seems here, see the rows of products above.

| | share of the time in operations |
|---|---|
{rows}

{report["machine"]}: `python benchmarks/profiles.py`.
"""


PRODUCTS = ("MatMul", "MatMulInteger", "Gemm", "ConvTranspose", "Conv2DBackpropInput", "Conv2DBackpropFilter")
"""Operations that multiply matrices, by their names in onnxruntime and TensorFlow."""


Aim = tuple[str, float, float, float | None]
"""What is compared, the ratio that was wanted, the one that is measured, and that with free operations other than products."""


def aims(reports: Mapping[str, Report]) -> str:
    """What was wanted and what is reached."""
    rows = "\n".join(
        f"| {name} | {wanted:g} | {found:.4g} | {'yes' if found >= wanted else 'no'} | {f'{most:.2f}' if most else ''} |"
        for chapter in (writing_aims, training_aims, data_aims, start_aims)
        for name, wanted, found, most in chapter(reports)
    )
    return f"""## What was aimed at

The last column is what would be measured if products of matrices took as long as they do and everything else of ours nothing:
for writing by the measured speed of the products alone, for a training step by the shares above. What lies beyond it needs
faster products, not fewer other operations. Between the hybrid and the LSTM VAE it is the ratio of the operations of their
products, what the hybrid saves by itself. A step has a fixed cost beside that of its positions, which the shortest texts feel.

| times | wanted | measured | reached | with free other operations |
|---|---:|---:|---|---:|
{rows}
"""


def writing_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    seconds = reports["sampling"]["seconds"]
    for name, rival, batch, wanted in (
        ("bundle", "PyTorch", "1", 3.0),
        ("bundle", "PyTorch", "64", 1.5),
        ("bundle", "SavedModel", "1", 1.5),
        ("bundle", "SavedModel", "64", 1.5),
        ("bundle, eight bits", "PyTorch", "1", 8.0),
        ("bundle, eight bits", "PyTorch", "64", 2.5),
    ):
        found = seconds[batch]
        most = found[rival] / found[PRODUCTS_OF[name]]
        yield f"writing, {name}, batch {batch}, the speed of {rival}", wanted, found[rival] / found[name], most
    yield "writing, bundle, batch 64, the speed of the products alone", 0.85, share(seconds["64"]), 1.0
    changed = reports["sampling"]["quantization"]
    yield "writing, bundle, eight bits, the bound of float32", 0.995, 1 / (1 + worse(changed)), None
    yield (
        "writing, bundle, eight bits, likeliest symbols of float32",
        0.99,
        changed["likeliest_symbols_unchanged"],
        None,
    )


def training_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    seconds, alone = reports["training"]["seconds"], reports["training"]["recurrence"]
    shares = reports["profiles"]["shares"]["a training step"]
    products = sum(shares.get(name, 0.0) for name in PRODUCTS) * seconds["hybrid, normalised, TensorFlow"]
    ours = {
        system: min(seconds[f"{system}, {name}"] for name in ("TensorFlow", "TensorFlow XLA"))
        for system in ("hybrid, normalised", "hybrid, plain", "LSTM VAE, normalised", "LSTM VAE, plain")
    }
    each = [taken / int(length) for length, taken in reports["training"]["lengths"].items()]
    yield "training, hybrid, time a position, the shortest of the longest", 0.85, min(each) / max(each), None
    for kind, wanted, least in (("normalised", 1.8, products), ("plain", 0.9, None)):
        rival, hybrid = seconds[f"hybrid, {kind}, PyTorch"], ours[f"hybrid, {kind}"]
        recurrence = share_of_recurrence(alone, kind)
        yield f"training, hybrid, {kind}, the speed of PyTorch", wanted, rival / hybrid, least and rival / least
        yield f"training, recurrence, {kind}, the speed of its products", 0.55, recurrence, 1.0
        fewer = fewer_operations(reports["training"])
        yield f"training, hybrid, {kind}, the speed of the LSTM VAE", 2.0, ours[f"LSTM VAE, {kind}"] / hybrid, fewer


def data_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    report = reports["pipeline"]
    yield "data, slowest pipeline, the fastest preset's need", 10.0, report["times_fastest_model"], None
    yield "data, lines in memory, the speed of a DataLoader", 3.0, report["times_loader"], None


def start_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    for unit, key, wanted in (("seconds", "seconds", 5.0), ("peak memory", "peak_megabytes", 3.0)):
        found = reports["startup"][key]
        for name in ("SavedModel", "PyTorch, eager"):
            yield f"start, {unit} of {name}, of ours", wanted, found[name + ENDING] / found[f"kvae{ENDING}"], None


CHAPTERS: dict[str, Callable[[Report], str]] = {
    "sampling": sampling,
    "training": training,
    "pipeline": pipeline,
    "startup": startup,
    "profiles": profiles,
}


def main() -> None:
    files = {name: RESULTS / f"{name}.json" for name in CHAPTERS}
    reports = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.exists()}
    chapters = [CHAPTERS[name](report) for name, report in reports.items()]
    last = [aims(reports)] if len(reports) == len(CHAPTERS) else []
    RESULTS.with_suffix(".md").write_text("\n".join([HEAD, *chapters, *last]), encoding="utf-8")


if __name__ == "__main__":
    main()
