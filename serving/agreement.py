"""Comparison of a graph in a foreign runtime with the same graph in onnxruntime.

A runtime may load a graph and compute something else without an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .alphabet import END, PAD, SPECIALS
from .bundle import Bundle
from .errors import CheckFailed, first_line
from .random_numbers import normals

if TYPE_CHECKING:
    from .runtime import GraphSession

ROWS = 64
"""Number of texts in the comparison. Some errors appear in large batches only."""

TOLERANCE = 1e-3
"""Largest allowed difference, relative to 1 + |value|: far above rounding, far below an error."""


def check_agreement(
    bundle: Bundle, endpoint: str, runtime: str, foreign: GraphSession, own: GraphSession
) -> None:
    """Raise `CheckFailed` if two sessions of the graph of an endpoint with `INPUTS` give different
    outputs."""
    inputs = INPUTS[endpoint](bundle.manifest)
    try:
        found = foreign.run(None, inputs)
    except Exception as error:  # the exceptions of runtimes have no common base class
        raise CheckFailed(
            f"{bundle.path}: {runtime} cannot run the {endpoint} ({first_line(error)}); load the "
            "bundle with runtime 'onnxruntime'"
        ) from error
    for one, other in zip(found, own.run(None, inputs), strict=True):
        if not agree(one, other):
            raise CheckFailed(
                f"{bundle.path}: the {endpoint} gives other numbers in {runtime} than in "
                "onnxruntime; load the bundle with runtime 'onnxruntime'"
            )


def agree(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two outputs have the same shape and numbers equal within `TOLERANCE`."""
    if found.shape != expected.shape:
        return False
    close = np.abs(found - expected) <= TOLERANCE * (1 + np.abs(expected))
    return bool(close.all())


def texts(manifest: Mapping[str, Any]) -> np.ndarray:
    """Rows of tokens (ROWS, T) for the encoder and the scorer: all symbols in turn, and where texts
    have an end mark, ends at all positions."""
    length, symbols = manifest["length"], len(manifest["vocabulary"]["symbols"])
    tokens = len(SPECIALS) + np.arange(ROWS * length).reshape(ROWS, length) % max(1, symbols)
    if manifest["mode"] == "lines":
        ends = np.arange(ROWS) % length
        tokens[np.arange(ROWS), ends] = END
        tokens[np.arange(length)[None, :] > ends[:, None]] = PAD
    return tokens.astype(np.int32)


def scored(manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Inputs of the scorer, with labels that it infers."""
    rows = np.arange(ROWS)
    labels = {"attribute": np.full(ROWS, -1, np.int32)} if manifest["latent"]["attributes"] else {}
    return {"tokens": texts(manifest), "seed": np.zeros_like(rows), "row": rows, **labels}


INPUTS: dict[str, Callable[[Mapping[str, Any]], dict[str, np.ndarray]]] = {
    "encoder": lambda manifest: {"tokens": texts(manifest)},
    "scorer": scored,
    "expand": lambda manifest: {"z": normals(0, np.arange(ROWS), manifest["latent"]["size"])},
}
"""A manifest -> inputs of an endpoint whose outputs are compared. The sampler is not among them:
its texts are those of the seed test."""
