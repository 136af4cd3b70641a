"""Profile sampling and a training step by kind of operation.

    python benchmarks/profiles.py [--batches 1 64] [--rounds 3]

The figures are shares of the time that one thread spends in operations. Sampling: the sampler graph
of the tweet-sized hybrid of `benchmarks/sampling.py`, from onnxruntime's profiler. Training: a step
of Penn Treebank's hybrid and LSTM VAE of `benchmarks/training_step.py`, and the recurrence alone,
in graph mode and under XLA, from TensorFlow's profiler.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from sampling import BUNDLE, EIGHT_BITS, make_artifacts
from training_step import LENGTH, step_of
from turns import MATRIX_PRODUCTS, argument_parser, write_report

CONTAINERS = {
    "Loop",
    "While",
    "StatelessWhile",
    "PartitionedCall",
    "StatefulPartitionedCall",
    "If",
    "StatelessIf",
}
CONTAINERS |= {"while", "call", "conditional"}
"""Operations of TensorFlow and XLA that contain others; their time counts for those."""
ONEDNN_PREFIX = "^_(Mkl|Native)*(Fused)?"
"""Prefix of operations that TensorFlow leaves to oneDNN or fuses with the next (regex)."""
SHOWN = 8
"""Operations with a share of their own; the rest are "others"."""


def sampling_profile(path: Path, batch: int, rounds: int) -> Counter[str]:
    """Microseconds by operation in `rounds` batches of samples of full length."""
    import onnxruntime

    from kvae.serving import Sampler

    sampler = Sampler.load(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        profiled = onnxruntime.InferenceSession(
            (path / "sampler.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        sampler._sessions["sampler"] = profiled
        for _ in range(rounds):
            sampler.generate(batch, seed=0, min_length=sampler.length)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    microseconds: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            microseconds[event["args"]["op_name"]] += event["dur"]
    return microseconds


def training_profile(step: Callable[[], Any], rounds: int) -> Counter[str]:
    """Microseconds by operation in `rounds` steps: XLA's operations if it has compiled the step."""
    step()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=3, python_tracer_level=0
        )
        with tf.profiler.experimental.Profile(folder, options=options):
            for _ in range(rounds):
                step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        return trace_profile(file)


def trace_profile(trace: Path) -> Counter[str]:
    """Microseconds by operation in a trace file of TensorFlow's profiler."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(trace.read_bytes())
    microseconds: Counter[str] = Counter()
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    names = {key: metadata.name for key, metadata in plane.event_metadata.items()}
    xla_stats = {key for key, metadata in plane.stat_metadata.items() if metadata.name == "hlo_op"}
    for event in (event for line in plane.lines for event in line.events):
        name = names[event.metadata_id]
        _, colon, operation = name.rpartition(":")
        operation = re.sub(ONEDNN_PREFIX, "", operation)
        if xla_stats & {stat.metadata_id for stat in event.stats}:
            microseconds[xla_kind(name)] += event.duration_ps / 1e6
        elif colon and hasattr(tf.raw_ops, operation):
            microseconds[operation] += event.duration_ps / 1e6
    return microseconds


def xla_kind(name: str) -> str:
    """Kind of an XLA operation: "fused" for a fusion, otherwise its name without numbers."""
    plain = re.sub(r"(_\d+)?(\.\d+)*$", "", name)
    if "fusion" in plain:
        return "fused"
    return plain.removeprefix("wrapped_")


def without_containers(microseconds: Mapping[str, float]) -> Counter[str]:
    """The profile without the operations that contain others."""
    return Counter({name: value for name, value in microseconds.items() if name not in CONTAINERS})


def shares(profile: Counter[str]) -> dict[str, float]:
    """Share of the time of the `SHOWN` largest operations, and of all others together."""
    largest = {name: value / profile.total() for name, value in profile.most_common(SHOWN)}
    return {**largest, "others": max(1 - sum(largest.values()), 0.0)}


def main() -> None:
    parser = argument_parser(__doc__, "profiles", rounds=3)
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 64], help="batch sizes of sampling"
    )
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    make_artifacts()
    profilers: dict[str, Callable[[], Counter[str]]] = {
        f"{name}, batch {batch}": lambda path=path, batch=batch: sampling_profile(
            path, batch, options.rounds
        )
        for name, path in (("writing", BUNDLE), ("writing in eight bits", EIGHT_BITS))
        for batch in options.batches
    }
    profilers |= {
        f"training, {system}{kind}": lambda name=f"{system}, normalised, {framework}": (
            training_profile(step_of(name, LENGTH)[0], options.rounds)
        )
        for system in ("hybrid", "LSTM VAE", "recurrence")
        for kind, framework in (("", "TensorFlow"), (", XLA", "TensorFlow XLA"))
    }
    report: dict[str, dict[str, Any]] = {"shares": {}, "products": {}}
    for name, run_profiler in profilers.items():
        profile = without_containers(run_profiler())
        report["shares"][name] = shares(profile)
        report["products"][name] = (
            sum(profile[product] for product in MATRIX_PRODUCTS) / profile.total()
        )
        line = ", ".join(
            f"{operation} {share:.0%}" for operation, share in report["shares"][name].items()
        )
        print(f"{name}: products {report['products'][name]:.0%}: {line}", flush=True)
    write_report(options.json, report)


if __name__ == "__main__":
    main()
