"""Two devices, or two processes, train to the same numbers as one device with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvae.presets import preset
from kvae.serving.errors import ConfigError
from kvae.training.corpora import prepare
from kvae.training.devices import check, split_between
from kvae.training.pipeline import validation_batches

from .conftest import SMALL

STEPS = 12
JAX = {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "NPROC": "8"}
"""Two devices on one processor. With a thread for each core (`NPROC`) they wait for each other's sums for ever on two cores."""


def start(out: Path, data: Path, devices: int, **environment: str) -> subprocess.Popen[bytes]:
    sizes = {name: list(value) if isinstance(value, tuple) else value for name, value in SMALL.items()}
    settings = {f"model.{name}": value for name, value in sizes.items()}
    settings |= {"training.jit_compile": False, "objective.ramp_steps": 5, "objective.input_dropout": 0.3}
    settings |= {"training.clip_norm": 1.0, "training.steps_per_epoch": 4}
    settings |= {} if "KERAS_BACKEND" in environment else {"data.split_seed": 3}  # 6 held out, which two devices share
    command = [sys.executable, "-m", "kvae", "train", "--preset", "hybrid-lstm", "--data", str(data), "--out", str(out)]
    command += ["--validation", str(out.parent / "held_out.txt")]
    command += ["--steps", str(STEPS), "--batch-size", "16", "--devices", str(devices)]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    log = (out.parent / f"{out.name}.log").open("wb")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Callable[..., Path]:
    """A function that gives the folder of the runs it is asked for: `one` and `two` (devices), both also on JAX, and
    `workers` with its `second` (two processes). Those that are missing are trained at the same time.
    """
    folder = tmp_path_factory.mktemp("devices")
    (folder / "held_out.txt").write_text("\n".join(corpus_file.read_text().split()[:8]))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    runs: dict[str, tuple[int, dict[str, str]]] = {
        "one": (1, {}),
        "two": (2, {}),
        "workers": (1, {"TF_CONFIG": tasks[0]}),
        "second": (1, {"TF_CONFIG": tasks[1]}),
        "jax_one": (1, JAX),
        "jax_two": (2, JAX),
    }

    def trained(*names: str) -> Path:
        missing = [name for name in names if not (folder / f"{name}.log").exists()]
        processes = {name: start(folder / name, corpus_file, runs[name][0], **runs[name][1]) for name in missing}
        for name, process in processes.items():
            assert process.wait(timeout=600) == 0, (folder / f"{name}.log").read_text()
        return folder

    return trained


@pytest.mark.parametrize(
    "names",
    [("one", "two"), ("jax_one", "jax_two"), pytest.param(("one", "workers", "second"), marks=pytest.mark.slow)],
    ids=lambda names: "-".join(names),
)
def test_a_batch_that_is_split_trains_as_a_whole_one(trained: Callable[..., Path], names: tuple[str, ...]) -> None:
    folder = trained(*names)
    whole, name, *_ = names
    one, split = records(folder / whole), records(folder / name)
    assert [line["step"] for line in split] == [4, 8, 12]
    for line, other in zip(one, split, strict=True):
        for metric in line.keys() - {"seconds"}:
            exact = 1e-3 if "gradient_norm" in metric else 1e-4  # variances between replicas are E(x^2) - E(x)^2
            assert other[metric] == pytest.approx(line[metric], rel=exact, abs=1e-4), metric
    report, other = (json.loads((folder / run / "report/evaluation.json").read_text()) for run in (whole, name))
    assert other["elbo"] == pytest.approx(report["elbo"], rel=1e-4)


def test_held_out_texts_that_do_not_divide_are_left_out_of_validation_alone(corpus_file: Path) -> None:
    settings = {"data.source": str(corpus_file), "model.length": 16}
    ready = prepare(preset("hybrid-lstm").with_settings(settings))
    assert len(ready.validation) == 7
    batches = [batch.shape[0] for batch in validation_batches(ready, batch_size=4, parts=2)]
    assert batches == [4, 2]


@pytest.mark.slow
def test_only_the_first_worker_writes_the_run(trained: Callable[..., Path]) -> None:
    folder = trained("workers", "second")
    assert (folder / "workers" / "model.keras").is_file()
    assert not (folder / "second").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.batch_size": 15}, "training.batch_size must be a multiple of the 2 devices that share it, got 15"),
        ({"objective.mmd": 1.0}, "objective.mmd needs the whole batch on one device"),
        ({"objective.encoder_updates": 2}, "objective.encoder_updates needs the whole batch"),
    ],
)
def test_what_cannot_be_split_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(preset("hybrid-lstm").with_settings({"training.batch_size": 16, **settings}), 2)


def test_more_devices_than_there_are_is_an_error() -> None:
    import tensorflow as tf

    tf.config.list_logical_devices()  # TensorFlow has started: the processor stays one device
    config = preset("hybrid-lstm").with_settings({"training.devices": 64})
    with pytest.raises(ConfigError, match="64 asked for, this machine has 1"), split_between(config):
        pass
