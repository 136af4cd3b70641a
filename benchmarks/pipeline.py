"""Does training ever wait for its data?

    python benchmarks/pipeline.py [--rounds 7] [--presets NAME ...]

Examples per second that the pipeline delivers (tokens in memory and on disk, lines and windows), beside those that small
presets consume from a batch that is always there, those of a PyTorch `DataLoader` over the same lines (in its own process
and with two workers) and of a generator in plain Python, round by round in turn; and lines per second of the pipeline cold,
from the opening of the file to the end of the first epoch. Printed are medians. PyTorch has to be there
(the extra `benchmarks`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from turns import Rival, arguments, serve, timed, written

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.presets import preset
from kvae.training.corpora import prepare, unicode_names
from kvae.training.pipeline import training_stream

BATCH = 128
BATCHES = 300
STEPS = 20
LENGTH = 48

FASTEST = (
    "cnn-small",
    "cnn-map-toy-small",
    "cnn-dense-toy-small",
    "historyless-cnn-ptb-small",
    "lstm-lm-ptb-small",
)
"""Small presets without a recurrence over positions, and the smallest with one."""


def main() -> None:
    options = parsed()
    if options.rival:
        serve(RIVALS[options.rival](Path(options.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KVAE_DATA"] = folder
        file = Path(folder) / "names.txt"
        file.write_text("\n".join(unicode_names()) + "\n", encoding="utf-8")
        others = {name: Rival(__file__, name, "--file", str(file)) for name in RIVALS}
        runs = {**pipelines(file), **{name: consumption(name, file) for name in options.presets}}
        runs |= {name: partial(asked, rival) for name, rival in others.items()}
        runs["lines, cold"] = lambda: first_epoch(file)
        for run in runs.values():
            run()  # compiles, and fills what is fetched ahead
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _, (name, run) in itertools.product(range(options.rounds), runs.items()):
            rates[name].append(run())
        for rival in others.values():
            rival.close()
    medians = {name: round(statistics.median(found)) for name, found in rates.items()}
    slowest = min(medians[name] for name in runs if " from " in name)
    fastest = max(medians[name] for name in options.presets)
    loader = max(medians[name] for name in RIVALS if name.startswith("DataLoader"))
    report = {
        "batch": BATCH,
        "length": LENGTH,
        "rounds": options.rounds,
        "examples_per_second": medians,
    }
    report |= {
        "times_fastest_model": slowest / fastest,
        "times_loader": medians["lines from memory"] / loader,
    }
    print(json.dumps(report, indent=1))
    written(options.json, report)


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__, "pipeline", rounds=7)
    parser.add_argument("--presets", nargs="+", metavar="NAME", default=list(FASTEST))
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args()


def asked(rival: Rival) -> float:
    """Its examples per second."""
    return BATCH * BATCHES / rival.ask()["seconds"]


def encoded(file: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """The lines of a file, and what makes tokens of one: what somebody would write in a few lines."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line) < LENGTH]
    number = {symbol: place + 4 for place, symbol in enumerate(sorted(set("".join(lines))))}

    def tokens(line: str) -> np.ndarray:
        row = np.zeros(LENGTH, np.int64)
        row[: len(line)] = [number[symbol] for symbol in line]
        row[len(line)] = 2
        return row

    return lines, tokens


def data_loader(file: Path, workers: int) -> Callable[..., dict[str, float]]:
    """PyTorch's loader over a dataset that encodes a line when it is asked for."""
    from torch.utils.data import DataLoader, Dataset

    class Lines(Dataset[Any]):
        def __init__(self) -> None:
            self.lines, self.tokens = encoded(file)

        def __len__(self) -> int:
            return len(self.lines)

        def __getitem__(self, place: int) -> np.ndarray:
            return self.tokens(self.lines[place])

    options = {
        "num_workers": workers,
        "persistent_workers": bool(workers),
        "drop_last": True,
        "shuffle": True,
    }
    loader: Any = DataLoader(Lines(), batch_size=BATCH, **options)
    return drained(itertools.chain.from_iterable(itertools.repeat(loader)))


def plain_python(file: Path) -> Callable[..., dict[str, float]]:
    """A generator that shuffles, encodes and stacks."""

    def batches() -> Iterator[np.ndarray]:
        lines, tokens = encoded(file)
        while True:
            random.shuffle(lines)
            for start in range(0, len(lines) - BATCH, BATCH):
                yield np.stack([tokens(line) for line in lines[start : start + BATCH]])

    return drained(batches())


def drained(batches: Iterator[Any]) -> Callable[..., dict[str, float]]:
    return lambda: {"seconds": timed(lambda: [next(batches) for _ in range(BATCHES)])}


RIVALS: dict[str, Callable[[Path], Callable[..., dict[str, float]]]] = {
    "DataLoader, no workers": partial(data_loader, workers=0),
    "DataLoader, two workers": partial(data_loader, workers=2),
    "plain Python": plain_python,
}


def first_epoch(file: Path) -> float:
    """Lines per second from the opening of a file to the end of its first epoch."""
    started = time.perf_counter()
    prepared = prepare(settings("cnn-small", file))
    batches = iter(training_stream(prepared))
    count = len(prepared.train) // BATCH
    for _ in range(count):
        next(batches)
    return BATCH * count / (time.perf_counter() - started)


def settings(name: str, file: Path, **data: str) -> Config:
    """A preset on the names, in batches and rows of one size."""
    common = {"data.source": str(file), "data.too_long": "drop", "data.mode": "lines"}
    sizes = {"training.batch_size": BATCH, "model.length": LENGTH}
    return preset(name).with_settings(
        {**common, **sizes, **{f"data.{key}": value for key, value in data.items()}}
    )


def pipelines(file: Path) -> dict[str, Callable[[], float]]:
    """What measures each kind of pipeline."""
    return {
        f"{mode} from {storage}": delivery(settings("cnn-small", file, mode=mode, storage=storage))
        for mode, storage in itertools.product(("lines", "windows"), ("memory", "disk"))
    }


def delivery(config: Config) -> Callable[[], float]:
    """What measures examples per second out of a pipeline."""
    batches: Iterator[Any] = iter(training_stream(prepare(config)))

    def run() -> float:
        started = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        return BATCH * BATCHES / (time.perf_counter() - started)

    return run


def consumption(name: str, file: Path) -> Callable[[], float]:
    """What measures examples per second into a model, its step compiled as `kvae train` does."""
    prepared = prepare(settings(name, file))
    keras.utils.set_random_seed(0)
    model = TextVAE(prepared.config.model, prepared.config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=prepared.config.training.jit_compile)
    model.make_train_function()
    batch = next(iter(training_stream(prepared)))
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat().prefetch(4))

    def run() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            found = model.train_function(batches)
        float(found["loss"])
        return BATCH * STEPS / (time.perf_counter() - started)

    return run


if __name__ == "__main__":
    main()
