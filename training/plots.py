"""Pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path

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
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record["step"] for record in records]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(5 * len(PANELS), 4), layout="constrained")
    for axis, (title, names) in zip(axes, PANELS.items(), strict=True):
        for color, name in enumerate(names):
            axis.plot(steps, [record[name] for record in records], "o--", color=f"C{color}", label=f"{name}, training")
            if f"val_{name}" in records[0] and name != "beta":
                axis.plot(
                    steps,
                    [record[f"val_{name}"] for record in records],
                    "o-",
                    color=f"C{color}",
                    label=f"{name}, held out",
                )
        axis.set(title=title, xlabel="training step")
        axis.legend()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
