"""Figures of the studies: each function takes results and writes a PNG.

A figure that a paper also has follows the paper's layout.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.writing import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Sequence[Mapping[str, Any]]
"""The `rows` of a report: a mapping for each row and seed."""
Draw = Callable[[Results, Path], None]


@contextlib.contextmanager
def figure_axes(
    path: Path, panels: int = 1, width: float = 7.0, height: float = 4.5
) -> Iterator[Sequence[Axes]]:
    """Context with a list of `panels` axes side by side, saved to `path` as a PNG at its end.

    `width` and `height` are those of a panel, in inches. No window is opened, and the backend of
    the program's own figures, for example a notebook's, does not change.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height), layout="constrained")
    yield figure.subplots(1, panels, squeeze=False)[0]
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=100, metadata={"Software": None})


def series_of(results: Results) -> dict[str, list[Mapping[str, Any]]]:
    """The results of each curve, by the name of the curve, sorted by x."""
    series: dict[str, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda result: result["x"]):
        series.setdefault(result["series"], []).append(result)
    return dict(sorted(series.items()))


def mean_curve(
    results: Results, name: str, in_bits: bool = False
) -> tuple[list[float], list[float]]:
    """The points of a curve: all x, and at each the mean of a metric over the seeds.

    `in_bits` converts the metric from nats a text to bits a character.
    """
    xs = sorted({item["x"] for item in results})
    values = [
        [
            bits_per_character(item[name], item) if in_bits else item[name]
            for item in results
            if item["x"] == x
        ]
        for x in xs
    ]
    return xs, [float(np.mean(of_x)) for of_x in values]


def bits_per_character(nats: float, result: Mapping[str, Any]) -> float:
    """Convert nats a text of a result to bits a character."""
    return float(nats * result["texts"] / result["positions"] / math.log(2.0))


def cost_and_kl(label: str) -> Draw:
    """A figure of the full cost (solid) and the KL (dashed) over x, in bits a character.

    `label` is the label of the x axis; each series has a colour. The layout is that of Semeniuta et
    al. 2017, fig. 4 to 6.
    """

    def draw(results: Results, path: Path) -> None:
        with figure_axes(path) as (axis,):
            for color, (series, items) in enumerate(series_of(results).items()):
                for name, style in (("elbo", "o-"), ("kl", "s--")):
                    xs, values = mean_curve(items, name, in_bits=True)
                    title = "full cost" if name == "elbo" else "KL"
                    axis.plot(xs, values, style, color=f"C{color}", label=f"{series}: {title}")
            axis.set(xlabel=label, ylabel="bits a character, held out", ylim=(0, None))
            axis.legend()

    return draw


def training_curves(results: Results, path: Path) -> None:
    """Draw reconstruction over training steps, as in Semeniuta et al. 2017, fig. 3.

    Each series has a panel and each x a curve: dashed on training texts, solid on held-out texts.
    """
    panels = series_of(results)
    with figure_axes(path, len(panels), 5.5) as axes:
        for axis, (series, items) in zip(axes, panels.items(), strict=True):
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
    """A figure with a bar for each row, its mean reconstruction and KL over the seeds.

    `bound`, `reconstruction` and `kl` are names of metrics. A mark shows the bound that the source
    reports; `published` is the label of the marks. A dotted line shows the entropy of the corpus if
    a result has one.
    """

    def draw(results: Results, path: Path) -> None:
        names = list(dict.fromkeys(item["row"] for item in results))
        with figure_axes(path, width=8.0, height=0.45 * len(names) + 1.5) as (axis,):
            for y, name in enumerate(names):
                nats, kl_nats = (row_mean(results, name, metric) for metric in (reconstruction, kl))
                axis.barh(y, nats, color="C0", label="reconstruction" if not y else None)
                axis.barh(y, kl_nats, left=nats, color="C1", label="KL" if not y else None)
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
    """A figure with a panel for each metric over x; the panel of metric `diagonal` shows y = x too.

    `label` is the label of the x axis; `panels` maps metrics to titles.
    """

    def draw(results: Results, path: Path) -> None:
        with figure_axes(path, len(panels), 4.0, 3.6) as axes:
            for axis, (metric, title) in zip(axes, panels.items(), strict=True):
                for series, items in series_of(results).items():
                    xs, values = mean_curve(items, metric)
                    axis.plot(xs, values, "o-", label=series)
                    if metric == diagonal:
                        axis.plot(xs, xs, "k:", label="equal")
                axis.set(title=title, xlabel=label)
            axes[0].legend()

    return draw


def dot_panels(*panels: Mapping[str, str]) -> Draw:
    """A figure with a line of dots for each row, the means over its seeds.

    Each panel maps metrics, in nats a text, to titles. The rows of a series have one colour. A
    value is an outlier if it exceeds median + 3 x (90th percentile - median) of its panel; it is
    printed as a number at the panel's right edge.
    """

    def draw(results: Results, path: Path) -> None:
        rows = list(dict.fromkeys((item["series"], item["row"]) for item in results))
        colors = {
            series: f"C{number}"
            for number, series in enumerate(dict.fromkeys(series for series, _ in rows))
        }
        with figure_axes(path, len(panels), 6.0, 0.27 * len(rows) + 1.2) as axes:
            for axis, metrics in zip(axes, panels, strict=True):
                values = {
                    name: [row_mean(results, row, name) for _, row in rows] for name in metrics
                }
                median, percentile_90 = np.percentile(list(values.values()), [50, 90])
                limit = median + 3.0 * (percentile_90 - median)
                for style, (name, title) in zip("os^", metrics.items(), strict=False):
                    fill: dict[str, Any] = {} if style == "o" else {"markerfacecolor": "none"}
                    for y, value in enumerate(values[name]):
                        if value <= limit:
                            axis.plot(value, y, style, color=colors[rows[y][0]], **fill)
                    axis.plot([], [], style, color="k", label=title, **fill)
                at_edge = axis.get_yaxis_transform()
                for y in range(len(rows)):
                    outliers = [f"{each[y]:.0f}" for each in values.values() if each[y] > limit]
                    text = f"{', '.join(outliers)} →" if outliers else ""
                    axis.text(0.99, y, text, transform=at_edge, ha="right", va="center", size=8)
                axis.set(yticks=range(len(rows)), xlabel="nats a text, held out")
                axis.set_yticklabels([row for _, row in rows] if axis is axes[0] else [])
                axis.grid(axis="y", linewidth=0.4)
                axis.invert_yaxis()
                axis.legend()

    return draw


def row_mean(results: Results, row: str, name: str) -> float:
    """The mean of a metric over the seeds of a row."""
    return float(np.mean([item[name] for item in results if item["row"] == row]))
