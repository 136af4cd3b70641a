"""The runtimes that run the graphs of a bundle: onnxruntime, and others on request.

Only this module imports onnxruntime. It has the settings of its sessions and runs and the meaning
of its errors. A foreign runtime is a row of `RUNTIMES` and a module with a class of sessions. A
graph that it has loaded is compared with onnxruntime before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from onnxruntime import InferenceSession, RunOptions, SessionOptions, __version__

from . import openvino_sessions
from .agreement import INPUTS, check_agreement
from .bundle import Bundle, checked_graph
from .cores import usable_cores
from .errors import BundleError, KvaeError, first_line
from .manifest import ALL_ENDPOINTS

__all__ = [
    "OWN",
    "RUNTIMES",
    "GraphSession",
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


class GraphSession(Protocol):
    """A graph that a runtime has loaded."""

    def run(
        self, output_names: None, inputs: dict[str, np.ndarray], options: RunOptions | None = None
    ) -> list[np.ndarray]:
        """All outputs of one run, in the order of the graph. May be called from many threads. A
        runtime that can ends the run with an error soon after `options.terminate` is set."""
        ...


@dataclass(frozen=True)
class Runtime:
    """A program that runs graphs."""

    session: Callable[[Path | bytes, int], GraphSession]
    """A graph and a number of threads -> its session."""
    version: Callable[[], str]
    endpoints: tuple[str, ...] = ALL_ENDPOINTS
    """The graphs that it runs; onnxruntime runs the others."""


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


OWN = "onnxruntime"
"""The runtime that is always installed."""

RUNTIMES: dict[str, Runtime] = {
    OWN: Runtime(session, lambda: __version__),
    # The random numbers of `prior` and `step` are right in onnxruntime only, see
    # kvae.export.random_numbers.
    "openvino": Runtime(
        openvino_sessions.OpenVinoSession,
        openvino_sessions.version,
        ("sampler", "sampler_plain", "encoder", "scorer", "expand"),
    ),
}
"""The runtimes that a `Sampler` can be loaded with, by name."""


def bundle_session(
    bundle: Bundle, endpoint: str, threads: int | None = None, runtime: str = OWN
) -> GraphSession:
    """The session of an endpoint's verified graph.

    Raises `BundleError` with a way out if it cannot be loaded, and `CheckFailed` if a foreign
    runtime computes something else than onnxruntime.
    """
    file = checked_graph(bundle, endpoint)
    if endpoint not in RUNTIMES[runtime].endpoints:
        runtime = OWN
    made = loaded(bundle, endpoint, file, threads, runtime)
    if runtime != OWN and endpoint in INPUTS:
        own = loaded(bundle, endpoint, file, threads, OWN)
        check_agreement(bundle, endpoint, runtime, made, own)
    return made


def loaded(
    bundle: Bundle, endpoint: str, file: Path, threads: int | None, runtime: str
) -> GraphSession:
    """The session of a graph in a runtime; raises `BundleError` with a way out."""
    chosen, threads = RUNTIMES[runtime], usable_cores() if threads is None else threads
    try:
        return chosen.session(path_or_bytes(file), threads)
    except KvaeError:
        raise
    except Exception as error:  # the exceptions of runtimes have no common base class
        advice = way_out(error) if runtime == OWN else f"load the bundle with runtime {OWN!r}"
        raise BundleError(
            f"{bundle.path}: {runtime} {chosen.version()} cannot load the {endpoint} "
            f"({first_line(error)}); {advice}"
        ) from error


def run(
    graph_session: GraphSession,
    endpoint: str,
    inputs: Mapping[str, Any],
    options: RunOptions | None = None,
) -> list[np.ndarray]:
    """The outputs of one run of an endpoint's graph; raises `BundleError` if the run fails."""
    feed = {name: np.asarray(value) for name, value in inputs.items()}
    try:
        return graph_session.run(None, feed, options)
    except KvaeError:
        raise
    except Exception as error:  # as above
        raise BundleError(
            f"the bundle's {endpoint} failed to run ({first_line(error)}); "
            "check it with `kvae verify`"
        ) from error


def path_or_bytes(file: Path) -> Path | bytes:
    """A file as a runtime takes it: its path, or its bytes if the path is not UTF-8."""
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
            "matmulnbits",  # of eight bits; before 1.22 it had four
        )
    ):
        return "update onnxruntime"
    return "try another version of onnxruntime; `kvae verify` says whether the bundle is whole"
