"""Write docs/performance.md from the figures in docs/performance/, which the benchmarks measure.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from attention_page import attention, speedups
from builds_page import builds
from gpu_page import gpu
from turns import MATRIX_PRODUCTS, RESULTS

Report = Mapping[str, Any]

HEAD = """# Performance

This page compares kvae with the alternatives on the same work. Each program runs in a process of
its own, the programs take turns, and each figure is a median. `python benchmarks/page.py` writes
the page from the figures in `docs/performance/`. The scripts in `benchmarks/` measure these
figures; the docstring of each script says how to run it, in `.venv` with PyTorch
(`pip install --constraint constraints.txt --editable '.[benchmarks]'`).

Trust the ratios more than the absolute speeds, and the figures at batch 1 least. On the shared
machines used here, two runs in a row differed by up to a half at batch 1 and by a tenth at
batch 64. Machines differ more than that: the lines that begin with *On* name them. On machines
with slow memory every program here is limited by memory bandwidth, ours and the others.
"""


def measured_on(report: Report) -> str:
    """The machine, and the versions of what was compared."""
    versions = report.get("versions", {}).items()
    named = ", ".join(f"{name} {version}" for name, version in versions)
    return "Measured on " + "; ".join(filter(None, [report["machine"], named]))


def other_machines(name: str, speedups: Callable[[Report], Mapping[str, Sequence[float]]]) -> str:
    """A line for each other machine: the speedup over PyTorch by its report NAME-MACHINE.json.

    A report of an earlier build has a `note` that says what has changed since.
    """
    lines = []
    for path in sorted(RESULTS.glob(f"{name}-*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        figures = "; ".join(
            f"{what} {', '.join(f'{ratio:.2f}' for ratio in ratios)}"
            for what, ratios in speedups(report).items()
        )
        lines.append(
            f"On {report['machine']}, speedup over PyTorch in the order of the columns: {figures}."
            f"{report.get('note', '')}"
        )
    return "\n\n".join(lines)


def sampling_speedups(report: Report) -> dict[str, list[float]]:
    """Speedup of each bundle over PyTorch, by batch size."""
    return {
        name: [seconds["PyTorch"] / seconds[name] for seconds in report["seconds"].values()]
        for name in PRODUCTS_OF
    }


def training_speedups(report: Report) -> dict[str, list[float]]:
    """Speedup of each system over PyTorch, by the framework on which kvae runs."""
    seconds = report["seconds"]
    systems = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in seconds))
    frameworks = ("TensorFlow", "TensorFlow XLA", "JAX")
    return {
        system: [
            seconds[f"{system}, PyTorch"] / seconds[f"{system}, {framework}"]
            for framework in frameworks
        ]
        for system in systems
    }


def sampling(report: Report) -> str:
    """The chapter on sampling: throughput, and speedup over PyTorch."""
    seconds, quantization = report["seconds"], report["quantization"]
    names = [name for name in next(iter(seconds.values())) if not name.startswith("products")]
    rows = [
        f"| {name} | "
        + " | ".join(
            sampling_cell(int(batch), by_name, name, report["length"])
            for batch, by_name in seconds.items()
        )
        for name in names
    ]
    rows += [
        f"| {products.replace('products', 'matrix products alone')} | "
        + " | ".join(
            f"{int(batch) * report['length'] / by_name[products]:,.0f} "
            f"({products_fraction(by_name, name):.0%})"
            for batch, by_name in seconds.items()
        )
        for name, products in PRODUCTS_OF.items()
    ]
    return f"""## Sampling

Throughput in characters per second of the tweet-sized hybrid (latent code of 100, five
deconvolutions, a layer-normalised LSTM of 1,000 units, T {report["length"]}). All programs use the
same weights, trained for {report["steps"]} steps of batch 32 on {report["texts"]:,} texts. Greedy
decoding of 64 codes gives {report["same_texts"]:.0%} equal texts in the bundle and in PyTorch. In
brackets: the speedup over eager PyTorch, and the time per batch.

The last rows are upper bounds: the throughput if a program computed the matrix products and nothing
else. In brackets: the percentage of this bound that the bundle reaches. The products were measured
at these sizes in the same run, in PyTorch and in onnxruntime, and the faster one counts. In eight
bits, only the product of the LSTM's state with the LSTM's kernel is computed in eight bits.

| batch | {" | ".join(seconds)} |
|---|{"---:|" * len(seconds)}
{chr(10).join(row + " |" for row in rows)}

The matrix products of one position read {4 * report["weights"] / 1e6:.0f} MB of weights at any
batch size. At batch 1 the bundle reads weights at {weights_per_second(report):.0f} GB/s. The memory
bandwidth is {report["memory_gigabytes_per_second"]:.0f} GB/s, reads and writes together (the triad
of large arrays); whatever is read faster comes from the caches.

In eight bits the bound of {quantization["texts"]} held-out texts is {quantization["bound"]:.2f}
nats, compared with {quantization["bound_in_float32"]:.2f} in float32
({bound_increase(quantization):+.2%}). The top-1 agreement of the next-token predictions with
float32, given the true tokens before, is {quantization["likeliest_symbols_unchanged"]:.2%}. The
files have {quantization["size_ratio"]:.0%} of the size.

{other_machines("sampling", sampling_speedups)}

{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/sampling.py`.
"""


PRODUCTS_OF = {"bundle": "products", "bundle, eight bits": "products, eight bits"}
"""The name under which the matrix products of each bundle were timed."""


def sampling_cell(batch: int, seconds: Mapping[str, float], name: str, length: int) -> str:
    """Characters per second, speedup over PyTorch and milliseconds per batch."""
    taken = seconds[name]
    speedup = seconds["PyTorch"] / taken
    return f"{batch * length / taken:,.0f} ({speedup:.2f}; {1e3 * taken:,.0f} ms)"


def weights_per_second(report: Report) -> float:
    """Gigabytes of weights per second that the matrix products of the bundle read at batch 1."""
    return 4 * report["weights"] * report["length"] / report["seconds"]["1"]["bundle"] / 1e9


def products_fraction(seconds: Mapping[str, float], name: str = "bundle") -> float:
    """Speed of a bundle as a fraction of the speed of its matrix products alone."""
    return seconds[PRODUCTS_OF[name]] / seconds[name]


def bound_increase(quantization: Mapping[str, float]) -> float:
    """Relative increase of the bound in eight bits over float32."""
    return quantization["bound"] / quantization["bound_in_float32"] - 1


def training(report: Report) -> str:
    """The chapter on training: throughput of each system and framework on the CPU."""
    return f"""## Training

{training_table(report)}

{recurrence_sentence(report)} The matrix products of a step take {operations_ratio(report):.2f}
times as many operations in the LSTM VAE as in the hybrid. {growth_sentence(report)}

{gru_sentence(report)}

{other_machines("training", training_speedups)}

{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/training_step.py`.
"""


def gru_sentence(report: Report) -> str:
    """Examples per second of the hybrid with a GRU, which was not written in PyTorch."""
    rates: dict[str, list[str]] = {}
    for name, taken in report["gru"].items():
        _, kind, framework = name.split(", ")
        rates.setdefault(kind, []).append(f"{report['batch'] / taken:,.0f} on {framework}")
    kinds = "; ".join(f"{kind} {', '.join(each)}" for kind, each in rates.items())
    return f"The hybrid with a GRU, in kvae only, examples per second: {kinds}."


def training_table(report: Report) -> str:
    """Examples per second, speedup over PyTorch and percentage of peak matrix throughput."""
    seconds, batch = report["seconds"], report["batch"]
    systems = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in seconds))
    frameworks = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name in seconds))

    def cell(system: str, framework: str) -> str:
        taken = seconds[f"{system}, {framework}"]
        peak = peak_fraction(report, system.partition(", ")[0], taken)
        return f"{batch / taken:,.0f} ({seconds[f'{system}, PyTorch'] / taken:.2f}; {peak:.0%})"

    rows = "\n".join(
        f"| {system}, {report['parameters'][f'{system}, {frameworks[0]}'] / 1e6:.2f} M | "
        + " | ".join(cell(system, framework) for framework in frameworks)
        + " |"
        for system in systems
    )
    return f"""Throughput in examples per second at T {report["length"]}, LSTM 500, batch {batch}.
In brackets: the speedup over PyTorch, and the percentage of peak matrix throughput that a step
reaches. In PyTorch the layer-normalised LSTM is written by hand and the plain one is `nn.LSTM`. The
peak is {report["peak_gflops"]:,.0f} GFLOP/s in single precision: the product of two large matrices
or the products of the recurrence, whichever is faster. The memory bandwidth is
{report["memory_gigabytes_per_second"]:,.0f} GB/s, reads and writes together.

| system | {" | ".join(frameworks)} |
|---|{"---:|" * len(frameworks)}
{rows}"""


def peak_fraction(report: Report, system: str, seconds: float) -> float:
    """Matrix throughput of a step that takes `seconds`, as a fraction of the peak."""
    return report["operations"][system] / seconds / report["peak_gflops"] / 1e9


def recurrence_sentence(report: Report) -> str:
    """The sentence on the recurrence alone, compared with its matrix products."""
    frameworks = ("TensorFlow", "TensorFlow XLA", "JAX")
    percentages = "; ".join(
        f"{kind} "
        + ", ".join(
            f"{recurrence_fraction(report, kind, framework):.0%} on {framework}"
            for framework in frameworks
        )
        for kind in ("normalised", "plain")
    )
    return f"""The recurrence alone, forward and backward, reaches these percentages of the speed of
its matrix products ({report["products_gflops"]:.0f} GFLOP/s in TensorFlow or PyTorch, whichever is
faster): {percentages}."""


def growth_sentence(report: Report) -> str:
    """The sentence on milliseconds per position, by the number of positions."""
    return (
        "Milliseconds per position of a step of the hybrid, at different T: "
        + "; ".join(
            f"{framework} "
            + ", ".join(
                f"{1e3 * seconds / int(length):.1f} at {length}"
                for length, seconds in by_length.items()
            )
            for framework, by_length in report["lengths"].items()
        )
        + "."
    )


def recurrence_fraction(report: Report, kind: str, *frameworks: str) -> float:
    """Speed of the recurrence on the fastest framework, as a fraction of that of its products."""
    seconds = report["recurrence"]
    products = min(taken for name, taken in seconds.items() if name.startswith("products"))
    return products / min(seconds[f"recurrence, {kind}, {framework}"] for framework in frameworks)


def operations_ratio(report: Report) -> float:
    """Operations in the matrix products of the LSTM VAE, divided by those of the hybrid."""
    return report["operations"]["LSTM VAE"] / report["operations"]["hybrid"]


def pipeline(report: Report) -> str:
    """The chapter on data: examples per second that are delivered and consumed."""
    rates = report["examples_per_second"]
    rows = "\n".join(f"| {name} | {rate:,} |" for name, rate in rates.items())
    return f"""## Data

Examples per second at T {report["length"]}, batch {report["batch"]}: what the pipeline delivers
(*from memory*, *from disk*; *cold* counts from opening the file to the end of the first epoch),
what small presets consume, and what a PyTorch `DataLoader` and plain Python deliver. Once warm, the
slowest pipeline delivers {report["times_fastest_model"]:.0f} times what the fastest preset
consumes. The pipeline of lines in memory delivers {report["times_loader"]:.1f} times as much as the
faster `DataLoader`.

| | examples per second |
|---|---:|
{rows}

{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/pipeline.py`.
"""


OTHER_BUILD = "other build, lines, memory"
"""Name of the figures of the build that was measured beside."""


def data(report: Report) -> str:
    """The chapter on preparing a corpus: lines per second by format, and peak memory."""
    rates, peaks = report["lines_per_second"], report["peak_bytes"]
    rows = "\n".join(
        f"| {name} | {rate:,} | {peaks[name]['without TensorFlow'] / 1e6:,.0f} | "
        f"{peaks[name]['with TensorFlow'] / 1e6:,.0f} |"
        for name, rate in rates.items()
    )
    beside = ""
    if OTHER_BUILD in rates:
        ours, peak = rates["lines, memory"], peaks["lines, memory"]["without TensorFlow"]
        beside = f"""
*Other build* is commit 9d60887, before data had a room of its own: kvae prepares lines in memory
{ours / rates[OTHER_BUILD]:.1f} times as fast, with
{peak / peaks[OTHER_BUILD]["without TensorFlow"]:.2f} of the peak memory.
"""
    return f"""## Preparing a corpus

From the call of `prepare` to the first batch, cold, for {report["lines"]:,} lines of 36 characters.
The peak memory is that of the process, first without TensorFlow and the batch, then with both.

| | lines per second | MB | MB, with TensorFlow |
|---|---:|---:|---:|
{rows}
{beside}
{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/data.py`.
"""


FIRST_TEXT = ", the first text"
"""End of the name of each program that samples one text."""
GRAPH_LOADED = "onnxruntime, the graph open"
"""Name of the program that only loads the graph."""


def startup(report: Report) -> str:
    """The chapter on start-up: seconds and peak memory until the first text."""
    ours = f"kvae{FIRST_TEXT}"
    seconds, peak = report["seconds"], report["peak_megabytes"]
    rows = "\n".join(
        f"| {name.removesuffix(FIRST_TEXT)} | "
        f"{seconds[name]:.2f} ({seconds[name] / seconds[ours]:.1f}) | "
        f"{megabytes:,.0f} ({megabytes / peak[ours]:.1f}) |"
        for name, megabytes in peak.items()
        if name != GRAPH_LOADED
    )
    import_ratio = seconds["import kvae.serving"] / seconds["import numpy, onnxruntime"]
    whole, alone = report["kvae"], report["kvae-text-serving"]
    return f"""## Start-up

From the start of a process to the end of its first text, for the tweet-sized hybrid at T 128. In
brackets: the multiple of kvae's figure.

| | seconds | peak memory, MB |
|---|---:|---:|
{rows}

A process in which onnxruntime loads the same graph, without kvae's checks and without sampling,
takes {seconds[GRAPH_LOADED]:.2f} s and {peak[GRAPH_LOADED]:.0f} MB. `import kvae.serving` takes
{import_ratio:.2f} times as long as `import numpy, onnxruntime`. Byte-code included,
kvae-text-serving adds {alone["installed"]:.2f} MB to numpy, onnxruntime and their
dependencies ({alone["numpy and onnxruntime"]:.0f} MB). kvae, with training and export, adds
{whole["installed"]:.2f} MB, of which {whole["source"]:.2f} MB is source.

{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/startup.py`.
"""


def profiles(report: Report) -> str:
    """The chapter on profiles: share of the time by kind of operation."""
    rows = "\n".join(
        f"| {name.replace('writing', 'sampling')} | "
        + ", ".join(f"{operation} {share:.0%}" for operation, share in shares.items())
        + " |"
        for name, shares in report["shares"].items()
    )
    return f"""## Profiles

Share of the time by kind of operation, on one thread. The rows on sampling profile the graphs of
*Sampling* with onnxruntime's profiler. The rows on training profile a step of the layer-normalised
hybrid and LSTM VAE of *Training*, and the recurrence alone, forward and backward, with TensorFlow's
profiler, in graph mode and under XLA (*fused*: neighbouring operations that XLA has merged). The
profiler needs more time to record an operation than a small operation takes. At batch 1 the true
share of the matrix products is therefore larger than shown here; see the last rows of the table in
*Sampling*.

| | share of the time in operations |
|---|---|
{rows}

{measured_on(report)}: `python benchmarks/profiles.py`.
"""


class Goal(NamedTuple):
    """A ratio to reach, and what was measured.

    `products_only` is the ratio if only the matrix products of kvae took time, None where it is not
    known. `limit` is a sentence on what limits the measured ratio.
    """

    name: str
    target: float
    measured: float
    products_only: float | None
    limit: str

    @property
    def reached(self) -> bool:
        """True if the measured ratio is at least the target."""
        return self.measured >= self.target


def goals(reports: Mapping[str, Report]) -> str:
    """The chapter on goals: target and measurement of each, and what limits those not reached."""
    every_goal = [
        goal
        for chapter in (sampling_goals, training_goals, data_goals, startup_goals)
        for goal in chapter(reports)
    ]
    rows = "\n".join(
        f"| {goal.name} | {goal.target:g} | {goal.measured:.4g} | "
        f"{'yes' if goal.reached else 'no'} | "
        f"{'' if goal.products_only is None else f'{goal.products_only:.2f}'} |"
        for goal in every_goal
    )
    limits = "\n".join(
        f"- *{goal.name}*: {goal.measured:.2f} of {goal.target:g}. {goal.limit}"
        for goal in every_goal
        if not goal.reached
    )
    return f"""## Goals and what was measured

The last column is the ratio that would be measured if the matrix products took as long as they do
and all other operations of kvae took no time. For sampling it follows from the measured speed of
the matrix products alone, for a training step from the shares above. A higher ratio needs faster
matrix products, not fewer other operations. Where the hybrid is compared with the LSTM VAE, the
last column is the ratio of the operations in their matrix products, which is what the hybrid saves
by itself.

| ratio | goal | measured | reached | matrix products only |
|---|---:|---:|---|---:|
{rows}

What limits the ratios that were not reached, by the profiles above:

{limits}
"""


def largest_shares(reports: Mapping[str, Report], profile: str) -> str:
    """A clause: the share of the matrix products in a profile, and the largest others."""
    report = reports["profiles"]
    others = [
        f"{operation} {share:.0%}"
        for operation, share in report["shares"][profile].items()
        if operation not in (*MATRIX_PRODUCTS, "others")
    ]
    products = report["products"][profile]
    shares = [f"matrix products take {products:.0%} of the time in operations", *others[:4]]
    return ", ".join(shares)


def sampling_goals(reports: Mapping[str, Report]) -> Iterator[Goal]:
    """Goals for the speed of sampling and for the precision in eight bits."""
    report = reports["sampling"]
    seconds, quantization = report["seconds"], report["quantization"]
    profile = {"bundle": "writing", "bundle, eight bits": "writing in eight bits"}
    for name, rival, batch, target in (
        ("bundle", "PyTorch", "1", 3.0),
        ("bundle", "PyTorch", "64", 1.5),
        ("bundle", "SavedModel", "1", 1.5),
        ("bundle", "SavedModel", "64", 1.5),
        ("bundle, eight bits", "PyTorch", "1", 8.0),
        ("bundle, eight bits", "PyTorch", "64", 2.5),
    ):
        by_name = seconds[batch]
        limit = (
            f"The matrix products alone would take {products_fraction(by_name, name):.0%} "
            "of its time. In the profile on one thread "
            f"{largest_shares(reports, f'{profile[name]}, batch {batch}')}."
        )
        if name == "bundle":
            limit += onnxruntime_sentence(by_name)
        yield Goal(
            f"sampling, {name}, batch {batch}: speedup over {rival}",
            target,
            by_name[rival] / by_name[name],
            by_name[rival] / by_name[PRODUCTS_OF[name]],
            limit,
        )
    yield Goal(
        "sampling, bundle, batch 64: speed / speed of its matrix products",
        0.85,
        products_fraction(seconds["64"]),
        1.0,
        f"In the profile on one thread {largest_shares(reports, 'writing, batch 64')}."
        f"{onnxruntime_sentence(seconds['64'])}",
    )
    for what, target, measured in (
        ("bound in float32 / bound", 0.995, 1 / (1 + bound_increase(quantization))),
        ("top-1 agreement with float32", 0.99, quantization["likeliest_symbols_unchanged"]),
    ):
        limit = f"Measured on {quantization['texts']:,} held-out texts; more bits would lose less."
        yield Goal(f"sampling, bundle, eight bits: {what}", target, measured, None, limit)


def onnxruntime_sentence(seconds: Mapping[str, float]) -> str:
    """A sentence on the speed of onnxruntime's products; empty if at least 95% of the best."""
    fraction = seconds["products"] / seconds["products, by onnxruntime"]
    return (
        f" In onnxruntime these products run at {fraction:.0%} of the speed of the faster library."
        if fraction < 0.95
        else ""
    )


def training_goals(reports: Mapping[str, Report]) -> Iterator[Goal]:
    """Goals for the speed of a training step and of the recurrence."""
    report = reports["training"]
    for framework, by_length in report["lengths"].items():
        per_position = [seconds / int(length) for length, seconds in by_length.items()]
        yield Goal(
            f"training, hybrid on {framework}: shortest / longest time per position",
            0.85,
            min(per_position) / max(per_position),
            None,
            length_growth(by_length),
        )
    seconds = report["seconds"]
    faster = faster_in_tensorflow(seconds)
    ours = {system: seconds[f"{system}, {framework}"] for system, framework in faster.items()}
    profile = {
        system: f"training, {system}"
        + (", XLA" if faster[f"{system}, normalised"] == "TensorFlow XLA" else "")
        for system in ("hybrid", "LSTM VAE")
    }
    products = reports["profiles"]["products"][profile["hybrid"]] * ours["hybrid, normalised"]
    saved = operations_ratio(report)
    for kind, target, products_seconds in (("normalised", 1.8, products), ("plain", 0.9, None)):
        rival, hybrid = seconds[f"hybrid, {kind}, PyTorch"], ours[f"hybrid, {kind}"]
        yield Goal(
            f"training, hybrid, {kind}: speedup over PyTorch",
            target,
            rival / hybrid,
            products_seconds and rival / products_seconds,
            "In a step of the layer-normalised hybrid "
            f"{largest_shares(reports, profile['hybrid'])}.",
        )
        yield Goal(
            f"training, recurrence, {kind}: speed / speed of its matrix products",
            0.55,
            recurrence_fraction(report, kind, "TensorFlow", "TensorFlow XLA"),
            1.0,
            "In the layer-normalised recurrence under XLA "
            f"{largest_shares(reports, 'training, recurrence, XLA')}; in graph mode "
            f"{largest_shares(reports, 'training, recurrence')}.",
        )
        yield Goal(
            f"training, hybrid, {kind}: speedup over the LSTM VAE",
            2.0,
            ours[f"LSTM VAE, {kind}"] / hybrid,
            saved,
            f"Its matrix products take {saved:.2f} times fewer operations. "
            "In a step of the layer-normalised LSTM VAE "
            f"{largest_shares(reports, profile['LSTM VAE'])}.",
        )


def faster_in_tensorflow(seconds: Mapping[str, float]) -> dict[str, str]:
    """For each system, the faster of TensorFlow in graph mode and under XLA."""
    return {
        system: min(
            ("TensorFlow", "TensorFlow XLA"),
            key=lambda framework, system=system: seconds[f"{system}, {framework}"],
        )
        for system in (
            "hybrid, normalised",
            "hybrid, plain",
            "LSTM VAE, normalised",
            "LSTM VAE, plain",
        )
    }


def length_growth(by_length: Mapping[str, float]) -> str:
    """How the seconds of a step grow from the shortest to the longest T, and the constant part."""
    (short, first), (long, last) = (
        (int(length), by_length[length])
        for length in (min(by_length, key=int), max(by_length, key=int))
    )
    slope = (last - first) / (long - short)
    constant = first - slope * short
    text = f"From {short} to {long} positions a step grows by {1e3 * slope:.1f} ms per position"
    if constant < 0:
        return f"{text}; the first {short} positions take {1e3 * first / short:.1f} ms each."
    return (
        f"{text}; {1e3 * constant:.0f} ms, {constant / first:.0%} of the step at {short}, "
        "do not depend on the length."
    )


def data_goals(reports: Mapping[str, Report]) -> Iterator[Goal]:
    """Goals for the throughput of the pipeline."""
    report = reports["pipeline"]
    rates = report["examples_per_second"]
    loader = max(rate for name, rate in rates.items() if name.startswith("DataLoader"))
    limit = "The figures are in *Data*; the pipeline has not been profiled."
    one_thread = "One thread of Python reads the rows one by one; " + limit[0].lower() + limit[1:]
    for name, target, ratio, reason in (
        (
            "slowest pipeline: delivered / consumed by the fastest preset",
            10.0,
            report["times_fastest_model"],
            limit,
        ),
        ("lines in memory: speedup over a DataLoader", 3.0, report["times_loader"], limit),
        (
            "lines on disk: speedup over a DataLoader",
            3.0,
            rates["lines from disk"] / loader,
            one_thread,
        ),
    ):
        yield Goal(f"data, {name}", target, ratio, None, reason)


def startup_goals(reports: Mapping[str, Report]) -> Iterator[Goal]:
    """Goals for seconds and peak memory until the first text."""
    report = reports["startup"]
    for what, key, target, unit in (
        ("seconds", "seconds", 5.0, "s"),
        ("peak memory", "peak_megabytes", 3.0, "MB"),
    ):
        figures = report[key]
        ours = figures[f"kvae{FIRST_TEXT}"]
        limit = (
            f"kvae takes {ours:.3g} {unit}; "
            f"onnxruntime alone takes {figures[GRAPH_LOADED]:.3g} {unit} to load the graph, "
            "without sampling."
        )
        for name in ("SavedModel", "PyTorch, eager"):
            ratio = figures[name + FIRST_TEXT] / ours
            yield Goal(f"start-up: {what} of {name} / of kvae", target, ratio, None, limit)


def this_and_other(report: Report) -> str:
    """The chapter on this build beside another one."""
    return f"""{builds(report)}
{measured_on(report)}, median of {report["rounds"]}: `python benchmarks/builds.py`.
"""


def with_attention(report: Report) -> str:
    """The chapter on the hybrid that has a Transformer."""
    return f"""{attention(report)}

{other_machines("attention", speedups)}

{measured_on(report)}: `python benchmarks/attention.py`.
"""


CHAPTERS: dict[str, Callable[[Report], str]] = {
    "sampling": sampling,
    "builds": this_and_other,
    "training": training,
    "attention": with_attention,
    "pipeline": pipeline,
    "data": data,
    "startup": startup,
    "profiles": profiles,
}
"""Name of each result file, and what writes its chapter."""


def main() -> None:
    files = {name: RESULTS / f"{name}.json" for name in CHAPTERS}
    reports = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in files.items()
        if path.exists()
    }
    chapters = [CHAPTERS[name](report) for name, report in reports.items()]
    last = [goals(reports)] if set(CHAPTERS) <= set(reports) else []
    measured = RESULTS / "gpu.json"
    on_gpu = gpu(json.loads(measured.read_text(encoding="utf-8")) if measured.exists() else {})
    RESULTS.with_suffix(".md").write_text(
        "\n".join([HEAD, *chapters, on_gpu, *last]), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
