"""Several devices: every batch is split between them, and the numbers are those of one device with the whole batch.

On TensorFlow through `tf.distribute`: the devices of this machine, or those of several processes that find each other by
the environment variable TF_CONFIG. On JAX through Keras' own distribution.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.serving.errors import ConfigError

ROLES = ("chief", "worker")
"""The processes of TF_CONFIG that train, alike but that the first one writes the run."""


def workers() -> int:
    """Processes that train together, from TF_CONFIG; 1 without it."""
    return max(1, len(members()))


def worker() -> int:
    """Which of them this one is; number 0 writes the run."""
    together, task = members(), settings()["task"]
    return together.index((task["type"], int(task["index"]))) if together else 0


def members() -> list[tuple[str, int]]:
    """Role and index of each of them, the chief first."""
    cluster = settings()["cluster"]
    return [(role, index) for role in ROLES for index in range(len(cluster.get(role, [])))]


def settings() -> dict[str, Any]:
    """`cluster` and `task` of TF_CONFIG, empty without it. Raises `ConfigError` for one that does not say which processes
    train, and in a process that is not one of them."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = str(error)
    reason = next(complaints(found), None)
    if reason:
        raise ConfigError(f"TF_CONFIG: {reason}; it is {text[:80]!r}")
    return {"cluster": found.get("cluster") or {}, "task": found.get("task") or {}}


def complaints(found: Any) -> Iterator[str]:
    """What is wrong with a TF_CONFIG, the first cause first."""
    if not isinstance(found, dict):
        yield f'not an object of JSON ({found}); give {{"cluster": ..., "task": ...}}, or unset it to train in one process'
        return
    cluster, task = found.get("cluster") or {}, found.get("task") or {}
    for name, part in {"cluster": cluster, "task": task}.items():
        if not isinstance(part, dict):
            yield f"{name} must be an object, got {part!r}"
            return
    role, index = task.get("type"), task.get("index")
    if role == "evaluator":
        yield "this process is an evaluator, and kvae evaluates in the processes that train: start none for it"
    for name in [*cluster, *([role] if task else [])]:
        if name not in ROLES:
            yield f"the role {name!r} is none that kvae has, all its processes train: name them chief and worker"
    for name, hosts in cluster.items():
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            yield f'cluster.{name} must be a list of addresses, as ["a:2222", "b:2222"], got {hosts!r}'
    if not any(cluster.values()):
        return
    if len(cluster.get("chief", [])) > 1:
        yield "cluster lists several chiefs: name one, and the others worker"
    if isinstance(index, bool) or not str(index).isdecimal():
        yield f"task.index must be the number of this process in its role, from 0 on, got {index!r}"
    elif role not in cluster or int(str(index)) >= len(cluster[role]):
        yield f"task is {role} {index}, which cluster does not list"


@contextlib.contextmanager
def split_between(config: Config) -> Iterator[None]:
    """Within this, models are built and trained on `training.devices` devices and all workers; with one of each, as ever."""
    devices, together = config.training.devices, workers()
    if devices * together == 1:
        yield
        return
    check(config, devices * together)
    if keras.backend.backend() == "jax":
        if together > 1:
            raise ConfigError(
                "TF_CONFIG: several processes need KERAS_BACKEND=tensorflow; unset it, or use one process"
            )
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=available(devices))
        )
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
        return
    if together > 1:
        strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.MirroredStrategy(available(devices))
    with strategy.scope():
        yield


def check_parts(batch_size: int) -> None:
    """Refuse batches that do not divide, as those of a corpus with fewer texts than a batch."""
    parts = equal_parts()
    if batch_size % parts:
        raise ConfigError(
            f"the corpus makes batches of {batch_size} texts, which {parts} devices cannot share equally; set a smaller "
            f"training.batch_size, a multiple of {parts}"
        )


def check(config: Config, parts: int) -> None:
    """Refuse what cannot be split with equal numbers."""
    objective, batch_size = config.objective, config.training.batch_size
    if batch_size % parts:
        raise ConfigError(
            f"training.batch_size must be a multiple of the {parts} devices that share it, got {batch_size}"
        )
    if keras.backend.backend() == "jax":
        return
    for name, used in (("mmd", objective.mmd), ("encoder_updates", objective.encoder_updates)):
        if used:
            raise ConfigError(
                f"objective.{name} needs the whole batch on one device on TensorFlow; train it with --devices 1 or "
                f"with KERAS_BACKEND=jax"
            )


def available(count: int) -> list[str]:
    """The first `count` accelerators; without any, processors."""
    if keras.backend.backend() == "jax":
        found = keras.distribution.list_devices()
    else:
        found = (
            logical_devices("GPU")
            if tf.config.list_physical_devices("GPU")
            else virtual_processors(count)
        )
    if len(found) < count:
        raise ConfigError(
            f"training.devices: {count} asked for, this machine has {len(found)} ({', '.join(found)})"
        )
    return found[:count]


def virtual_processors(count: int) -> list[str]:
    """The processor as `count` devices, for trying things out; as it is where TensorFlow has started with it already."""
    (processor,) = tf.config.list_physical_devices("CPU")
    with contextlib.suppress(RuntimeError):
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    return logical_devices("CPU")


def logical_devices(kind: str) -> list[str]:
    """TensorFlow's devices of a kind, by the names that a strategy takes."""
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]


def synchronize(model: TextVAE) -> None:
    """Let batch normalisation see the statistics of the whole batch, where replicas hold parts of it."""
    if is_split():
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def equal_parts() -> int:
    """Into how many parts of the same size every batch must divide: JAX shards arrays evenly, and a replica of TensorFlow
    that gets no text fails."""
    distribution = keras.distribution.distribution()
    return (
        distribution.device_mesh.devices.size
        if distribution
        else tf.distribute.get_strategy().num_replicas_in_sync
    )


def is_split() -> bool:
    """Whether models are built for replicas of TensorFlow, which XLA cannot compile."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1
