"""The runtime that computes the graphs, onnxruntime: the settings of its sessions and runs, and what its errors mean.

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
from .errors import BundleError

QUIET = 4
"""Log level of sessions and runs: what goes wrong is raised, not logged."""


def run_options() -> RunOptions:
    """Options of the runs of one call; setting their `terminate` ends these runs."""
    options = RunOptions()
    options.log_severity_level = QUIET
    return options


def session(graph: Path | bytes, threads: int | None = None) -> InferenceSession:
    """A graph, ready to run on `threads` cores, by default on all usable ones. Raises what onnxruntime raises.

    Thread counts are set explicitly: onnxruntime's default pins cores and fails in containers.
    """
    options = SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else threads
    options.inter_op_num_threads = 1
    options.log_severity_level = QUIET
    return InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def bundle_session(bundle: Bundle, endpoint: str, threads: int | None = None) -> InferenceSession:
    """The verified graph of an endpoint, ready to run; raises `BundleError` with what helps."""
    file = checked_graph(bundle, endpoint)
    try:
        return session(openable(file), threads)
    except Exception as error:  # onnxruntime's own exceptions share no useful base
        raise BundleError(
            f"{bundle.path}: onnxruntime {__version__} cannot load the {endpoint} ({first_line(error)}); {way_out(error)}"
        ) from error


def run(
    running: InferenceSession,
    endpoint: str,
    inputs: Mapping[str, Any],
    options: RunOptions | None = None,
) -> list[np.ndarray]:
    """The outputs of one run of an endpoint's graph; raises `BundleError` where it fails."""
    feed = {name: np.asarray(value) for name, value in inputs.items()}
    try:
        outputs: list[np.ndarray] = running.run(None, feed, options)
    except Exception as error:  # as above
        raise BundleError(
            f"the bundle's {endpoint} did not run ({first_line(error)}); check it with `kvae verify`"
        ) from error
    return outputs


def openable(file: Path) -> Path | bytes:
    """What onnxruntime takes for a file: its path, or its bytes where the path is not UTF-8."""
    try:
        os.fspath(file).encode()
    except UnicodeEncodeError:
        return file.read_bytes()
    return file


def way_out(error: Exception) -> str:
    """What helps where onnxruntime does not load a graph whose bytes are those that were exported."""
    told = f"{type(error).__name__} {error}".lower()
    if isinstance(error, MemoryError) or "bad_alloc" in told or "failed to allocate" in told:
        return "there is not enough memory: close other programs, or use a machine with more"
    if isinstance(error, OSError):
        return "look at the disk it lies on, and at the rights of this user"
    if any(
        sign in told
        for sign in (
            "not_implemented",
            "notimplemented",
            "could not find an implementation",
            "opset",
        )
    ):
        return "update onnxruntime"
    return "try another version of onnxruntime; `kvae verify` says whether the bundle is whole"


def first_line(error: Exception) -> str:
    """What an onnxruntime error says, on one line and short."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
