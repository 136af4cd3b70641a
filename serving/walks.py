"""The way from one code to another: a line, or an arc around the origin."""

from __future__ import annotations

import numpy as np


def straight(start: np.ndarray, stop: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Points (n, d) of the line from `start` to `stop` (d,), at shares `along` (n, 1) of the way."""
    return start + along * (stop - start)


def arc(start: np.ndarray, stop: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Points (n, d) of the arc, as `straight`; where the two point the same way, or one is the origin, the line."""
    lengths = np.linalg.norm(start) * np.linalg.norm(stop)
    angle = np.arccos(np.clip(start @ stop / lengths, -1.0, 1.0)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        return straight(start, stop, along)
    return (np.sin((1.0 - along) * angle) * start + np.sin(along * angle) * stop) / np.sin(angle)


PATHS = {"linear": straight, "spherical": arc}
