"""Does training ever wait for its data?

    python benchmarks/pipeline.py [--rounds 7] [--presets NAME ...] [--json FILE]

Examples per second that the pipeline delivers (tokens in memory and on disk, lines and windows), beside those that small
presets consume from a batch that is always there, in one process, round by round in turn. Printed are medians, and how many
times faster the slowest pipeline is than the fastest model.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.presets import preset
from kvae.training.corpora import prepare, unicode_names
from kvae.training.pipeline import training_stream

BATCH = 128
BATCHES = 300
STEPS = 20
LENGTH = 48

FASTEST = ("cnn-small", "cnn-map-toy-small", "cnn-dense-toy-small", "historyless-cnn-ptb-small", "lstm-lm-ptb-small")
"""Small presets without a recurrence over positions, and the smallest with one."""


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KVAE_DATA"] = folder
        file = Path(folder) / "names.txt"
        file.write_text("\n".join(unicode_names()) + "\n", encoding="utf-8")
        runs = {**pipelines(file), **{name: consumption(name, file) for name in options.presets}}
        for run in runs.values():
            run()  # compiles, and fills what is fetched ahead
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _, (name, run) in itertools.product(range(options.rounds), runs.items()):
            rates[name].append(run())
    medians = {name: round(statistics.median(found)) for name, found in rates.items()}
    slowest = min(medians[name] for name in runs if name not in options.presets)
    fastest = max(medians[name] for name in options.presets)
    report = {"batch_size": BATCH, "length": LENGTH, "rounds": options.rounds, "cores": os.cpu_count()}
    report |= {"examples_per_second": medians, "times": round(slowest / fastest, 1)}
    print(json.dumps(report, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--presets", nargs="+", metavar="NAME", default=list(FASTEST))
    parser.add_argument("--json", metavar="FILE", help="write the report here too")
    return parser.parse_args()


def settings(name: str, file: Path, **data: str) -> Config:
    """A preset on the names, in batches and rows of one size."""
    common = {"data.source": str(file), "data.too_long": "drop", "data.mode": "lines"}
    sizes = {"training.batch_size": BATCH, "model.length": LENGTH}
    return preset(name).with_settings({**common, **sizes, **{f"data.{key}": value for key, value in data.items()}})


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
