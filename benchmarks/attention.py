"""Compare the tweet-sized hybrid that has a Transformer with the one that has an LSTM.

    python benchmarks/attention.py [--rounds 5] [--parts training sampling]

Training: a step of the Transformer hybrid (T 128, three layers of 384 units, batch 32) on
TensorFlow, in graph mode and under XLA, on JAX, and of the same network in PyTorch, eager and with
its own scaled dot-product attention. A step is forward, backward and Adam, on a batch that is
always in memory.

Sampling: the bundles of this hybrid and of the one with the layer-normalised LSTM of 1,000 units,
each in float32 and in eight bits. They have 10.6 and 11.1 million parameters. Samples have full
length. The models have learned nothing; their bundles are kept in `runs/benchmarks`.

Needs PyTorch (the extra `benchmarks`). The file is written after each part, and a part that is not
measured stays in it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_sections import lines_file
from gpu_steps import ATTENTION, PRESETS, SHAPES, Case, configuration, pytorch_model, random_tokens
from sampling import ARTIFACTS, bundle_sampler
from training_step import COMPILED, FRAMEWORKS, STEPS, kvae_step, start_worker, step_in_pytorch
from turns import (
    Worker,
    argument_parser,
    mean_seconds,
    median_seconds,
    seconds_of,
    serve_requests,
    write_report,
)

LSTM = "hybrid, tweets"
BATCH, BATCHES = 32, (1, 64)
"""Texts of a training step, and those of the batches that are sampled."""

PARTS = ("training", "sampling")


def training_answer(framework: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: seconds of a step of the Transformer hybrid, and its parameters."""
    case = Case(ATTENTION, "plain", "float32", BATCH)
    if framework == "PyTorch":
        network, config = pytorch_model(case)
        step, parameters = step_in_pytorch(network, random_tokens(config, BATCH))
    else:
        step, parameters = kvae_step(configuration(case), BATCH, framework in COMPILED)
    step()  # compiles

    def answer() -> dict[str, Any]:
        seconds = seconds_of(lambda: [step() for _ in range(STEPS)]) / STEPS
        return {"seconds": seconds, "parameters": parameters}

    return answer


def sampling_answer(bundle: str) -> Callable[..., dict[str, Any]]:
    """A worker's answer: seconds of a batch of samples of full length from a bundle."""
    sample = bundle_sampler(bundle)
    return lambda batch: {"seconds": mean_seconds(lambda: sample(batch))}


def bundles() -> dict[str, Path]:
    """The bundles by the name of their system; those that exist are used again."""
    found = {}
    for system in (LSTM, ATTENTION):
        folder = ARTIFACTS / system.replace(", ", "-").replace(" ", "-").lower()
        for name, flags in ((system, ()), (f"{system}, eight bits", ("--int8",))):
            found[name] = folder / ("int8" if flags else "bundle")
            if not found[name].exists():
                print(f"making {found[name]}", file=sys.stderr)
                make_run(system, folder / "run")
                program("export", str(folder / "run"), str(found[name]), *flags)
    return found


def make_run(system: str, run: Path) -> None:
    """A run of one step, unless it is there."""
    if (run / "model.keras").exists():
        return
    model = configuration(Case(system, "normalised", "float32", BATCH)).model
    settings = [
        f"--set=model.{name}={json.dumps(getattr(model, name))}"
        for name in ("head", "head_units", "head_layers", "head_attention_heads", "length")
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = lines_file(folder, 2000, SHAPES[system][0])
        train = ["--preset", PRESETS[system], "--tokenizer=byte", "--steps=1", f"--data={data}"]
        settings.append("--set=data.too_long=cut")
        program("train", *train, *settings, "--overwrite", f"--out={run}")


def program(*arguments: str) -> None:
    """Run kvae on TensorFlow."""
    command = [sys.executable, "-P", "-m", "kvae", *arguments]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)


def training(rounds: int) -> dict[str, Any]:
    """Median seconds of a step on each framework, measured in turn, and parameters."""
    workers = [start_worker(name, __file__) for name in FRAMEWORKS]
    seconds = median_seconds(workers, rounds)
    parameters = {worker.name: worker.ask()["parameters"] for worker in workers}
    for worker in workers:
        print(f"{1e3 * seconds[worker.name]:8.1f} ms  {worker.name}", flush=True)
        worker.close()
    return {"batch": BATCH, "seconds": seconds, "parameters": parameters}


def sampling(rounds: int) -> dict[str, Any]:
    """Median seconds of a batch from each bundle, by batch size, measured in turn."""
    found = bundles()
    workers = {name: Worker(__file__, str(path)) for name, path in found.items()}
    seconds: dict[int, dict[str, float]] = {}
    for batch in BATCHES:
        medians = median_seconds(workers.values(), rounds, batch=batch)
        seconds[batch] = {name: medians[worker.name] for name, worker in workers.items()}
        for name, taken in seconds[batch].items():
            print(f"batch {batch:3}  {1e3 * taken:8.1f} ms  {name}", flush=True)
    for worker in workers.values():
        worker.close()
    megabytes = {name: megabytes_of(path) for name, path in found.items()}
    return {"seconds": seconds, "megabytes": megabytes, "length": SHAPES[ATTENTION][0]}


def megabytes_of(bundle: Path) -> float:
    """Size of the graphs of a bundle."""
    return sum(path.stat().st_size for path in bundle.glob("*.onnx*")) / 1e6


def main() -> None:
    parser = argument_parser(__doc__, "attention", rounds=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: both)")
    options = parser.parse_args()
    if options.rival:
        is_bundle = options.rival not in FRAMEWORKS
        serve_requests((sampling_answer if is_bundle else training_answer)(options.rival))
        return
    measures = {"training": training, "sampling": sampling}
    report = earlier(options)
    for part in options.parts:
        report[part] = {**measures[part](options.rounds), "rounds": options.rounds}
        write_report(options.json, report)


def earlier(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of the file that are not measured again."""
    if not options.json.exists():
        return {}
    report = json.loads(options.json.read_text(encoding="utf-8"))
    return {part: report[part] for part in PARTS if part in report}


if __name__ == "__main__":
    main()
