"""Principal components of latent codes, in numpy."""

from __future__ import annotations

import numpy as np


def main_components(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mean (d,), the two main components (2, d) of length 1 and their shares of the variance
    (2,) of codes (n, d) with d of at least 2.

    The largest entry of a component is positive, so that equal codes give equal maps.
    """
    mean = codes.mean(axis=0)
    _, deviations, components = np.linalg.svd(codes - mean, full_matrices=False)
    components = components[:2]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.where(components[[0, 1], largest] < 0, -1.0, 1.0)[:, None]
    total = max(float((deviations**2).sum()), np.finfo(float).tiny)
    return mean, components, np.clip(deviations[:2] ** 2 / total, 0.0, 1.0)
