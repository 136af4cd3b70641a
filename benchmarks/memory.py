"""How much memory does a large text file take to train on?

    python benchmarks/memory.py [--gigabytes 2] [--steps 200] [--folder DIR] [--json FILE]

Writes a file of made-up lines from the names of the Unicode characters, trains `hybrid-lstm-small`'s sizes on it in a process
of its own, and prints the peak of that process' resident memory and how long preparing and training took.
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


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "large.txt"
        size = write_lines(file, options.gigabytes * 10**9)
        report = {"bytes": size, "steps": options.steps, **train(file, Path(folder), options.steps)}
    print(json.dumps(report, indent=1))
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--folder", help="where the file and the tokens are written, for a moment (default: the system's)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report here too")
    return parser.parse_args()


def write_lines(file: Path, size: float) -> int:
    """Lines of two names with a number until the file has that many bytes; how many it has."""
    from kvae.training.named_corpora import unicode_names

    names = [name for name in unicode_names() if len(name) < 48]
    generator = np.random.default_rng(0)
    with file.open("w", encoding="utf-8") as opened:
        while opened.tell() < size:
            pairs = generator.integers(0, len(names), (100_000, 3)).tolist()
            opened.write("".join(f"{names[a]} {names[b]} {number}\n" for a, b, number in pairs))
    return file.stat().st_size


def train(file: Path, folder: Path, steps: int) -> dict[str, float]:
    """Train in a process of its own: seconds until the first sentence about training, seconds in all, and peak memory."""
    command = [sys.executable, "-m", "kvae", "train", "--preset", "hybrid-lstm-small", "--data", str(file)]
    command += ["--out", str(folder / "run"), "--steps", str(steps), "--set", f"training.steps_per_epoch={steps}"]
    environment = {**os.environ, "KVAE_DATA": str(folder / "data")}
    started = time.monotonic()
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert running.stderr is not None
    prepared, lines = 0.0, []
    for line in running.stderr:
        lines.append(line)
        prepared = prepared or (" training texts, " in line and time.monotonic() - started)
    if running.wait():
        raise SystemExit("".join(lines[-20:]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    stored = sum(item.stat().st_size for item in (folder / "data").rglob("*") if item.is_file())
    return {
        "peak_resident_bytes": peak,
        "seconds_until_prepared": round(prepared, 1),
        "seconds": round(time.monotonic() - started, 1),
        "bytes_of_tokens_on_disk": stored,
    }


if __name__ == "__main__":
    main()
