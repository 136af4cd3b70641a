"""What is imported when a command runs: without chatter, with no more threads than are paid for, and where it is not
installed with the name of the extra."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterator

from kvae.backends import start_keras
from kvae.serving.errors import ConfigError, KvaeError

KERAS_EXTRAS = {"train", "export", "tune"}
"""Extras whose commands run on Keras."""

THREAD_COUNTS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "PJRT_NPROC")
"""What TensorFlow and JAX read when they start; without them they start a thread for each core of the affinity."""


@contextlib.contextmanager
def heavy_imports(*extras: str) -> Iterator[None]:
    """Import TensorFlow without its start-up chatter; say which extra is missing where it is not installed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    follow_cpu_quota()
    with quiet_standard_error():
        try:
            if KERAS_EXTRAS & set(extras):
                start_keras()
            yield
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("kvae"):
                raise
            wanted = "jax" if error.name in ("jax", "jaxlib") else ",".join(extras)
            raise ConfigError(
                f"this command needs {error.name}, which is not installed: pip install 'kvae-text[{wanted}]'"
            ) from error


def follow_cpu_quota() -> None:
    """In a container with a CPU quota, let TensorFlow and JAX start no more threads than it pays for."""
    from kvae.serving.cores import cpu_quota, usable_cores

    if math.isfinite(cpu_quota()):
        for name in THREAD_COUNTS:
            os.environ.setdefault(name, str(usable_cores()))


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Hold back what C libraries print, and give it out only if something fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException as error:
            os.dup2(kept, 2)
            if not isinstance(error, KvaeError):
                held.seek(0)
                sys.stderr.write(held.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
