"""What the code carries on held-out texts, measured once after each epoch for every callback that asks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from .evaluation import active_units, collect, information, spread, varied

MOST_ROWS = 2000
"""Held-out rows that the code is measured on after each epoch."""


class LatentReport(keras.callbacks.Callback):
    """Puts `val_active_units` and `val_mutual_information` into the logs of each epoch, so that progress, metrics file,
    TensorBoard and alarm show the same numbers; it stands before them in the list of callbacks.

    `rows` (N, T) are held-out tokens and `attribute` (N,) their labels, at most `MOST_ROWS` of them at equal distances.
    `found` is what `collect` said of them last. A model without a code has nothing to report, and of rows that are all the same
    both numbers are left out: they would be 0 whatever the model is.
    """

    def __init__(self, rows: np.ndarray, attribute: np.ndarray | None = None) -> None:
        super().__init__()
        self.rows = spread(rows, MOST_ROWS)
        self.attribute = None if attribute is None else spread(attribute, MOST_ROWS)
        self.found: dict[str, np.ndarray] = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if not model.hierarchy.shapes:
            return
        self.found = collect(model, self.rows, attribute=self.attribute)
        if logs is not None:
            logs.setdefault(
                "val_kl", float(self.found["kl"].mean())
            )  # of a fit without validation data
            if not varied(self.rows):
                return
            logs["val_active_units"] = active_units(self.found["shift"])
            logs["val_mutual_information"] = information(model, self.found)
