"""OpenVINO as a runtime of a bundle, on a CPU. It is imported when it is first used."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ConfigError

if TYPE_CHECKING:
    from .runtime import RunOptions

LARGEST_SEED = 2**32 - 1
"""OpenVINO keeps the lower 32 bits of a whole number. A graph would take a larger seed for another
one without an error."""


def openvino() -> Any:
    """The package openvino; raises `ConfigError` if it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            "runtime 'openvino' needs the package openvino: pip install 'kvae-text[openvino]'"
        ) from error
    return openvino


def version() -> str:
    """The version of OpenVINO, without the name of its build."""
    found: str = openvino().__version__
    return found.split("-")[0]


class OpenVinoSession:
    """A graph that OpenVINO has compiled for `threads` cores. Every thread that runs it has a
    request of its own."""

    def __init__(self, graph: Path | bytes, threads: int) -> None:
        core = openvino().Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        except RuntimeError as error:  # of many lines, of which the last says what is missing
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        self._outputs = range(len(self._compiled.outputs))
        self._own = threading.local()

    def run(
        self, output_names: None, inputs: dict[str, np.ndarray], options: RunOptions | None = None
    ) -> list[np.ndarray]:
        """All outputs of one run; raises `ConfigError` for a seed above `LARGEST_SEED`.

        A run is not ended by `options`, so that deadlines hold between batches: after a cancelled
        run, OpenVINO 2026.4.1 may fail in later ones.
        """
        largest = int(np.max(inputs.get("seed", 0), initial=0))
        if largest > LARGEST_SEED:
            raise ConfigError(
                f"seed must be at most {LARGEST_SEED} in OpenVINO, got {largest}; give a smaller "
                "one, or load the bundle with runtime 'onnxruntime'"
            )
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        self._own.request.infer(inputs)
        return [self._own.request.get_output_tensor(place).data.copy() for place in self._outputs]
