"""Where does the time go, in writing and in a training step?

    python benchmarks/profiles.py [--batches 1 64] [--rounds 3]

By kind of operation, as shares of the time that a thread spends in operations: the sampler's graph of the tweet-sized hybrid of
`benchmarks/sampling.py`, read off onnxruntime's profile, and a training step of Penn Treebank's hybrid and LSTM VAE of
`benchmarks/training_step.py` and the recurrence alone, as a graph and under XLA, read off TensorFlow's.
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
from sampling import BUNDLE, EIGHT_BITS, prepare
from training_step import LENGTH, ours, recurrence
from turns import PRODUCTS, arguments, written

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
"""Operations whose time is that of others within them, TensorFlow's and XLA's."""
FUSED = "^_(Mkl|Native)*(Fused)?"
"""What TensorFlow calls an operation more that it leaves to oneDNN, on some processors, or has fused with what follows."""
SHOWN = 8


def of_writing(path: Path, batch: int, rounds: int) -> Counter[str]:
    """Microseconds by operation of `rounds` batches of texts at full length."""
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
    taken: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"]
    return taken


def of_training(step: Callable[[], Any], rounds: int) -> Counter[str]:
    """Microseconds by operation of `rounds` steps: TensorFlow's, or XLA's where it has compiled the step."""
    step()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=3, python_tracer_level=0
        )
        with tf.profiler.experimental.Profile(folder, options=options):
            for _ in range(rounds):
                step()
        (file,) = Path(folder).rglob("*.xplane.pb")
        return operations_in(file)


def operations_in(trace: Path) -> Counter[str]:
    """Microseconds by operation in a trace of TensorFlow's profiler."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(trace.read_bytes())
    taken: Counter[str] = Counter()
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    names = {number: kind.name for number, kind in plane.event_metadata.items()}
    compiled = {number for number, kind in plane.stat_metadata.items() if kind.name == "hlo_op"}
    for event in (event for line in plane.lines for event in line.events):
        name = names[event.metadata_id]
        _, colon, operation = name.rpartition(":")
        operation = re.sub(FUSED, "", operation)
        if compiled & {stat.metadata_id for stat in event.stats}:
            taken[xla_kind(name)] += event.duration_ps / 1e6
        elif colon and hasattr(tf.raw_ops, operation):
            taken[operation] += event.duration_ps / 1e6
    return taken


def xla_kind(name: str) -> str:
    """What one of XLA's operations is: those that it has fused, or made of one of TensorFlow's, by what they have in common."""
    plain = re.sub(r"(_\d+)?(\.\d+)*$", "", name)
    if "fusion" in plain:
        return "fused"
    return plain.removeprefix("wrapped_")


def without_containers(taken: Mapping[str, float]) -> Counter[str]:
    """What operations take themselves."""
    return Counter({name: value for name, value in taken.items() if name not in CONTAINERS})


def shares(own: Counter[str]) -> dict[str, float]:
    """The largest, and what is left together."""
    found = {name: value / own.total() for name, value in own.most_common(SHOWN)}
    return {**found, "others": max(1 - sum(found.values()), 0.0)}


def main() -> None:
    parser = arguments(__doc__, "profiles", rounds=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    prepare()
    measured: dict[str, Callable[[], Counter[str]]] = {
        f"{name}, batch {batch}": lambda path=path, batch=batch: of_writing(
            path, batch, options.rounds
        )
        for name, path in (("writing", BUNDLE), ("writing in eight bits", EIGHT_BITS))
        for batch in options.batches
    }
    steps = {
        "hybrid": lambda: ours("hybrid", False, LENGTH, xla=False)[0],
        "hybrid, XLA": lambda: ours("hybrid", False, LENGTH, xla=True)[0],
        "LSTM VAE": lambda: ours("LSTM VAE", False, LENGTH, xla=False)[0],
        "LSTM VAE, XLA": lambda: ours("LSTM VAE", False, LENGTH, xla=True)[0],
        "recurrence": lambda: recurrence(False, "TensorFlow")[0],
        "recurrence, XLA": lambda: recurrence(False, "TensorFlow XLA")[0],
    }
    measured |= {
        f"training, {name}": lambda make=make: of_training(make(), options.rounds)
        for name, make in steps.items()
    }
    report: dict[str, dict[str, Any]] = {"shares": {}, "products": {}}
    for name, measure in measured.items():
        own = without_containers(measure())
        report["shares"][name] = shares(own)
        report["products"][name] = sum(own[product] for product in PRODUCTS) / own.total()
        shown = ", ".join(
            f"{operation} {share:.0%}" for operation, share in report["shares"][name].items()
        )
        print(f"{name}: products {report['products'][name]:.0%}: {shown}", flush=True)
    written(options.json, report)


if __name__ == "__main__":
    main()
