"""Measure kvae on a GPU, in at most eight minutes.

On a machine with internet access:

    make gpu-wheels          # what a GPU machine may lack, in build/gpu: keras, kvae and so on

On the GPU machine, which needs Python 3.12, numpy, JAX and PyTorch with CUDA, onnxruntime, this
checkout with build/gpu in it, and no network:

    python benchmarks/gpu.py [--tweets tweets.train.txt] [--json docs/performance/gpu.json]

The sections come in order of worth, each in a process of its own with its own time limit. The
figures are written after each of them, so a run that is cut off loses nothing. The run of the
section `run` is resumed by the next call with the same `--out`. `--sections` measures some alone.

    python benchmarks/gpu.py --rehearse      # all of it with tiny shapes, on the CPU, in minutes

TensorFlow is not needed. What compares with PyTorch is left out where PyTorch is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gpu_sections
from gpu_steps import worker_answer
from turns import RESULTS, serve_requests, write_report

PACKED = Path(__file__).parents[1] / "build" / "gpu"
"""Where `make gpu-wheels` puts the packages and a bundle."""

LIMITS = {
    "machine": 25,
    "training": 110,
    "pipeline": 20,
    "profile": 25,
    "run": 280,
    "sampler": 20,
}
"""Seconds of each section, in order of worth."""

REHEARSAL = 300
"""Seconds of each section in a rehearsal, at most: a machine of any speed reaches its end."""


MODULES = {"absl_py": "absl", "kvae_text": "kvae", "markdown_it_py": "markdown_it"}
"""Modules of wheels that have another name."""


def unpacked(wheels: Path, folder: Path) -> list[str]:
    """Folders for PYTHONPATH: the packages of the wheels that this Python lacks."""
    paths = []
    for wheel in sorted(wheels.glob("*.whl")):
        package = wheel.name.split("-")[0]
        module = MODULES.get(package, package)
        if importlib.util.find_spec(module) is None:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder / package)
            paths.append(str(folder / package))
    return paths


def environment(options: argparse.Namespace, folder: Path) -> dict[str, str]:
    """The environment of the sections: JAX, and a GPU's memory shared by several processes."""
    paths = [*unpacked(options.packed, folder), os.environ.get("PYTHONPATH", "")]
    found = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    if options.rehearse:
        found |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return found


def lines_of_section(
    name: str, seconds: float, options: argparse.Namespace, variables: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What a section has measured, line by line; at its limit the process and its workers end."""
    command = [sys.executable, __file__, "--section", name, "--seconds", f"{seconds:.0f}"]
    command += ["--out", str(options.out), "--packed", str(options.packed)]
    command += ["--rehearse"] * options.rehearse
    command += ["--tweets", str(options.tweets)] if options.tweets else []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=dict(variables),
            start_new_session=True,
        )
        timer = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
        timer.start()
        assert process.stdout
        yield from (json.loads(line) for line in process.stdout)
        code = process.wait()
        timer.cancel()
        errors.seek(0)
        last = ([""] + [line for line in errors.read().splitlines() if line.strip()])[-1]
    if code == -signal.SIGKILL:
        yield {"ended": f"at its limit of {seconds:.0f} seconds"}
    elif code:
        yield {"ended": f"failed: {last}"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all sections, and write the report after each of their figures."""
    report: dict[str, Any] = {"rehearsed": options.rehearse, "sections": {}}
    ends = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        variables = environment(options, Path(folder))
        for name in options.sections:
            limit = REHEARSAL if options.rehearse else LIMITS[name]
            seconds = min(limit, ends - time.monotonic())
            found = report["sections"].setdefault(name, {})
            if seconds < 5:
                found["ended"] = "not begun: no time was left"
                continue
            started = time.monotonic()
            for line in lines_of_section(name, seconds, options, variables):
                for key, value in line.items():
                    if isinstance(value, dict):
                        found.setdefault(key, {}).update(value)
                    else:
                        found[key] = value
                write_report(options.json, report)
            found["took"] = round(time.monotonic() - started, 1)
            write_report(options.json, report)
            print(f"{name}: {found['took']} s, {found.get('ended', 'whole')}", flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes, on the CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for everything")
    parser.add_argument(
        "--sections", nargs="+", choices=LIMITS, default=list(LIMITS), help="(default: all)"
    )
    parser.add_argument("--tweets", type=Path, help="a file with a tweet a line, for `run`")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the run")
    parser.add_argument("--packed", type=Path, default=PACKED, help="the folder of make gpu-wheels")
    parser.add_argument("--pack", action="store_true", help="write its bundle; needs TensorFlow")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json", help="the figures")
    parser.add_argument("--section", choices=LIMITS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--rival", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rival:
        serve_requests(worker_answer(options.rival))
    elif options.pack:
        gpu_sections.pack_sampler(options.packed / "sampler")
    elif options.section:
        for line in getattr(gpu_sections, options.section)(options):
            print(json.dumps(line), flush=True)
    else:
        report = measure(options)
        ends = [found.get("ended", "") for found in report["sections"].values()]
        if any("failed" in end or (options.rehearse and "limit" in end) for end in ends):
            sys.exit(1)


if __name__ == "__main__":
    main()
