"""The sections of `gpu.py`. Each yields what it has measured, as dicts that are merged."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_steps import (
    ATTENTION,
    PRECISIONS,
    VARIANTS,
    Case,
    configuration,
    kvae_model,
    operations,
    steps_of,
)
from turns import Worker, bandwidth, mean_seconds, versions

Found = Iterator[dict[str, Any]]

HAS_PYTORCH = importlib.util.find_spec("torch") is not None
FRAMEWORKS = ["JAX", "PyTorch"] if HAS_PYTORCH else ["JAX"]
ROUNDS = 3
"""Turns of each program."""

SCRIPT = str(Path(__file__).with_name("gpu.py"))


def machine(options: argparse.Namespace) -> Found:
    """Devices and versions, the throughput of matrix products, and the memory bandwidth.

    The products are those of a recurrence with 500 and with 1,000 units, (B, n) x (n, 4 n), and of
    two large matrices.
    """
    import jax
    import jax.numpy as jnp

    devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    yield {"devices": devices, "versions": versions()}
    largest, units, batches = (256, (32,), (8,)) if options.rehearse else (8192, (500, 1000), None)
    shapes = [(largest, largest, largest)]
    shapes += [(b, n, 4 * n) for n in units for b in batches or (64, 256, 1024)]
    for precision, (rows, inner, columns) in itertools.product(PRECISIONS, shapes):
        rate = product_gflops(rows, inner, columns, precision)
        yield {"gflops": {f"{precision}, {rows} x {inner} x {columns}": round(rate, 1)}}
    size = 2**20 if options.rehearse else 2**28
    b, c = jnp.ones(size), jnp.ones(size)
    triad = jax.jit(lambda b, c: b + 3.0 * c)
    seconds = mean_seconds(lambda: triad(b, c).block_until_ready())
    yield {"memory_gigabytes_per_second": round(bandwidth(seconds, size), 1)}


def product_gflops(rows: int, inner: int, columns: int, precision: str, turns: int = 16) -> float:
    """Throughput of the product (rows, inner) x (inner, columns), `turns` of them one after
    another in a compiled loop, each with the result of the one before."""
    import jax
    import jax.numpy as jnp

    kind = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    level = {"float32": "highest", "TF32": "tensorfloat32"}.get(precision)
    left, right = jnp.ones((rows, inner), kind), jnp.full((inner, columns), 1e-4, kind)

    def again(turn: int, left: Any) -> Any:
        return jnp.matmul(left, right, precision=level)[:, :inner]

    run = jax.jit(lambda left: jax.lax.fori_loop(0, turns, again, left))
    seconds = mean_seconds(lambda: run(left).block_until_ready()) / turns
    return 2 * rows * inner * columns / seconds / 1e9


def cases(options: argparse.Namespace) -> list[Case]:
    """What is timed, in order of worth."""
    if options.rehearse:
        return [
            Case("hybrid", "normalised", "float32", 4, True),
            Case("LSTM VAE", "plain", "bfloat16", 4, True),
            Case(ATTENTION, "plain", "bfloat16", 4, True),
        ]
    order = itertools.product((256, 64, 1024), ("float32", "bfloat16", "TF32"), VARIANTS)
    return [Case(*variant, precision, batch) for batch, precision, variant in order]


def training(options: argparse.Namespace) -> Found:
    """Seconds of a training step on JAX and in PyTorch, in turn; and compiled, where time is left.

    A failure is written down in place of the seconds.
    """
    every = cases(options)
    if HAS_PYTORCH:
        counted = {case.system: case for case in every}
        yield {"operations": {name: operations(case) for name, case in counted.items()}}
    turn = 0.05 if options.rehearse else 0.4
    workers = {name: Worker(SCRIPT, name) for name in FRAMEWORKS}
    for case in every:
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        failures, parameters = {}, {}
        for number, name in itertools.product(range(ROUNDS + 1), list(workers)):
            if name in failures:
                continue
            try:
                response = workers[name].ask(case=case, turn=turn)
            except RuntimeError as error:
                failures[name] = str(error).partition(";")[0]
                workers[name] = Worker(SCRIPT, name)
                continue
            parameters[name] = response["parameters"]
            if number:
                seconds[name].append(response["seconds"])
        medians = {name: statistics.median(found) for name, found in seconds.items() if found}
        yield {"steps": {case.name: {**medians, **failures, "parameters": parameters}}}
    for worker in workers.values():
        worker.close()
    if HAS_PYTORCH and not options.rehearse:
        yield from compiled_steps(every, turn)


def compiled_steps(every: list[Case], turn: float) -> Found:
    """Seconds of a step that PyTorch has compiled, of the plain systems."""
    worker = Worker(SCRIPT, "PyTorch, compiled")
    for case in (case for case in every if case.kind == "plain"):
        found = [worker.ask(case=case, turn=turn)["seconds"] for _ in range(ROUNDS + 1)]
        yield {"compiled": {case.name: statistics.median(found[1:])}}
    worker.close()


def lines_file(folder: str, count: int, longest: int) -> Path:
    """A file of random lines of lower-case letters."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz    ", np.uint8)
    ends = generator.integers(longest // 2, longest, count)
    drawn = letters[generator.integers(0, len(letters), (count, longest))]
    path = Path(folder) / "lines.txt"
    lines = (bytes(row[:end]).decode().strip() + "x" for row, end in zip(drawn, ends, strict=True))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pipeline(options: argparse.Namespace) -> Found:
    """Examples a second that reach the device, and the part of a step's time that it waits."""
    import jax

    from kvae.training import prepare
    from kvae.training.data.pipeline import training_stream

    case = Case("hybrid", "plain", "bfloat16", 4 if options.rehearse else 256, options.rehearse)
    count, steps = (500, 4) if options.rehearse else (200_000, 200)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(case)
        path = lines_file(folder, count, config.model.length)
        settings = {
            "data.source": str(path),
            "model.vocabulary_size": 0,
            "training.batch_size": case.batch,
        }
        prepared = prepare(config.with_settings(settings), say=lambda sentence: None)
        feed = training_stream(prepared)
        reading = (jax.device_put(batch) for batch in feed)
        batch = next(reading)
        seconds = mean_seconds(
            lambda: [next(reading).block_until_ready() for _ in range(steps)], minimum=0.5
        )
        yield {"delivered_per_second": round(steps * case.batch / seconds)}
        model = kvae_model(case, prepared.config)
        rows = np.tile(np.asarray(batch), (steps, 1))
        fits: dict[str, Callable[[], Any]] = {
            "from memory": lambda: model.fit(rows, batch_size=case.batch, shuffle=False, verbose=0),
            "from the pipeline": lambda: model.fit(
                training_stream(prepared), steps_per_epoch=steps, verbose=0
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in fits}
        for number in range(ROUNDS + 1):
            for name, fit in fits.items():
                started = time.perf_counter()
                fit()
                if number:
                    found[name].append((time.perf_counter() - started) / steps)
        yield {"seconds": {name: statistics.median(values) for name, values in found.items()}}


PRODUCTS = re.compile(r"gemm|dot|matmul|cublas|conv|cudnn|nvjet|cutlass|addmm|\bmm\b|lstm", re.I)


def kind_of(name: str) -> str:
    """Kind of an operation: "matrix products", "copies" or its name without numbers."""
    if PRODUCTS.search(name):
        return "matrix products"
    if re.search(r"copy|memcpy|transpose", name, re.I):
        return "copies"
    plain = re.sub(r"(_\d+)?(\.\d+)*$", "", name)
    return "fused" if "fusion" in plain else plain.removeprefix("wrapped_")[:40]


def jax_profile(run: Callable[[int], Any]) -> Counter[str]:
    """Nanoseconds by kind of operation of three steps on JAX."""
    import jax
    from jax.profiler import ProfileData

    run(2)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(3)
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = ProfileData.from_file(str(file))
    nanoseconds: Counter[str] = Counter()
    for plane in data.planes:
        for event in (event for line in plane.lines for event in line.events):
            stats = dict(event.stats)
            container = re.match(r"(while|call|conditional)\b", event.name)
            if "hlo_op" in stats and not container:
                nanoseconds[kind_of(str(stats["hlo_op"]))] += event.duration_ns
    return nanoseconds


def pytorch_profile(run: Callable[[int], Any]) -> Counter[str]:
    """Microseconds by kind of operation of three steps in PyTorch, of its GPU if there is one."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    has_gpu = torch.cuda.is_available()
    run(2)
    with profile(activities=[ProfilerActivity.CUDA if has_gpu else ProfilerActivity.CPU]) as found:
        run(3)
    microseconds: Counter[str] = Counter()
    for item in found.key_averages():
        taken = item.self_device_time_total if has_gpu else item.self_cpu_time_total
        microseconds[kind_of(item.key)] += taken
    return microseconds


def profile(options: argparse.Namespace) -> Found:
    """Shares of the time of a step by kind of operation, the eight largest and all others."""
    profilers = {"JAX": jax_profile, "PyTorch": pytorch_profile}
    batch = 4 if options.rehearse else 256
    for system, kind in VARIANTS:
        case = Case(system, kind, "bfloat16", batch, options.rehearse)
        for framework in FRAMEWORKS:
            found = profilers[framework](steps_of(framework, case)[0])
            largest = {name: value / found.total() for name, value in found.most_common(8)}
            shares = {**largest, "others": max(1 - sum(largest.values()), 0.0)}
            yield {f"{case.name}, {framework}": shares}
        if options.rehearse:
            return


def run(options: argparse.Namespace) -> Found:
    """Minutes of `hybrid-lstm-tweets` at the paper's size: bound, KL and samples at the end.

    A run that is there already goes on.
    """
    if options.tweets is None and not options.rehearse:
        yield {"ended": "left out: no --tweets"}
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        data = options.tweets or lines_file(folder, 400, 16)
        settings = {"training.precision": "mixed_bfloat16", "data.too_long": "drop"}
        arguments = ["--preset", "hybrid-lstm-tweets", "--tokenizer", "byte", "--batch-size", "256"]
        if options.rehearse:
            settings = {"model.head_units": 16, "training.steps_per_epoch": 2}
            arguments = ["--preset", "hybrid-lstm", "--steps", "4", "--batch-size", "16"]
        command = [sys.executable, "-P", "-m", "kvae", "train", *arguments, "--data", str(data)]
        command += [f"--set={key}={value}" for key, value in settings.items()]
        command += ["--resume", "--out", str(options.out)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(options.seconds - (10 if options.rehearse else 60))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
    if process.returncode:
        raise RuntimeError(f"kvae train ended with {process.returncode}")
    evaluation = json.loads((options.out / "report/evaluation.json").read_text(encoding="utf-8"))
    numbers = {key: value for key, value in evaluation.items() if isinstance(value, int | float)}
    yield {"minutes": (time.monotonic() - started) / 60, "evaluation": numbers}
    yield {"samples": samples_of(options.out, 8)}


def samples_of(folder: Path, count: int) -> list[str]:
    """Greedy samples from the prior of a run."""
    from kvae.decoding import greedy
    from kvae.runs import load_run
    from kvae.training.generation import compiled_step, decoded_texts, prior_codes

    trained = load_run(folder)
    codes = prior_codes(trained.model, count, seed=0)
    return decoded_texts(trained, codes, greedy, compiled_step(trained.model.head))


def sampler(options: argparse.Namespace) -> Found:
    """Characters a second of the bundle on the cores, and of PyTorch on its fastest device.

    Samples have full length. The model is the PTB-sized hybrid, and has learned nothing.
    """
    folder = options.packed / "sampler"
    if not folder.exists():
        yield {"ended": f"left out: no {folder} (make gpu-wheels)"}
        return
    from kvae.serving import Sampler

    ours = Sampler.load(folder / "bundle")
    programs: dict[str, Callable[[int], Any]] = {
        "bundle": lambda batch: ours.generate(batch, seed=0, min_length=ours.length)
    }
    if HAS_PYTORCH:
        programs["PyTorch"] = pytorch_sampler(folder / "shapes.json", ours.length)
    for batch in (2,) if options.rehearse else (1, 64, 256):
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _, (name, sample) in itertools.product(range(ROUNDS), programs.items()):
            seconds[name].append(mean_seconds(functools.partial(sample, batch)))
        rates = {
            name: batch * ours.length / statistics.median(values)
            for name, values in seconds.items()
        }
        yield {"characters_per_second": {str(batch): rates}}


def pytorch_sampler(shapes: Path, length: int) -> Callable[[int], Any]:
    """Samples of full length in PyTorch, on its fastest device, of random weights."""
    import torch
    from pytorch_models import Sampler
    from turns import fastest_device

    device = fastest_device()
    generator = np.random.default_rng(0)
    arrays = {
        name: 0.1 * generator.random(shape, np.float32)
        for name, shape in json.loads(shapes.read_text(encoding="utf-8")).items()
    }
    model = Sampler(arrays, length).to(device)
    mask = torch.zeros(len(arrays["classify/bias"]), device=device)
    mask[:4] = -1e9  # no END, so that every sample has full length
    code = arrays["grid/kernel"].shape[0]
    return lambda batch: (
        model.sample(torch.randn(batch, code, device=device), False, mask).cpu().numpy()
    )


def pack_sampler(folder: Path) -> None:
    """Write what the section `sampler` needs: a bundle of the PTB-sized hybrid, and the shapes of
    its weights."""
    from kvae.runs import load_run

    with tempfile.TemporaryDirectory() as temporary:
        trained = Path(temporary) / "run"
        kvae = [sys.executable, "-P", "-m", "kvae"]
        train = f"train --preset hybrid-lstm-ptb --steps 1 --data {lines_file(temporary, 2000, 60)}"
        quick = ["--batch-size=2", "--set=training.jit_compile=false"]
        subprocess.run([*kvae, *train.split(), *quick, "--out", trained], check=True)
        subprocess.run([*kvae, "export", trained, folder / "bundle"], check=True)
        model = load_run(trained).model
    parts = [*model.expander.weights, *model.head.weights]
    shapes = {"/".join(weight.path.split("/")[-2:]): list(weight.shape) for weight in parts}
    (folder / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
