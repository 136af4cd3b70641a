"""Imports of Keras, TensorFlow, JAX and ONNX, made when a command runs.

They print no start-up messages, start no more threads than the CPU quota allows, and name the extra
to install if a package is missing.
"""

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
"""The extras whose commands need Keras."""

THREAD_COUNTS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "PJRT_NPROC")
"""Environment variables with the number of threads of TensorFlow and JAX.

Without them both start a thread for each core of the process' CPU affinity.
"""


@contextlib.contextmanager
def heavy_imports(*extras: str) -> Iterator[None]:
    """Context for imports of packages of `extras`: no start-up messages, limited threads.

    Raises `ConfigError` with the extra to install if a package is missing.
    """
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
            trains_on_jax = extras == ("train",) and os.environ.get("KERAS_BACKEND") == "jax"
            on_jax = trains_on_jax or error.name in ("jax", "jaxlib")
            names = "jax" if on_jax else ",".join(extras)
            raise ConfigError(
                f"this command needs {error.name}, which is not installed: "
                f"pip install 'kvae-text[{names}]'"
            ) from error


def follow_cpu_quota() -> None:
    """Limit the threads of TensorFlow and JAX to the CPU quota of the container, if it has one."""
    from kvae.serving.cores import cpu_quota, usable_cores

    if math.isfinite(cpu_quota()):
        for name in THREAD_COUNTS:
            os.environ.setdefault(name, str(usable_cores()))


@contextlib.contextmanager
def quiet_standard_error() -> Iterator[None]:
    """Context that buffers standard error, C libraries included.

    The buffer is printed only if an error other than a `KvaeError` is raised.
    """
    sys.stderr.flush()
    standard_error = os.dup(2)
    with tempfile.TemporaryFile() as buffer:
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        except BaseException as error:
            os.dup2(standard_error, 2)
            if not isinstance(error, KvaeError):
                buffer.seek(0)
                sys.stderr.write(buffer.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(standard_error, 2)
            os.close(standard_error)
