"""Compare how fast a corpus is prepared: by format, and beside another build of kvae.

    python benchmarks/data.py [--lines 1500000] [--rounds 3] [--beside PYTHON]

The script writes lines of 36 characters as a text file, as CSV and as Parquet. A process of its own
prepares each file, cold, and draws the first batch; the processes take turns, and each figure is a
median. `--beside` is the Python of an environment with another build, which prepares the text file
only. The peak memory is that of the process, without and with TensorFlow, which draws the batch.

Needs pyarrow (the extra `tables`).
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from turns import argument_parser, write_report

LENGTH = 36

PREPARE = """
import json, sys, time
from kvae.presets import preset
try:
    from kvae.training.data.prepare import prepare
except ImportError:  # before data had a room of its own
    from kvae.training.corpora import prepare
def peak():  # getrusage would give the peak of the process that started this one, if it is higher
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
settings = {"data.source": sys.argv[1], "data.mode": "lines", "data.storage": sys.argv[2]}
config = preset("cnn-small").with_settings(settings)
if sys.argv[3] == "batch":
    try:
        from kvae.training.data.pipeline import training_stream
    except ImportError:
        from kvae.training.pipeline import training_stream
    import tensorflow as tf
    tf.constant(1)
started = time.perf_counter()
prepared = prepare(config)
if sys.argv[3] == "batch":
    next(iter(training_stream(prepared)))
print(json.dumps({"seconds": time.perf_counter() - started, "peak": peak()}))
"""
"""Prepares a file and prints the seconds and the peak memory. Works on older builds too."""


def main() -> None:
    parser = argument_parser(__doc__, "data", rounds=3)
    parser.add_argument("--lines", type=int, default=1_500_000)
    parser.add_argument(
        "--beside", metavar="PYTHON", help="Python of an environment with another build"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), options.lines)
        runs = {
            f"{name}, {storage}": (sys.executable, file, storage)
            for name, file in files.items()
            for storage in ("memory", "disk")
        }
        if options.beside:
            runs["other build, lines, memory"] = (options.beside, files["lines"], "memory")
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        peaks: dict[str, dict[str, float]] = {name: {} for name in runs}
        for _ in range(options.rounds):
            for name, (python, file, storage) in runs.items():
                found = prepared(python, file, storage, "batch")
                seconds[name].append(found["seconds"])
                peaks[name]["with TensorFlow"] = found["peak"]
        for name, (python, file, storage) in runs.items():
            peaks[name]["without TensorFlow"] = prepared(python, file, storage, "no batch")["peak"]
    rates = {name: round(options.lines / statistics.median(each)) for name, each in seconds.items()}
    report = {
        "lines": options.lines,
        "rounds": options.rounds,
        "lines_per_second": rates,
        "peak_bytes": peaks,
    }
    print(json.dumps(report, indent=1))
    write_report(options.json, report)


def write_files(folder: Path, count: int) -> dict[str, Path]:
    """Write lines of `LENGTH` characters in each format."""
    import pyarrow
    import pyarrow.parquet

    generator = np.random.default_rng(0)
    letters = "abcdefghijklmnopqrstuvwxyz    "
    codes = generator.integers(0, len(letters), (count, LENGTH))
    points = np.frombuffer(letters.encode(), np.uint8)[codes]
    points[:, 0] = ord("x")  # no line is blank
    texts = [row.tobytes().decode() for row in points]
    files = {
        name: folder / f"texts.{ending}"
        for name, ending in (("lines", "txt"), ("csv", "csv"), ("parquet", "parquet"))
    }
    files["lines"].write_text("\n".join(texts) + "\n")
    with files["csv"].open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["number", "text"])
        writer.writerows(enumerate(texts))
    pyarrow.parquet.write_table(
        pyarrow.table({"number": range(count), "text": texts}), files["parquet"]
    )
    return files


def prepared(python: str, file: Path, storage: str, until: str) -> dict[str, float]:
    """Seconds and peak memory of a process that prepares a file, with a data folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "KVAE_DATA": folder, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [python, "-c", PREPARE, str(file), storage, until]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
