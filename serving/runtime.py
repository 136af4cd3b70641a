"""onnxruntime, which runs the graphs: the settings of its sessions and runs, and the meaning of its
errors.

No other module of the product imports onnxruntime.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession, RunOptions, SessionOptions, __version__

from .bundle import Bundle, checked_graph
from .cores import usable_cores
from .errors import BundleError, first_line

__all__ = [
    "InferenceSession",
    "RunOptions",
    "bundle_session",
    "run",
    "run_options",
    "session",
    "way_out",
]

QUIET = 4
"""Log level of sessions and runs: errors are raised and not logged as well."""


def run_options() -> RunOptions:
    """Options for the runs of one call; setting their `terminate` stops these runs."""
    options = RunOptions()
    options.log_severity_level = QUIET
    return options


def session(graph: Path | bytes, threads: int | None = None) -> InferenceSession:
    """The session of a graph on `threads` cores, by default on all usable ones. Raises the errors
    of onnxruntime.

    The number of threads is set explicitly: onnxruntime's default pins cores and fails in
    containers.
    """
    options = SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def bundle_session(bundle: Bundle, endpoint: str, threads: int | None = None) -> InferenceSession:
    """The session of an endpoint's verified graph; raises `BundleError` with a way out."""
    file = checked_graph(bundle, endpoint)
    try:
        return session(path_or_bytes(file), threads)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise BundleError(
            f"{bundle.path}: onnxruntime {__version__} cannot load the {endpoint} "
            f"({first_line(error)}); {way_out(error)}"
        ) from error


def run(
    graph_session: InferenceSession,
    endpoint: str,
    inputs: Mapping[str, Any],
    options: RunOptions | None = None,
) -> list[np.ndarray]:
    """The outputs of one run of an endpoint's graph; raises `BundleError` if the run fails."""
    feed = {name: np.asarray(value) for name, value in inputs.items()}
    try:
        outputs: list[np.ndarray] = graph_session.run(None, feed, options)
    except Exception as error:  # as above
        raise BundleError(
            f"the bundle's {endpoint} failed to run ({first_line(error)}); "
            "check it with `kvae verify`"
        ) from error
    return outputs


def path_or_bytes(file: Path) -> Path | bytes:
    """A file as onnxruntime takes it: its path, or its bytes if the path is not UTF-8."""
    try:
        os.fspath(file).encode()
    except UnicodeEncodeError:
        return file.read_bytes()
    return file


def way_out(error: Exception) -> str:
    """Advice for an error of onnxruntime while it loads a graph whose sha256 is right."""
    message = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "bad_alloc" in message or "failed to allocate" in message:
        return "there is not enough memory: close other programs, or use a machine with more"
    if isinstance(error, OSError):
        return "check its disk and the permissions of this user"
    if any(
        phrase in message
        for phrase in (
            "not_implemented",
            "notimplemented",
            "could not find an implementation",
            "opset",
        )
    ):
        return "update onnxruntime"
    return "try another version of onnxruntime; `kvae verify` says whether the bundle is whole"
