"""docs/performance.md out of the figures in docs/performance/, which the comparisons write.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from turns import PRODUCTS, RESULTS

Report = Mapping[str, Any]

HEAD = """# Performance

What one would use instead, beside kvae, on the same work: each rival in a process of its own, all in turn, medians. Made by
`python benchmarks/page.py` from the figures that the scripts of `benchmarks/` write into `docs/performance/`; each script says
at its top how to run it again, in `.venv` with PyTorch (`pip install --constraint constraints.txt --editable '.[benchmarks]'`).
Trust the ratios more than the speeds, and least at batch 1: on the shared machines these are of, two runs in a row differed by
up to a half there, and by a tenth at batch 64. Between machines they differ more, see the lines that begin with *On*: on
machines with slow memory every program here is limited by memory bandwidth, ours and the others.
"""


def made_on(report: Report) -> str:
    """The machine, and the versions of what was compared."""
    versions = ", ".join(
        f"{name} {version}" for name, version in report.get("versions", {}).items()
    )
    return "; ".join(filter(None, [report["machine"], versions]))


def elsewhere(name: str, ratios: Callable[[Report], Mapping[str, Sequence[float]]]) -> str:
    """How many times PyTorch's speed it was on other machines, whose figures lie beside as NAME-MACHINE.json."""
    lines = []
    for path in sorted(RESULTS.glob(f"{name}-*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        if not report.get("device"):
            found = "; ".join(
                f"{what} {', '.join(f'{ratio:.2f}' for ratio in each)}"
                for what, each in ratios(report).items()
            )
            lines.append(
                f"On {report['machine']}, times PyTorch's speed in the order of the columns: {found}."
            )
    return "\n\n".join(lines)


def writing_ratios(report: Report) -> dict[str, list[float]]:
    """Of each bundle, by batch."""
    return {
        name: [found["PyTorch"] / found[name] for found in report["seconds"].values()]
        for name in PRODUCTS_OF
    }


def training_ratios(report: Report) -> dict[str, list[float]]:
    """Of each system, by framework of ours."""
    seconds = report["seconds"]
    systems = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in seconds))
    ours = ("TensorFlow", "TensorFlow XLA", "JAX")
    return {
        system: [seconds[f"{system}, PyTorch"] / seconds[f"{system}, {name}"] for name in ours]
        for system in systems
    }


def sampling(report: Report) -> str:
    """Characters a second, and the ratios to PyTorch."""
    seconds, changed = report["seconds"], report["quantization"]
    names = [name for name in next(iter(seconds.values())) if not name.startswith("products")]
    rows = [
        f"| {name} | "
        + " | ".join(
            cell(int(batch), found, name, report["length"]) for batch, found in seconds.items()
        )
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
{report["length"]}), all with the same weights, trained for {report["steps"]} steps of 32 out of {report["texts"]:,} texts
({report["same_texts"]:.0%} of 64 greedy texts are equal between the bundle and PyTorch), and in brackets how many times
PyTorch's eager speed that is, and how long a batch takes. The last rows are what the products alone would allow, measured
at these sizes in the same run (by PyTorch or onnxruntime, whichever is faster; in eight bits those of the LSTM's state), and
which share of that the bundle reaches.

| batch | {" | ".join(seconds)} |
|---|{"---:|" * len(seconds)}
{chr(10).join(row + " |" for row in rows)}

The products of a position read {4 * report["weights"] / 1e6:.0f} MB of weights, whatever the batch: at batch 1 the bundle reads
{weights_per_second(report):.0f} GB/s of them. Memory reads and writes {report["memory_gigabytes_per_second"]:.0f} GB/s
(the triad of large arrays); what is read faster comes from the caches.

In eight bits the bound of {changed["texts"]} held-out texts is {changed["bound"]:.2f} nats instead of
{changed["bound_in_float32"]:.2f} ({worse(changed):+.2%}), {changed["likeliest_symbols_unchanged"]:.2%} of the likeliest next
symbols behind the true ones stay the same, and the files are {changed["size_ratio"]:.0%} as large.

{elsewhere("sampling", writing_ratios)}

{made_on(report)}, median of {report["rounds"]}: `python benchmarks/sampling.py`.
"""


PRODUCTS_OF = {"bundle": "products", "bundle, eight bits": "products, eight bits"}
"""The products that a bundle cannot do without."""


def cell(batch: int, found: Mapping[str, float], name: str, length: int) -> str:
    taken = found[name]
    return f"{batch * length / taken:,.0f} ({found['PyTorch'] / taken:.2f}; {1e3 * taken:,.0f} ms)"


def weights_per_second(report: Report) -> float:
    """Gigabytes of the products' weights that the bundle reads at batch 1."""
    return 4 * report["weights"] * report["length"] / report["seconds"]["1"]["bundle"] / 1e9


def share(found: Mapping[str, float], name: str = "bundle") -> float:
    """Of the speed that the products alone allow."""
    return found[PRODUCTS_OF[name]] / found[name]


def worse(changed: Mapping[str, float]) -> float:
    """By which share of itself the bound is higher in eight bits."""
    return changed["bound"] / changed["bound_in_float32"] - 1


def training(report: Report) -> str:
    """Examples a second of each system and framework."""
    return f"""## Training

{training_table(report)}

{recurrence_sentence(report)} The products of the LSTM VAE's step take {fewer_operations(report):.2f}
times the operations of the hybrid's. {growth_sentence(report)}

{elsewhere("training", training_ratios)}

{made_on(report)}, median of {report["rounds"]}: `python benchmarks/training_step.py`.
"""


def training_on_gpu(report: Report) -> str:
    """The same comparison on a GPU, where one was there."""
    return f"""## Training on a GPU

{training_table(report)}

{report["device"]}, {made_on(report)}, median of {report["rounds"]}:
`python benchmarks/training_step.py --frameworks JAX PyTorch --json docs/performance/training-gpu.json`.
"""


def training_table(report: Report) -> str:
    """Examples a second, the ratio to PyTorch and the share of the machine's largest speed."""
    seconds, batch = report["seconds"], report["batch"]
    systems = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in seconds))
    frameworks = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name in seconds))

    def shown(system: str, framework: str) -> str:
        taken = seconds[f"{system}, {framework}"]
        peak = share_of_peak(report, system.partition(", ")[0], taken)
        return f"{batch / taken:,.0f} ({seconds[f'{system}, PyTorch'] / taken:.2f}; {peak:.0%})"

    rows = "\n".join(
        f"| {system}, {report['parameters'][f'{system}, {frameworks[0]}'] / 1e6:.2f} M | "
        + " | ".join(shown(system, framework) for framework in frameworks)
        + " |"
        for system in systems
    )
    return f"""Examples a second, T {report["length"]}, LSTM 500, batch {batch}, and in brackets how many times PyTorch's speed
that is (its layer-normalised LSTM is written by hand, its plain one is `nn.LSTM`), and the percentage of peak matrix throughput
that a step reaches. The peak is {report["peak_gflops"]:,.0f} GFLOP/s, measured on the product of two large matrices in single
precision. Memory reads and writes {report["memory_gigabytes_per_second"]:,.0f} GB/s.

| system | {" | ".join(frameworks)} |
|---|{"---:|" * len(frameworks)}
{rows}"""


def share_of_peak(report: Report, system: str, seconds: float) -> float:
    """Of the largest speed of products, by the operations of a step."""
    return report["operations"][system] / seconds / report["peak_gflops"] / 1e9


def recurrence_sentence(report: Report) -> str:
    """Which share of the speed of its products the recurrence alone reaches."""
    ways = ("TensorFlow", "TensorFlow XLA", "JAX")
    shares = "; ".join(
        f"{kind} "
        + ", ".join(f"{share_of_recurrence(report, kind, way):.0%} on {way}" for way in ways)
        for kind in ("normalised", "plain")
    )
    return f"""The recurrence alone, forward and backward, beside its products, which the machine computes at
{report["products_gflops"]:.0f} GFLOP/s (by TensorFlow or PyTorch, whichever is faster): {shares}."""


def growth_sentence(report: Report) -> str:
    """Milliseconds a position by the number of positions."""
    return (
        "Milliseconds a position of the hybrid's step: "
        + "; ".join(
            f"{name} "
            + ", ".join(
                f"{1e3 * taken / int(length):.1f} at {length}" for length, taken in lengths.items()
            )
            for name, lengths in report["lengths"].items()
        )
        + "."
    )


def share_of_recurrence(report: Report, kind: str, *ways: str) -> float:
    """Of the speed that the recurrence's products alone allow, by the fastest of some ways."""
    alone = report["recurrence"]
    products = min(taken for name, taken in alone.items() if name.startswith("products"))
    return products / min(alone[f"recurrence, {kind}, {way}"] for way in ways)


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

{made_on(report)}, median of {report["rounds"]}: `python benchmarks/pipeline.py`.
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
    whole, alone = report["kvae"], report["kvae-text-serving"]
    return f"""## Start

From the start of a process to the end of its first text, the tweet-sized hybrid, T 128, and in brackets how many times ours
that is.

| | seconds | peak memory, MB |
|---|---:|---:|
{rows}

Of ours, {seconds[OPENED]:.2f} s and {peak[OPENED]:.0f} MB are those of onnxruntime that opens the same graph unchecked and
writes nothing. `import kvae.serving` takes {imports:.2f} times what `import numpy, onnxruntime` takes. With its byte-code
kvae-text-serving adds {alone["installed"]:.2f} MB to numpy, onnxruntime and what those need
({alone["numpy and onnxruntime"]:.0f} MB); kvae, which holds training and export too, {whole["installed"]:.2f} MB
({whole["source"]:.2f} of source).

{made_on(report)}, median of {report["rounds"]}: `python benchmarks/startup.py`.
"""


def profiles(report: Report) -> str:
    """Shares of the time by operation."""
    rows = "\n".join(
        f"| {name} | "
        + ", ".join(f"{operation} {share:.0%}" for operation, share in shares.items())
        + " |"
        for name, shares in report["shares"].items()
    )
    return f"""## What limits it

Where the time goes, by kind of operation, on one thread: the graphs of *Writing* by onnxruntime's profile; a step of the
layer-normalised hybrid and LSTM VAE of *Training* and the recurrence alone, there and back, by TensorFlow's, as graphs and
under XLA (*fused* is what it has made of neighbouring operations). To note an operation takes longer than a small one: at
batch 1 the products' share is larger than it seems here, see the rows of products above.

| | share of the time in operations |
|---|---|
{rows}

{made_on(report)}: `python benchmarks/profiles.py`.
"""


class Aim(NamedTuple):
    """What is compared, the ratio that was wanted, the one that is measured, that with free operations other than products,
    and what limits it."""

    name: str
    wanted: float
    found: float
    most: float | None
    limit: str

    @property
    def reached(self) -> bool:
        return self.found >= self.wanted


def aims(reports: Mapping[str, Report]) -> str:
    """What was wanted, what is reached, and why not."""
    every = [
        aim
        for chapter in (writing_aims, training_aims, data_aims, start_aims)
        for aim in chapter(reports)
    ]
    rows = "\n".join(
        f"| {aim.name} | {aim.wanted:g} | {aim.found:.4g} | {'yes' if aim.reached else 'no'} | "
        f"{f'{aim.most:.2f}' if aim.most else ''} |"
        for aim in every
    )
    limits = "\n".join(
        f"- *{aim.name}*: {aim.found:.2f} of {aim.wanted:g}. {aim.limit}"
        for aim in every
        if not aim.reached
    )
    return f"""## What was aimed at

The last column is what would be measured if products of matrices took as long as they do and everything else of ours nothing:
for writing by the measured speed of the products alone, for a training step by the shares above. What lies beyond it needs
faster products, not fewer other operations. Between the hybrid and the LSTM VAE it is the ratio of the operations of their
products, what the hybrid saves by itself.

| times | wanted | measured | reached | with free other operations |
|---|---:|---:|---|---:|
{rows}

What limits those that are not reached, by the profiles above:

{limits}
"""


def profiled(reports: Mapping[str, Report], name: str) -> str:
    """What takes the time, by the profile of that name: the products, and the largest others."""
    report = reports["profiles"]
    others = [
        f"{operation} {part:.0%}"
        for operation, part in report["shares"][name].items()
        if operation not in (*PRODUCTS, "others")
    ]
    return f"products take {report['products'][name]:.0%} of the time in operations, " + ", ".join(
        others[:4]
    )


def writing_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    report = reports["sampling"]
    seconds, changed = report["seconds"], report["quantization"]
    profile = {"bundle": "writing", "bundle, eight bits": "writing in eight bits"}
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
        limit = (
            f"The products alone would take {share(found, name):.0%} of its time; in the profile of one thread "
            f"{profiled(reports, f'{profile[name]}, batch {batch}')}."
        )
        if name == "bundle":
            limit += by_onnxruntime(found)
        yield Aim(
            f"writing, {name}, batch {batch}, the speed of {rival}",
            wanted,
            found[rival] / found[name],
            most,
            limit,
        )
    yield Aim(
        "writing, bundle, batch 64, the speed of the products alone",
        0.85,
        share(seconds["64"]),
        1.0,
        f"In the profile of one thread {profiled(reports, 'writing, batch 64')}.{by_onnxruntime(seconds['64'])}",
    )
    for what, wanted, kept in (
        ("the bound", 0.995, 1 / (1 + worse(changed))),
        ("likeliest symbols", 0.99, changed["likeliest_symbols_unchanged"]),
    ):
        limit = f"Of {changed['texts']:,} held-out texts; more bits would keep more."
        yield Aim(f"writing, bundle, eight bits, {what} of float32", wanted, kept, None, limit)


def by_onnxruntime(found: Mapping[str, float]) -> str:
    """How near onnxruntime's products, which a bundle has to use, come to those of the faster."""
    part = found["products"] / found["products, by onnxruntime"]
    return (
        f" Onnxruntime computes these products at {part:.0%} of the speed of the faster library."
        if part < 0.95
        else ""
    )


def training_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    report = reports["training"]
    seconds = report["seconds"]
    faster = {
        system: min(
            ("TensorFlow", "TensorFlow XLA"),
            key=lambda name, system=system: seconds[f"{system}, {name}"],
        )
        for system in (
            "hybrid, normalised",
            "hybrid, plain",
            "LSTM VAE, normalised",
            "LSTM VAE, plain",
        )
    }
    ours = {system: seconds[f"{system}, {name}"] for system, name in faster.items()}
    profile = {
        system: f"training, {system}"
        + (", XLA" if faster[f"{system}, normalised"] == "TensorFlow XLA" else "")
        for system in ("hybrid", "LSTM VAE")
    }
    for framework, lengths in report["lengths"].items():
        each = [taken / int(length) for length, taken in lengths.items()]
        yield Aim(
            f"training, hybrid on {framework}, time a position, the shortest of the longest",
            0.85,
            min(each) / max(each),
            None,
            growth(lengths),
        )
    products = reports["profiles"]["products"][profile["hybrid"]] * ours["hybrid, normalised"]
    fewer = fewer_operations(report)
    for kind, wanted, least in (("normalised", 1.8, products), ("plain", 0.9, None)):
        rival, hybrid = seconds[f"hybrid, {kind}, PyTorch"], ours[f"hybrid, {kind}"]
        yield Aim(
            f"training, hybrid, {kind}, the speed of PyTorch",
            wanted,
            rival / hybrid,
            least and rival / least,
            f"In a step of the normalised one {profiled(reports, profile['hybrid'])}.",
        )
        yield Aim(
            f"training, recurrence, {kind}, the speed of its products",
            0.55,
            share_of_recurrence(report, kind, "TensorFlow", "TensorFlow XLA"),
            1.0,
            f"Of the normalised one under XLA {profiled(reports, 'training, recurrence, XLA')}; as a graph "
            f"{profiled(reports, 'training, recurrence')}.",
        )
        yield Aim(
            f"training, hybrid, {kind}, the speed of the LSTM VAE",
            2.0,
            ours[f"LSTM VAE, {kind}"] / hybrid,
            fewer,
            f"Its products have {fewer:.2f} times fewer operations; in a step of the normalised LSTM VAE "
            f"{profiled(reports, profile['LSTM VAE'])}.",
        )


def growth(lengths: Mapping[str, float]) -> str:
    """How a step grows, and what of the shortest does not."""
    (short, first), (long, last) = (
        (int(length), lengths[length]) for length in (min(lengths, key=int), max(lengths, key=int))
    )
    each = (last - first) / (long - short)
    fixed = first - each * short
    text = f"From {short} to {long} positions a step grows by {1e3 * each:.1f} ms a position"
    if fixed < 0:
        return f"{text}, where the first {short} take {1e3 * first / short:.1f} each."
    return f"{text}; {1e3 * fixed:.0f} ms, {fixed / first:.0%} of the step at {short}, do not grow."


def data_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    report = reports["pipeline"]
    for what, wanted, key in (
        ("slowest pipeline, the fastest preset's need", 10.0, "times_fastest_model"),
        ("lines in memory, the speed of a DataLoader", 3.0, "times_loader"),
    ):
        yield Aim(
            f"data, {what}",
            wanted,
            report[key],
            None,
            "Both stand in *Data*; what the pipeline does is not profiled.",
        )


def start_aims(reports: Mapping[str, Report]) -> Iterator[Aim]:
    report = reports["startup"]
    for what, key, wanted, unit in (
        ("seconds", "seconds", 5.0, "s"),
        ("peak memory", "peak_megabytes", 3.0, "MB"),
    ):
        found = report[key]
        limit = (
            f"Of ours, {found[f'kvae{ENDING}']:.3g} {unit}, {found[OPENED]:.3g} are onnxruntime's, which opens the graph and "
            "writes nothing."
        )
        for name in ("SavedModel", "PyTorch, eager"):
            ratio = found[name + ENDING] / found[f"kvae{ENDING}"]
            yield Aim(f"start, {what} of {name}, of ours", wanted, ratio, None, limit)


CHAPTERS: dict[str, Callable[[Report], str]] = {
    "sampling": sampling,
    "training": training,
    "training-gpu": training_on_gpu,
    "pipeline": pipeline,
    "startup": startup,
    "profiles": profiles,
}


def main() -> None:
    files = {name: RESULTS / f"{name}.json" for name in CHAPTERS}
    reports = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in files.items()
        if path.exists()
    }
    chapters = [CHAPTERS[name](report) for name, report in reports.items()]
    last = [aims(reports)] if set(CHAPTERS) - {"training-gpu"} <= set(reports) else []
    RESULTS.with_suffix(".md").write_text("\n".join([HEAD, *chapters, *last]), encoding="utf-8")


if __name__ == "__main__":
    main()
