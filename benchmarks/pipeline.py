"""Compare the throughput of the data pipeline with what training consumes.

    python benchmarks/pipeline.py [--rounds 7] [--presets NAME ...]

All figures are medians of examples per second, measured in turn, round by round:

- what the pipeline delivers, of lines and of windows, with the tokens in memory and on disk;
- what small presets consume in training, from a batch that is always in memory;
- what a PyTorch `DataLoader` over the same lines delivers, without workers and with two;
- what a generator in plain Python delivers;
- lines per second of a cold pipeline, from opening the file to the end of the first epoch.

Needs PyTorch (the extra `benchmarks`).
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
from turns import Worker, argument_parser, seconds_of, serve_requests, write_report

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.presets import preset
from kvae.training.data.named_corpora import unicode_names
from kvae.training.data.pipeline import training_stream
from kvae.training.data.prepare import prepare

BATCH = 128
BATCHES = 300
"""Batches of one turn of a pipeline."""
STEPS = 20
"""Steps of one turn of a preset."""
LENGTH = 48

FASTEST = (
    "cnn-small",
    "cnn-map-toy-small",
    "cnn-dense-toy-small",
    "historyless-cnn-ptb-small",
    "lstm-lm-ptb-small",
)
"""Small presets without a recurrence over positions, and the smallest one with a recurrence."""


def main() -> None:
    options = parse_arguments()
    if options.rival:
        serve_requests(ALTERNATIVES[options.rival](Path(options.file)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KVAE_DATA"] = folder
        file = Path(folder) / "names.txt"
        file.write_text("\n".join(unicode_names()) + "\n", encoding="utf-8")
        workers = {name: Worker(__file__, name, "--file", str(file)) for name in ALTERNATIVES}
        runs = {**pipelines(file), **{name: consumption(name, file) for name in options.presets}}
        runs |= {name: partial(worker_rate, worker) for name, worker in workers.items()}
        runs["lines, cold"] = lambda: first_epoch(file)
        for run in runs.values():
            run()  # compiles, and fills the prefetch buffers
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _, (name, run) in itertools.product(range(options.rounds), runs.items()):
            rates[name].append(run())
        for worker in workers.values():
            worker.close()
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    slowest = min(medians[name] for name in runs if " from " in name)
    fastest = max(medians[name] for name in options.presets)
    loader = max(medians[name] for name in ALTERNATIVES if name.startswith("DataLoader"))
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
    write_report(options.json, report)


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, "pipeline", rounds=7)
    parser.add_argument(
        "--presets", nargs="+", metavar="NAME", default=list(FASTEST), help="presets to train"
    )
    parser.add_argument("--file", help=argparse.SUPPRESS)
    return parser.parse_args()


def worker_rate(worker: Worker) -> float:
    """Examples per second that a worker delivers in one turn."""
    return BATCH * BATCHES / float(worker.ask()["seconds"])


def lines_and_tokenizer(file: Path) -> tuple[list[str], Callable[[str], np.ndarray]]:
    """Lines of a file, and a function from a line to token ids (LENGTH,), written in few lines."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if len(line) < LENGTH]
    ids = {symbol: place + 4 for place, symbol in enumerate(sorted(set("".join(lines))))}

    def tokens(line: str) -> np.ndarray:
        row = np.zeros(LENGTH, np.int64)
        row[: len(line)] = [ids[symbol] for symbol in line]
        row[len(line)] = 2
        return row

    return lines, tokens


def data_loader(file: Path, workers: int) -> Callable[..., dict[str, float]]:
    """A worker's answer for a PyTorch `DataLoader` whose dataset encodes lines on access."""
    from torch.utils.data import DataLoader, Dataset

    class Lines(Dataset[Any]):
        def __init__(self) -> None:
            self.lines, self.tokens = lines_and_tokenizer(file)

        def __len__(self) -> int:
            return len(self.lines)

        def __getitem__(self, index: int) -> np.ndarray:
            return self.tokens(self.lines[index])

    options = {
        "num_workers": workers,
        "persistent_workers": bool(workers),
        "drop_last": True,
        "shuffle": True,
    }
    loader: Any = DataLoader(Lines(), batch_size=BATCH, **options)
    return seconds_to_draw(itertools.chain.from_iterable(itertools.repeat(loader)))


def plain_python(file: Path) -> Callable[..., dict[str, float]]:
    """A worker's answer for a generator that shuffles, encodes and stacks lines."""

    def batches() -> Iterator[np.ndarray]:
        lines, tokens = lines_and_tokenizer(file)
        while True:
            random.shuffle(lines)
            for start in range(0, len(lines) - BATCH, BATCH):
                yield np.stack([tokens(line) for line in lines[start : start + BATCH]])

    return seconds_to_draw(batches())


def seconds_to_draw(batches: Iterator[Any]) -> Callable[..., dict[str, float]]:
    """A worker's answer: the seconds of drawing `BATCHES` batches."""
    return lambda: {"seconds": seconds_of(lambda: [next(batches) for _ in range(BATCHES)])}


ALTERNATIVES: dict[str, Callable[[Path], Callable[..., dict[str, float]]]] = {
    "DataLoader, no workers": partial(data_loader, workers=0),
    "DataLoader, two workers": partial(data_loader, workers=2),
    "plain Python": plain_python,
}


def first_epoch(file: Path) -> float:
    """Lines per second from opening a file to the end of its first epoch."""
    started = time.perf_counter()
    prepared = prepare(config_of("cnn-small", file))
    batches = iter(training_stream(prepared))
    count = len(prepared.train) // BATCH
    for _ in range(count):
        next(batches)
    return BATCH * count / (time.perf_counter() - started)


def config_of(name: str, file: Path, **data: str) -> Config:
    """Configuration of a preset on the lines of `file`, with this benchmark's batch size and T."""
    common = {"data.source": str(file), "data.too_long": "drop", "data.mode": "lines"}
    sizes = {"training.batch_size": BATCH, "model.length": LENGTH}
    return preset(name).with_settings(
        {**common, **sizes, **{f"data.{key}": value for key, value in data.items()}}
    )


def pipelines(file: Path) -> dict[str, Callable[[], float]]:
    """By name, a function that measures a kind of pipeline in examples per second."""
    return {
        f"{mode} from {storage}": delivery(config_of("cnn-small", file, mode=mode, storage=storage))
        for mode, storage in itertools.product(("lines", "windows"), ("memory", "disk"))
    }


def delivery(config: Config) -> Callable[[], float]:
    """A function that measures the examples per second that a pipeline delivers."""
    batches: Iterator[Any] = iter(training_stream(prepare(config)))

    def run() -> float:
        started = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        return BATCH * BATCHES / (time.perf_counter() - started)

    return run


def consumption(name: str, file: Path) -> Callable[[], float]:
    """A function that measures the examples per second that a preset consumes in training.

    The training step is compiled as `kvae train` compiles it.
    """
    prepared = prepare(config_of(name, file))
    keras.utils.set_random_seed(0)
    model = TextVAE(prepared.config.model, prepared.config.objective)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=prepared.config.training.jit_compile)
    model.make_train_function()
    batch = next(iter(training_stream(prepared)))
    batches = iter(tf.data.Dataset.from_tensors(batch).cache().repeat().prefetch(4))

    def run() -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            logs = model.train_function(batches)
        float(logs["loss"])
        return BATCH * STEPS / (time.perf_counter() - started)

    return run


if __name__ == "__main__":
    main()
