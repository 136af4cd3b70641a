"""Active units and mutual information of held-out texts, measured once an epoch for callbacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .evaluation import active_units, collect, evenly_spaced, information, rows_differ

MAX_ROWS = 2000
"""Largest number of held-out rows that are measured after each epoch."""


class LatentReport(keras.callbacks.Callback):
    """Adds `val_active_units` and `val_mutual_information` to the logs of each epoch.

    Progress bar, metrics file, TensorBoard and alarm then show the same numbers, so it must come
    before them in the list of callbacks.

    `rows` (N, T) are held-out tokens and `attribute` (N,) their labels. At most `MAX_ROWS` of them,
    at equal distances, are measured. `collected` is the last result of `collect` for them. A model
    without a latent code has nothing to report. If all rows are equal both metrics are left out,
    because they would be 0 for every model.
    """

    def __init__(self, rows: np.ndarray, attribute: np.ndarray | None = None) -> None:
        super().__init__()
        self.rows = evenly_spaced(rows, MAX_ROWS)
        self.attribute = None if attribute is None else evenly_spaced(attribute, MAX_ROWS)
        self.collected: dict[str, np.ndarray] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if not model.hierarchy.shapes:
            return
        self.collected = collect(model, self.rows, attribute=self.attribute)
        if logs is not None:
            # `fit` without validation data has no val_kl
            logs.setdefault("val_kl", float(self.collected["kl"].mean()))
            if not rows_differ(self.rows):
                return
            logs["val_active_units"] = active_units(self.collected["shift"])
            logs["val_mutual_information"] = information(model, self.collected)
