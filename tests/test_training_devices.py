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

from kvae.cli import main
from kvae.presets import preset
from kvae.serving.errors import ConfigError
from kvae.training.data.pipeline import validation_batches
from kvae.training.data.prepare import prepare
from kvae.training.devices import check_split, split_between, worker_count, worker_index

from .conftest import train_command

STEPS = 12
JAX = {
    "KERAS_BACKEND": "jax",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    "NPROC": "8",
}
"""Two devices on one processor.

With a thread for each core (`NPROC`), they deadlock on two cores: each waits for the other's sums.
"""


def command_of(out: Path, data: Path, devices: int, **environment: str) -> list[str]:
    settings: dict[str, Any] = {
        "objective.ramp_steps": 5,
        "objective.input_dropout": 0.3,
        "training.clip_norm": 1.0,
        "training.steps_per_epoch": 4,
    }
    if "KERAS_BACKEND" not in environment:
        settings["data.split_seed"] = 3  # 6 held out, which two devices share
    arguments = ["--preset", "hybrid-lstm", "--validation", str(out.parent / "held_out.txt")]
    arguments += ["--steps", str(STEPS), "--devices", str(devices)]
    return train_command(out, data, *arguments, settings=settings)


def start(out: Path, data: Path, devices: int, **environment: str) -> subprocess.Popen[bytes]:
    log = (out.parent / f"{out.name}.log").open("wb")
    command = command_of(out, data, devices, **environment)
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
    """A function that trains runs by name and returns their common folder.

    `one` and `two` run on one and two devices; `jax_one` and `jax_two` do so on JAX. `workers` and
    `second` are two processes of one run. Missing runs are trained at the same time, each in a
    process of its own but `one`, which needs no devices of its own.
    """
    folder = tmp_path_factory.mktemp("devices")
    (folder / "held_out.txt").write_text("\n".join(corpus_file.read_text().split()[:8]))
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
    tasks = [
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        for index in range(2)
    ]
    runs: dict[str, tuple[int, dict[str, str]]] = {
        "one": (1, {}),
        "two": (2, {}),
        "workers": (1, {"TF_CONFIG": tasks[0]}),
        "second": (1, {"TF_CONFIG": tasks[1]}),
        "jax_one": (1, JAX),
        "jax_two": (2, JAX),
    }

    def trained(*names: str) -> Path:
        missing = [
            name for name in names if name != "one" and not (folder / f"{name}.log").exists()
        ]
        processes = {
            name: start(folder / name, corpus_file, runs[name][0], **runs[name][1])
            for name in missing
        }
        if "one" in names and not (folder / "one").exists():
            assert main(command_of(folder / "one", corpus_file, 1)[3:]) == 0
        for name, process in processes.items():
            assert process.wait(timeout=600) == 0, (folder / f"{name}.log").read_text()
        return folder

    return trained


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(("one", "two"), marks=pytest.mark.slow),
        pytest.param(("jax_one", "jax_two"), marks=pytest.mark.slow),
        pytest.param(("one", "workers", "second"), marks=pytest.mark.slow),
    ],
    ids=lambda names: "-".join(names),
)
def test_a_batch_that_is_split_trains_as_a_whole_one(
    trained: Callable[..., Path], names: tuple[str, ...]
) -> None:
    folder = trained(*names)
    whole, name, *_ = names
    one, split = records(folder / whole), records(folder / name)
    assert [line["step"] for line in split] == [4, 8, 12]
    for line, other in zip(one, split, strict=True):
        for metric in line.keys() - {"seconds"}:
            exact = (
                1e-3 if "gradient_norm" in metric else 1e-4
            )  # variances between replicas are E(x^2) - E(x)^2
            assert other[metric] == pytest.approx(line[metric], rel=exact, abs=1e-4), metric
    report, other = (
        json.loads((folder / run / "report/evaluation.json").read_text()) for run in (whole, name)
    )
    assert other["elbo"] == pytest.approx(report["elbo"], rel=1e-4)


def test_held_out_texts_that_do_not_divide_are_left_out_of_validation_alone(
    corpus_file: Path,
) -> None:
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
        (
            {"training.batch_size": 15},
            "training.batch_size must be a multiple of the 2 devices that share it, got 15",
        ),
        ({"objective.mmd": 1.0}, "objective.mmd needs the whole batch on one device"),
        ({"objective.encoder_updates": 2}, "objective.encoder_updates needs the whole batch"),
        (
            {"model.head": "transformer", "model.head_dropout": 0.1},
            "model.head_dropout: on TensorFlow the layers of keras-nlp draw dropout",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_split(preset("hybrid-lstm").with_settings({"training.batch_size": 16, **settings}), 2)


def test_more_devices_than_there_are_is_an_error() -> None:
    import tensorflow as tf

    tf.config.list_logical_devices()  # TensorFlow has started: the processor stays one device
    config = preset("hybrid-lstm").with_settings({"training.devices": 64})
    with pytest.raises(ConfigError, match=r"must be at most 1, .* got 64"), split_between(config):
        pass


CLUSTER = {"worker": ["a:2222", "b:2222"]}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("{", "not an object of JSON .* unset it"),
        ("[" * 100_000, "not an object of JSON"),
        ("[1]", "not an object of JSON"),
        ('{"cluster": []}', None),
        ('{"cluster": [1]}', "cluster must be an object"),
        (
            {"cluster": CLUSTER, "task": {"type": "evaluator", "index": 0}},
            "this process is an evaluator",
        ),
        (
            {"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}},
            "this process is an evaluator",
        ),
        (
            {"cluster": {**CLUSTER, "ps": ["c:1"]}, "task": {"type": "worker", "index": 0}},
            "the role 'ps' is not supported",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "ps", "index": 0}},
            "the role 'ps' is not supported",
        ),
        (
            {"cluster": {**CLUSTER, "master": ["c:1"]}, "task": {"type": "master", "index": 0}},
            "the role 'master' is not supported",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "worker", "index": "first"}},
            "task.index must be the number .* 'first'",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "worker", "index": -1}},
            "task.index must be the number .* -1",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "worker", "index": 2}},
            "task is worker 2, which cluster does not list",
        ),
        (
            {"cluster": CLUSTER, "task": {"type": "chief", "index": 0}},
            "task is chief 0, which cluster does not list",
        ),
        ({"cluster": CLUSTER}, "task.index must be the number"),
        (
            {"cluster": {"worker": "machine-a:2222"}, "task": {"type": "worker", "index": 0}},
            "must be a list of addresses",
        ),
        (
            {"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}},
            "must be a list of addresses",
        ),
        (
            {"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}},
            "several chiefs",
        ),
    ],
)
def test_a_cluster_that_does_not_say_who_trains_is_refused(
    found: Any, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", found if isinstance(found, str) else json.dumps(found))
    if message is None:
        assert (worker_count(), worker_index()) == (1, 0)
        return
    for ask in (worker_count, worker_index):
        with pytest.raises(ConfigError, match=f"^TF_CONFIG: .*{message}") as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "together", "own"),
    [
        (None, 1, 0),
        ({}, 1, 0),
        ({"cluster": {}, "task": {"type": "worker", "index": 0}, "environment": "cloud"}, 1, 0),
        ({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}, 1, 0),
        ({"cluster": CLUSTER, "task": {"type": "worker", "index": "1"}}, 2, 1),
        ({"cluster": {"chief": ["a:1"], **CLUSTER}, "task": {"type": "chief", "index": 0}}, 3, 0),
        ({"cluster": {"chief": ["a:1"], **CLUSTER}, "task": {"type": "worker", "index": 0}}, 3, 1),
    ],
)
def test_a_scheduler_says_which_process_this_is(
    found: Any, together: int, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if found is not None:
        monkeypatch.setenv("TF_CONFIG", json.dumps(found))
    assert (worker_count(), worker_index()) == (together, own)


def weighted_on_devices() -> None:
    """In a process of its own: two devices and one train the same on texts with weights."""
    import keras
    import numpy as np

    from .conftest import COMPILED, random_tokens, small_model

    rows, weights = random_tokens(8), np.array([2, 1, 0, 1, 3, 1, 0.5, 4])
    found = {}
    for devices in (2, 1):
        with split_between(
            preset("hybrid-lstm").with_settings(
                {"training.devices": devices, "training.batch_size": 8}
            )
        ):
            model = small_model(
                {"penalty": "constrained", "kl_target": 3.0}, encoder="lstm", expander="repeat"
            )
            model.compile(keras.optimizers.SGD(0.1, global_clipnorm=1.0), **COMPILED)
            history = model.fit(
                rows, sample_weight=weights, batch_size=8, epochs=2, shuffle=False, verbose=0
            ).history
            found[devices] = {
                **history,
                "after": model.evaluate(rows, sample_weight=weights, batch_size=8, verbose=0),
            }
    for name, values in found[1].items():
        assert found[2][name] == pytest.approx(values, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, JAX], ids=["tensorflow", "jax"])
def test_texts_with_weights_are_split_as_a_whole_batch(environment: dict[str, str]) -> None:
    code = "from tests.test_training_devices import weighted_on_devices; weighted_on_devices()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
