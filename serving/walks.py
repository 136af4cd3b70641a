"""Paths from one latent code to another: a straight line, or an arc around the origin."""

from __future__ import annotations

import numpy as np


def straight(start: np.ndarray, stop: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Points (n, d) on the line from `start` to `stop` (d,), at `fractions` (n, 1) of its
    length."""
    points: np.ndarray = start + fractions * (stop - start)
    return points


def arc(start: np.ndarray, stop: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Points (n, d) on the arc from `start` to `stop`, as `straight`. If both point in the same or
    in opposite directions, or one is the origin, the points are on the line."""
    lengths = np.linalg.norm(start) * np.linalg.norm(stop)
    angle = np.arccos(np.clip(start @ stop / lengths, -1.0, 1.0)) if lengths else 0.0
    if np.sin(angle) < 1e-6:
        return straight(start, stop, fractions)
    weighted_sum = np.sin((1.0 - fractions) * angle) * start + np.sin(fractions * angle) * stop
    points: np.ndarray = weighted_sum / np.sin(angle)
    return points


PATHS = {"linear": straight, "spherical": arc}
