"""Compare the samplers of this build with those of another build, on the same weights.

    python benchmarks/builds.py --beside PYTHON [--rounds 5]

`--beside` is the Python of an environment with another build. Both export two models with the same
random weights: one with the sizes of `kvae demo`, and the tweet-sized hybrid (preset
`hybrid-lstm-tweets`: latent code of 100, a layer-normalised LSTM of 1,000 units, T 128). Neither is
trained. The bias of END is such that texts have a natural length: about half of the positions on
average.

Each bundle is a worker with its own build, on one thread, and the workers take turns. Figures are
medians of processor seconds, since other programs may run on the machine. `--models` and
`--parts` measure some figures again and keep the others. Times to the first text
and peak memory are those of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from turns import Worker, argument_parser, serve_requests, write_report

FOLDER = Path("runs/benchmarks/builds")
THIS, OTHER = "this", "other"
DEMO = {
    "model.length": 16,
    "model.vocabulary_size": 1255,
    "model.latent_size": [128],
    "model.encoder_embedding": 128,
    "model.encoder_units": [128, 256],
    "model.expander_filters": [256, 128],
    "model.expander_base": 128,
    "model.head_units": 256,
}
TWEETS = {"model.length": 128, "model.vocabulary_size": 259}
MODELS: dict[str, tuple[str, dict[str, Any], float]] = {
    "demo": ("hybrid-lstm", DEMO, 5.9),
    "tweets": ("hybrid-lstm-tweets", TWEETS, 1.0),
}
"""The models: preset, settings and the bias of END. The demo has no skip connection, which the
other build does not know."""

KINDS = {THIS: ("float32", "int8", "int8-latency"), OTHER: ("float32", "int8")}
BATCHES = {1: 5, 64: 1}
"""Batch sizes, with the turns of each round. One text takes so little time that the other programs
on the machine change a single turn by a third."""

ROWS_OF_PEAK = 256
MANY_NUMBERS = 10**6
"""Numbers per byte of a graph. Commit 9d60887 counts the constants of its own eight-bit bundles
wrongly and refuses them."""

PROCESS = """
import sys, time
started = time.perf_counter()
import numpy as np
from kvae.serving import Sampler, bundle
from kvae.serving.choices import choices
bundle.NUMBERS_PER_BYTE = 10**6
sampler, rows = Sampler.load(sys.argv[1], threads=1), np.arange(int(sys.argv[2]))
chosen = choices(sampler.manifest, min_length=sampler.length)
sampler.write_ids(np.zeros((0, sampler.latent_size), np.float32), 0 * rows, rows, chosen)
print(time.perf_counter() - started)
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024)
"""
"""Samples texts of full length and prints seconds and megabytes. Works on older builds too."""


def export(name: str, kind: str, path: str) -> None:
    """Export a model with random weights. Works on older builds too."""
    import inspect

    import keras

    from kvae.export import bundle
    from kvae.model import TextVAE
    from kvae.presets import preset
    from kvae.serving import bundle as checks
    from kvae.serving.alphabet import SPECIALS, Alphabet

    checks.NUMBERS_PER_BYTE = MANY_NUMBERS
    base, settings, end = MODELS[name]
    keras.utils.set_random_seed(0)
    given = {**settings, "data.mode": "lines", "data.source": "unicode-names"}
    config = preset(base).with_settings(given)
    model = TextVAE(config.model, config.objective)
    kernel, bias = model.head.classify.kernel, model.head.classify.bias
    generator = np.random.default_rng(0)
    kernel.assign(generator.normal(0, 3 / np.sqrt(kernel.shape[0]), kernel.shape))
    values = generator.normal(0, 0.1, bias.shape)
    values[SPECIALS.index("<end>")] = end
    bias.assign(values)
    symbols = [chr(0x4E00 + number) for number in range(len(values) - len(SPECIALS))]
    accepted = inspect.signature(bundle.write_bundle).parameters
    options = {"weights": kind} if "weights" in accepted else {"int8": kind == "int8"}
    options |= {"with_map": False} if "with_map" in accepted else {}
    bundle.write_bundle(model, Alphabet(tuple(symbols)), config, path, **options)


def answers(path: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: processor seconds of a batch of full length, or of many texts."""
    from kvae.serving import Sampler, bundle
    from kvae.serving.choices import choices

    bundle.NUMBERS_PER_BYTE = MANY_NUMBERS
    sampler = Sampler.load(path, threads=1)
    full = choices(sampler.manifest, min_length=sampler.length)
    code = np.zeros((0, sampler.latent_size), np.float32)

    def sample(rows: int) -> None:
        places = np.arange(rows)
        sampler.write_ids(code, 0 * places, places, full)

    def answer(batch: int = 0, texts: int = 0) -> dict[str, Any]:
        if texts:
            started = time.process_time()
            lengths = [len(text) for text in sampler.sample(texts, seed=0)]
            taken = time.process_time() - started
            return {"seconds": taken, "length": statistics.mean(lengths)}
        sample(batch)
        seconds: list[float] = []
        while sum(seconds) < 0.05:
            started = time.process_time()
            sample(batch)
            seconds.append(time.process_time() - started)
        return {"seconds": statistics.median(seconds)}

    return answer


def bundles(options: argparse.Namespace) -> Iterator[tuple[str, str, str, Path]]:
    """Model, Python, "kind, build" and path of each bundle, which is exported if it is missing."""
    for build, python in ((OTHER, options.beside), (THIS, sys.executable)):
        for name in options.models:
            for kind in KINDS[build]:
                path = FOLDER.resolve() / f"{build}-{name}-{kind}"
                if not path.exists():
                    command = [python, __file__, "--rival", f"{name} {kind}", "--make", str(path)]
                    subprocess.run(command, check=True)
                yield name, python, f"{kind}, {build}", path


Found = list[tuple[str, str, Path]]
"""Python, label and path of each bundle of a model."""


def process(python: str, path: Path, rows: int) -> list[float]:
    """Seconds and megabytes of a process that samples `rows` texts of full length."""
    command = [python, "-c", PROCESS, str(path), str(rows)]
    done = subprocess.run(command, check=True, capture_output=True)
    return [float(number) for number in done.stdout.split()]


def medians(answers: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    """The medians of all answers by label."""
    return {
        label: [statistics.median(numbers) for numbers in zip(*every, strict=True)]
        for label, every in answers.items()
    }


def in_turn(found: Found, rounds: int, **request: int) -> dict[str, list[float]]:
    """The median answers of a worker for each bundle, over rounds in which they take turns."""
    workers = {label: Worker(__file__, str(path), python=python) for python, label, path in found}
    answers: dict[str, list[list[float]]] = {label: [] for label in workers}
    for _ in range(rounds):
        for label, worker in workers.items():
            answers[label].append(list(worker.ask(**request).values()))
    for worker in workers.values():
        worker.close()
    return medians(answers)


def times(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Processor milliseconds of batches of full length."""
    taken = {
        batch: in_turn(found, options.rounds * rounds, batch=batch)
        for batch, rounds in BATCHES.items()
    }
    return {
        "milliseconds": {
            str(batch): {label: 1000 * seconds for label, (seconds,) in by_label.items()}
            for batch, by_label in taken.items()
        }
    }


def texts(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Texts of natural length a second, in float32, and their mean length in tokens."""
    chosen = [bundle for bundle in found if "float32" in bundle[1]]
    taken = in_turn(chosen, max(1, options.rounds // 3), texts=options.texts)
    return {
        "texts": options.texts,
        "texts_per_second": {label: options.texts / one for label, (one, _) in taken.items()},
        "mean_length": {label: length for label, (_, length) in taken.items()},
    }


def memory(found: Found, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and megabytes of processes with one text, megabytes of those with many."""
    first: dict[str, list[list[float]]] = {label: [] for _, label, _ in found}
    for _ in range(options.rounds):
        for python, label, path in found:
            first[label].append(process(python, path, 1))
    peak = {label: process(python, path, ROWS_OF_PEAK)[1] for python, label, path in found}
    return {"first": medians(first), "peak": peak}


PARTS = {"times": times, "texts": texts, "memory": memory}
"""What is measured, by name."""


def figures_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a model."""
    found = [bundle[1:] for bundle in bundles(options) if bundle[0] == name]
    report: dict[str, Any] = {}
    for part in options.parts:
        report |= PARTS[part](found, options)
        print(name, part, report, flush=True)
    return report


def main() -> None:
    parser = argument_parser(__doc__, "builds", rounds=5)
    parser.add_argument("--beside", help="Python of an environment with another build")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--texts", type=int, default=10_000, help="texts of natural length")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        export(*options.rival.split(), options.make)
    elif options.rival:
        serve_requests(answers(options.rival))
    else:
        earlier = json.loads(options.json.read_text()) if options.json.exists() else {"models": {}}
        figures = earlier["models"]
        for name in options.models:
            figures[name] = {**figures.get(name, {}), **figures_of(name, options)}
        write_report(options.json, {"models": figures, "rounds": options.rounds})


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
