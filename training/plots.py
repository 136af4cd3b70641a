"""Learning curves of a run as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.runs import read_epochs

from .figures import figure_axes

PANELS = {
    "bound: reconstruction + KL (nats per sequence)": ("elbo", "importance_weighted_nll"),
    "reconstruction and KL (nats per sequence)": ("reconstruction", "kl"),
    "beta": ("beta",),
}
"""Panels of the picture: the metrics of each, by its title."""


def plot_curves(metrics: Path, picture: Path) -> None:
    """Draw the learning curves of a metrics file into a PNG: training dashed, validation solid.

    Draws nothing if no epoch has ended.
    """
    records = read_epochs(metrics)
    if not records:
        return
    steps = [record["step"] for record in records]
    with figure_axes(picture, len(PANELS), width=5.0, height=4.0) as axes:
        for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
            for color, name in enumerate(name for name in names if name in records[0]):
                axis.plot(
                    steps,
                    points(records, name),
                    "o--",
                    color=f"C{color}",
                    label=f"{name}, training",
                )
                if f"val_{name}" in records[0] and name != "beta":
                    axis.plot(
                        steps,
                        points(records, f"val_{name}"),
                        "o-",
                        color=f"C{color}",
                        label=f"{name}, held out",
                    )
            axis.set(title=title, xlabel="training step")
            axis.legend()


def points(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A metric per epoch; NaN, which makes a gap in the curve, if it was not finite."""
    return [math.nan if record.get(name) is None else record[name] for record in records]
