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


def workers() -> int:
    """Processes that train together, from TF_CONFIG; 1 without it."""
    cluster = settings().get("cluster", {})
    return max(1, len(cluster.get("worker", [])) + len(cluster.get("chief", [])))


def worker() -> int:
    """Which of them this one is; number 0 writes the run."""
    task = settings().get("task", {})
    chiefs = len(settings().get("cluster", {}).get("chief", []))
    return 0 if task.get("type") == "chief" else chiefs + int(task.get("index", 0))


def settings() -> dict[str, Any]:
    """TF_CONFIG, or nothing."""
    try:
        found = json.loads(os.environ.get("TF_CONFIG") or "{}")
        if not all(isinstance(part, dict) for part in (found, found.get("cluster", {}), found.get("task", {}))):
            raise ValueError("cluster and task must be objects")
        return found
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"TF_CONFIG is not what TensorFlow describes ({error}): {os.environ['TF_CONFIG'][:80]!r}"
        ) from error


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
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=available(devices)))
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
        found = logical_devices("GPU") if tf.config.list_physical_devices("GPU") else virtual_processors(count)
    if len(found) < count:
        raise ConfigError(f"training.devices: {count} asked for, this machine has {len(found)} ({', '.join(found)})")
    return found[:count]


def virtual_processors(count: int) -> list[str]:
    """The processor as `count` devices, for trying things out; as it is where TensorFlow has started with it already."""
    (processor,) = tf.config.list_physical_devices("CPU")
    with contextlib.suppress(RuntimeError):
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * count)
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
    return distribution.device_mesh.devices.size if distribution else tf.distribute.get_strategy().num_replicas_in_sync


def is_split() -> bool:
    """Whether models are built for replicas of TensorFlow, which XLA cannot compile."""
    return tf.distribute.get_strategy().num_replicas_in_sync > 1
