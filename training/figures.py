"""Figures of studies, in the layout of the paper's where it has one: each takes results and writes a PNG."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvae.disk import naming

Results = Sequence[Mapping[str, Any]]
Draw = Callable[[Results, Path], None]


@contextlib.contextmanager
def figure_axes(
    path: Path, panels: int = 1, width: float = 7.0, height: float = 4.5
) -> Iterator[Any]:
    """Axes to draw on, saved when all is drawn; never a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, panels, figsize=(width * panels, height), layout="constrained", squeeze=False
    )
    yield axes[0]
    with naming(path):
        figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def series_of(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """The results of each curve, in order of x."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda item: item["x"]):
        found.setdefault(result["series"], []).append(result)
    return dict(sorted(found.items()))


def mean_curve(
    results: Results, name: str, in_bits: bool = False
) -> tuple[list[float], list[float]]:
    """A curve: every x with the mean of a metric over its seeds, as it is or in bits a character."""
    places = sorted({item["x"] for item in results})
    values = [
        [
            bits_per_character(item[name], item) if in_bits else item[name]
            for item in results
            if item["x"] == x
        ]
        for x in places
    ]
    return places, [float(np.mean(each)) for each in values]


def bits_per_character(nats: float, result: Mapping[str, Any]) -> float:
    """Nats a text as bits a character."""
    return nats * result["texts"] / result["positions"] / math.log(2.0)


def cost_and_kl(label: str) -> Draw:
    """The full cost (solid) and its KL (dashed) in bits a character over what `label` names, a colour for each series: the
    layout of Semeniuta et al. 2017, fig. 4 to 6."""

    def draw(results: Results, path: Path) -> None:
        with figure_axes(path) as (axis,):
            for color, (series, items) in enumerate(series_of(results).items()):
                for name, style in (("elbo", "o-"), ("kl", "s--")):
                    places, values = mean_curve(items, name, in_bits=True)
                    what = "full cost" if name == "elbo" else "KL"
                    axis.plot(places, values, style, color=f"C{color}", label=f"{series}: {what}")
            axis.set(xlabel=label, ylabel="bits a character, held out", ylim=(0, None))
            axis.legend()

    return draw


def training_curves(results: Results, path: Path) -> None:
    """Reconstruction over training steps, a panel for each series and a curve for each x, training dashed and held out solid:
    Semeniuta et al. 2017, fig. 3."""
    found = series_of(results)
    with figure_axes(path, len(found), 5.5) as axes:
        for axis, (series, items) in zip(axes, found.items(), strict=True):
            for color, item in enumerate(items):
                for name, style in (("val_reconstruction", "o-"), ("reconstruction", "o--")):
                    values = [bits_per_character(nats, item) for nats in item["curve"][name]]
                    label = f"{item['x']:g} characters" if style == "o-" else None
                    axis.plot(item["curve"]["step"], values, style, color=f"C{color}", label=label)
            axis.set(
                title=series,
                xlabel="training step",
                ylabel="reconstruction, bits a character",
                ylim=(0, 5),
            )
            axis.legend()


def stacked_bars(
    bound: str = "elbo",
    reconstruction: str = "reconstruction",
    kl: str = "kl",
    published: str = "published, in our unit",
) -> Draw:
    """Each row's bound as reconstruction and KL, the means over its seeds, with what the source reports of the bound as a
    mark; three metrics by their names."""

    def draw(results: Results, path: Path) -> None:
        names = list(dict.fromkeys(item["row"] for item in results))
        with figure_axes(path, width=8.0, height=0.45 * len(names) + 1.5) as (axis,):
            for place, name in enumerate(names):
                items = [item for item in results if item["row"] == name]
                first, second = (
                    float(np.mean([item[key] for item in items])) for key in (reconstruction, kl)
                )
                axis.barh(place, first, color="C0", label="reconstruction" if not place else None)
                axis.barh(place, second, left=first, color="C1", label="KL" if not place else None)
            marks = {
                names.index(item["row"]): item["published"][bound]
                for item in results
                if bound in item["published"]
            }
            if marks:
                axis.plot(list(marks.values()), list(marks), "kD", label=published)
            for entropy in {item["entropy"] for item in results if "entropy" in item}:
                axis.axvline(
                    entropy, color="k", linestyle=":", label=f"entropy of the corpus, {entropy:g}"
                )
            axis.set(yticks=range(len(names)), yticklabels=names, xlabel="nats a text, held out")
            axis.invert_yaxis()
            axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)

    return draw


def panels_over_x(label: str, panels: Mapping[str, str], diagonal: str = "") -> Draw:
    """A panel for each metric over what `label` names; in that of `diagonal` the line x = y."""

    def draw(results: Results, path: Path) -> None:
        with figure_axes(path, len(panels), 4.0, 3.6) as axes:
            for axis, (metric, title) in zip(axes, panels.items(), strict=True):
                for series, items in series_of(results).items():
                    places, values = mean_curve(items, metric)
                    axis.plot(places, values, "o-", label=series)
                    if metric == diagonal:
                        axis.plot(places, places, "k:", label="equal")
                axis.set(title=title, xlabel=label)
            axes[0].legend()

    return draw


def dot_panels(*panels: Mapping[str, str]) -> Draw:
    """A line for each row, the means over its seeds, and a panel for each group of metrics in nats a text, by their names;
    rows of a series have one colour. What is three times as far above the median as nine tenths are stands as a number at the
    panel's edge."""

    def draw(results: Results, path: Path) -> None:
        rows = list(dict.fromkeys((item["series"], item["row"]) for item in results))
        colors = {
            series: f"C{place}"
            for place, series in enumerate(dict.fromkeys(series for series, _ in rows))
        }
        with figure_axes(path, len(panels), 6.0, 0.27 * len(rows) + 1.2) as axes:
            for axis, metrics in zip(axes, panels, strict=True):
                values = {
                    name: [row_mean(results, row, name) for _, row in rows] for name in metrics
                }
                median, far = np.percentile(list(values.values()), [50, 90])
                edge = median + 3.0 * (far - median)
                for style, (name, title) in zip("os^", metrics.items(), strict=False):
                    look = {} if style == "o" else {"markerfacecolor": "none"}
                    for place, value in enumerate(values[name]):
                        if value <= edge:
                            axis.plot(value, place, style, color=colors[rows[place][0]], **look)
                    axis.plot([], [], style, color="k", label=title, **look)
                for place in range(len(rows)):
                    beyond = [
                        f"{each[place]:.0f}" for each in values.values() if each[place] > edge
                    ]
                    text, where = (
                        f"{', '.join(beyond)} →" if beyond else "",
                        axis.get_yaxis_transform(),
                    )
                    axis.text(0.99, place, text, transform=where, ha="right", va="center", size=8)
                axis.set(yticks=range(len(rows)), xlabel="nats a text, held out")
                axis.set_yticklabels([row for _, row in rows] if axis is axes[0] else [])
                axis.grid(axis="y", linewidth=0.4)
                axis.invert_yaxis()
                axis.legend()

    return draw


def row_mean(results: Results, row: str, name: str) -> float:
    """A metric of a row, the mean over its seeds."""
    return float(np.mean([item[name] for item in results if item["row"] == row]))
