"""Pictures of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.runs import read_epochs

PANELS = {
    "bound: reconstruction + KL (nats per sequence)": ("elbo",),
    "reconstruction and KL (nats per sequence)": ("reconstruction", "kl"),
    "beta": ("beta",),
}


def plot_curves(metrics: Path, picture: Path) -> None:
    """The learning curves of a metrics file, training dashed and validation solid, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    if not metrics.exists():  # stopped before the first epoch ended
        return
    records = read_epochs(metrics)
    if not records:
        return
    steps = [record["step"] for record in records]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(5 * len(PANELS), 4), layout="constrained")
    for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
        for color, name in enumerate(names):
            axis.plot(steps, points(records, name), "o--", color=f"C{color}", label=f"{name}, training")
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
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)


def points(records: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A metric of each epoch, NaN where it was no finite number: the curve has a gap there."""
    return [math.nan if record.get(name) is None else record[name] for record in records]
