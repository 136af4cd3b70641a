"""Where does the time go, in writing and in a training step?

    python benchmarks/profiles.py [--batches 1 64] [--rounds 3]

By kind of operation, as shares of the time that a thread spends in operations: the sampler's graph of the tweet-sized hybrid of
`benchmarks/sampling.py`, read off onnxruntime's profile, and a training step of Penn Treebank's hybrid of
`benchmarks/training_step.py` as a graph on TensorFlow, read off TensorFlow's.
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

from sampling import BUNDLE, EIGHT_BITS, prepare
from training_step import LENGTH, ours
from turns import arguments, written

CONTAINERS = {"Loop", "While", "StatelessWhile", "PartitionedCall", "StatefulPartitionedCall", "If", "StatelessIf"}
"""Operations whose time is that of others within them."""
ONEDNN = "^_Mkl(Native)?"
"""What TensorFlow calls an operation more that it leaves to oneDNN, on some processors."""
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


def of_training(rounds: int) -> Counter[str]:
    """Microseconds by operation of `rounds` steps."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    tf.config.threading.set_intra_op_parallelism_threads(1)
    step, _ = ours("hybrid", plain=False, length=LENGTH, xla=False)
    step()
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3, python_tracer_level=0)
        with tf.profiler.experimental.Profile(folder, options=options):
            for _ in range(rounds):
                step()
        space = xplane_pb2.XSpace()
        (file,) = Path(folder).rglob("*.xplane.pb")
        space.ParseFromString(file.read_bytes())
    taken: Counter[str] = Counter()
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    names = {number: kind.name for number, kind in plane.event_metadata.items()}
    for line in plane.lines:
        for event in line.events:
            _, colon, operation = names[event.metadata_id].rpartition(":")
            operation = re.sub(ONEDNN, "", operation)
            if colon and hasattr(tf.raw_ops, operation):
                taken[operation] += event.duration_ps / 1e6
    return taken


def shares(taken: Mapping[str, float]) -> dict[str, float]:
    """The largest, and what is left together."""
    own = Counter({name: value for name, value in taken.items() if name not in CONTAINERS})
    found = {name: value / own.total() for name, value in own.most_common(SHOWN)}
    return {**found, "others": 1 - sum(found.values())}


def main() -> None:
    parser = arguments(__doc__, "profiles", rounds=3)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    options = parser.parse_args()
    prepare()
    measured: dict[str, Callable[[], Counter[str]]] = {
        f"{name}, batch {batch}": lambda path=path, batch=batch: of_writing(path, batch, options.rounds)
        for name, path in (("writing", BUNDLE), ("writing in eight bits", EIGHT_BITS))
        for batch in options.batches
    }
    measured["a training step"] = lambda: of_training(options.rounds)
    report: dict[str, Any] = {}
    for name, measure in measured.items():
        report[name] = shares(measure())
        print(
            f"{name}: " + ", ".join(f"{operation} {share:.0%}" for operation, share in report[name].items()), flush=True
        )
    written(options.json, {"shares": report})


if __name__ == "__main__":
    main()
