"""Training on several devices, with the results of one device: each gets a part of every batch.

TensorFlow uses `tf.distribute`, with the devices of this machine or of several processes that find
each other by the environment variable TF_CONFIG. JAX uses the distribution API of Keras.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import keras

from kvae.configuration import Config
from kvae.model import TextVAE
from kvae.serving.errors import ConfigError
from kvae.slots import HEADS

ROLES = ("chief", "worker")
"""Roles of training processes in TF_CONFIG. All do the same; only the first one writes the run."""


def worker_count() -> int:
    """Number of processes that train together, from TF_CONFIG; 1 without it."""
    return max(1, len(training_processes()))


def worker_index() -> int:
    """Index of this process among those that train together; process 0 writes the run."""
    processes, task = training_processes(), tf_config()["task"]
    return processes.index((task["type"], int(task["index"]))) if processes else 0


def training_processes() -> list[tuple[str, int]]:
    """Role and index of every process that trains, the chief first."""
    cluster = tf_config()["cluster"]
    return [(role, index) for role in ROLES for index in range(len(cluster.get(role, [])))]


def tf_config() -> dict[str, Any]:
    """`cluster` and `task` of TF_CONFIG, both empty without it.

    Raises `ConfigError` for an invalid TF_CONFIG, and in a process that does not train.
    """
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        content = str(error)
    problem = next(tf_config_problems(content), None)
    if problem:
        raise ConfigError(f"TF_CONFIG: {problem}; it is {text[:80]!r}")
    return {"cluster": content.get("cluster") or {}, "task": content.get("task") or {}}


def tf_config_problems(content: Any) -> Iterator[str]:
    """What is wrong with the content of a TF_CONFIG, the most basic problem first."""
    if not isinstance(content, dict):
        yield (
            f'not an object of JSON ({content}); give {{"cluster": ..., "task": ...}}, '
            f"or unset it to train in one process"
        )
        return
    cluster, task = content.get("cluster") or {}, content.get("task") or {}
    for name, part in {"cluster": cluster, "task": task}.items():
        if not isinstance(part, dict):
            yield f"{name} must be an object, got {part!r}"
            return
    role, index = task.get("type"), task.get("index")
    if role == "evaluator":
        yield (
            "this process is an evaluator, but kvae evaluates in the training processes: "
            "do not start an evaluator"
        )
    for name in [*cluster, *([role] if task else [])]:
        if name not in ROLES:
            yield f"the role {name!r} is not supported, all processes train: use chief and worker"
    for name, hosts in cluster.items():
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            yield (
                f"cluster.{name} must be a list of addresses, "
                f'such as ["a:2222", "b:2222"], got {hosts!r}'
            )
    if not any(cluster.values()):
        return
    if len(cluster.get("chief", [])) > 1:
        yield "cluster lists several chiefs: keep one, and list the others as worker"
    if isinstance(index, bool) or not str(index).isdecimal():
        yield f"task.index must be the number of this process in its role, from 0, got {index!r}"
    elif role not in cluster or int(str(index)) >= len(cluster[role]):
        yield f"task is {role} {index}, which cluster does not list"


@contextlib.contextmanager
def split_between(config: Config) -> Iterator[None]:
    """Context in which models are built and trained on `training.devices` devices of each worker.

    With one device and one worker it changes nothing. Raises `ConfigError` for settings that do not
    work with several devices.
    """
    devices, processes = config.training.devices, worker_count()
    if devices * processes == 1:
        yield
        return
    check_split(config, devices * processes)
    if keras.backend.backend() == "jax":
        if processes > 1:
            raise ConfigError(
                "TF_CONFIG: several processes need KERAS_BACKEND=tensorflow; "
                "unset it, or use one process"
            )
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=available_devices(devices))
        )
        try:
            yield
        finally:
            keras.distribution.set_distribution(None)
        return
    import tensorflow as tf

    if processes > 1:
        strategy: Any = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        strategy = tf.distribute.MirroredStrategy(available_devices(devices))
    with strategy.scope():
        yield


def check_parts(batch_size: int) -> None:
    """Raise `ConfigError` if the devices cannot share a batch equally.

    A corpus with fewer texts than `training.batch_size` makes such batches.
    """
    parts = equal_parts()
    if batch_size % parts:
        raise ConfigError(
            f"the corpus makes batches of {batch_size} texts, which {parts} devices cannot share "
            f"equally; set a smaller training.batch_size, a multiple of {parts}"
        )


def check_split(config: Config, parts: int) -> None:
    """Raise `ConfigError` for settings that would give other results on several devices."""
    objective, batch_size = config.objective, config.training.batch_size
    if batch_size % parts:
        raise ConfigError(
            f"training.batch_size must be a multiple of the {parts} devices that share it, "
            f"got {batch_size}"
        )
    if keras.backend.backend() == "jax":
        return
    if objective.importance_gradient != "standard":
        raise ConfigError(
            f"objective.importance_gradient {objective.importance_gradient!r} takes two gradients "
            "of a step, which TensorFlow does on one device; train it with --devices 1 or with "
            "KERAS_BACKEND=jax"
        )
    for name in ("mmd", "encoder_updates"):
        if getattr(objective, name):
            raise ConfigError(
                f"objective.{name} needs the whole batch on one device on TensorFlow; "
                f"train it with --devices 1 or with KERAS_BACKEND=jax"
            )
    attends = "head_attention_heads" in HEADS[config.model.head].reads
    for name in ("encoder_dropout", *(["head_dropout"] if attends else [])):
        if getattr(config.model, name):
            raise ConfigError(
                f"model.{name}: on TensorFlow the layers of keras-nlp draw dropout on each device; "
                f"set it to 0, or train with --devices 1 or with KERAS_BACKEND=jax"
            )


def available_devices(count: int) -> list[str]:
    """The names of the first `count` accelerators, or of CPU devices if there is no accelerator.

    Raises `ConfigError` if there are fewer.
    """
    if keras.backend.backend() == "jax":
        devices: list[str] = keras.distribution.list_devices()
    else:
        devices = tensorflow_devices(count)
    if len(devices) < count:
        raise ConfigError(
            f"training.devices must be at most {len(devices)}, the number of devices of this "
            f"machine ({', '.join(devices)}), got {count}"
        )
    return devices[:count]


def tensorflow_devices(count: int) -> list[str]:
    """The names of TensorFlow's GPUs; without a GPU, of `count` CPU devices."""
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return logical_devices("GPU")
    return virtual_processors(count)


def virtual_processors(count: int) -> list[str]:
    """The CPU as `count` devices, for experiments; one device if TensorFlow has already started."""
    import tensorflow as tf

    (processor,) = tf.config.list_physical_devices("CPU")
    with contextlib.suppress(RuntimeError):
        tf.config.set_logical_device_configuration(
            processor, [tf.config.LogicalDeviceConfiguration()] * count
        )
    return logical_devices("CPU")


def logical_devices(kind: str) -> list[str]:
    """The names of TensorFlow's devices of a kind, as a strategy expects them."""
    import tensorflow as tf

    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]


def synchronize(model: TextVAE) -> None:
    """Make batch normalisation use the statistics of the whole batch, not of a replica's part."""
    if is_split():
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True


def equal_parts() -> int:
    """Number of equal parts into which every batch must divide.

    JAX shards arrays evenly, and a replica of TensorFlow fails if it gets no text.
    """
    distribution = keras.distribution.distribution()
    if distribution:
        return int(distribution.device_mesh.devices.size)
    return replicas()


def is_split() -> bool:
    """Whether models are built for several replicas of TensorFlow, which XLA cannot compile."""
    return replicas() > 1


def replicas() -> int:
    """Number of replicas of TensorFlow; 1 on another backend."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return int(tf.distribute.get_strategy().num_replicas_in_sync)
