"""Measure the memory that training on a large text file takes.

    python benchmarks/memory.py [--gigabytes 2] [--steps 200] [--folder DIR] [--json FILE]

The script writes a file of synthetic lines, made of the names of the Unicode characters. It trains
the preset `hybrid-lstm-small` on the file in a process of its own, and prints the peak resident
memory of that process, the seconds of preparation and of the whole run, and the size of the stored
tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PREPARED = " training texts, "
"""Part of the message of `kvae train` that comes after preparation and before training."""


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "large.txt"
        size = write_lines(file, options.gigabytes * 10**9)
        report = {"bytes": size, "steps": options.steps, **train(file, Path(folder), options.steps)}
    print(json.dumps(report, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--folder",
        help="folder for the temporary text file and its tokens (default: the system's)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the report to FILE")
    return parser.parse_args()


def write_lines(file: Path, size: float) -> int:
    """Write lines of two names and a number until the file has `size` bytes; return its size."""
    from kvae.training.data.named_corpora import unicode_names

    names = [name for name in unicode_names() if len(name) < 48]
    generator = np.random.default_rng(0)
    with file.open("w", encoding="utf-8") as stream:
        while stream.tell() < size:
            pairs = generator.integers(0, len(names), (100_000, 3)).tolist()
            stream.write("".join(f"{names[a]} {names[b]} {number}\n" for a, b, number in pairs))
    return file.stat().st_size


def train(file: Path, folder: Path, steps: int) -> dict[str, float]:
    """Train in a process of its own; return seconds, peak memory and size of the tokens.

    `seconds_until_prepared` counts until the message with `PREPARED`. Raises `SystemExit` with the
    last lines of the process if it fails.
    """
    command = [sys.executable, "-m", "kvae", "train", "--preset", "hybrid-lstm-small"]
    command += ["--data", str(file), "--out", str(folder / "run"), "--steps", str(steps)]
    command += ["--set", f"training.steps_per_epoch={steps}"]
    environment = {**os.environ, "KVAE_DATA": str(folder / "data")}
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert process.stderr is not None
    prepared, lines = 0.0, []
    for line in process.stderr:
        lines.append(line)
        prepared = prepared or (PREPARED in line and time.monotonic() - started)
    if process.wait():
        raise SystemExit("".join(lines[-20:]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    token_bytes = sum(
        item.stat().st_size for item in (folder / "data").rglob("*") if item.is_file()
    )
    return {
        "peak_resident_bytes": peak,
        "seconds_until_prepared": round(prepared, 1),
        "seconds": round(time.monotonic() - started, 1),
        "bytes_of_tokens_on_disk": token_bytes,
    }


if __name__ == "__main__":
    main()
