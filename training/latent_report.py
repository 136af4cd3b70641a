"""Active units and mutual information of held-out texts, measured once an epoch for callbacks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .evaluation import (
    active_units,
    collect,
    evenly_spaced,
    information,
    information_ceiling,
    rows_differ,
)

MAX_ROWS = 2000
"""Largest number of held-out rows that are measured after each epoch."""


class LatentReport(keras.callbacks.Callback):
    """Adds `val_active_units`, `val_mutual_information` and its ceiling to the logs of each epoch.

    Progress bar, metrics file, TensorBoard and alarm then show the same numbers, so it must come
    before them in the list of callbacks.

    `rows` (N, T) are held-out tokens and `attribute` (N,) their labels. At most `MAX_ROWS` of them,
    at equal distances, are measured. `collected` is the last result of `collect` for them. A model
    without a latent code has nothing to report. If all rows are equal the metrics are left out,
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
            for name, values in self.collected.items():
                if name == "kl" or name.startswith("kl_level_"):
                    # `fit` without validation data does not have them
                    logs.setdefault(f"val_{name}", float(values.mean()))
            if not rows_differ(self.rows):
                return
            logs["val_active_units"] = active_units(self.collected["shift"])
            logs["val_mutual_information"] = information(model, self.collected)
            logs["val_mutual_information_ceiling"] = information_ceiling(self.rows)
