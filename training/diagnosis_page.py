"""The page of a diagnosis: one HTML file with the findings, the advice, plots and tables."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvae.runs import REPORT, Run, write_json
from kvae.writing import write_text

from .diagnosis import AGGREGATED
from .report_page import COLOURS, WIDTH, document, table, verdict

DIAGNOSIS_JSON, DIAGNOSIS_PAGE = "diagnosis.json", "diagnosis.html"
"""Files of a diagnosis, in the report folder of the run."""

HEIGHT, MARGIN = 240, 40
"""Height of a plot, and the space of its axes, in pixels."""

MOST_BARS = 128
"""Dimensions that are drawn and listed."""

Found = Mapping[str, Any]
"""A result of `training.diagnosis.diagnose` with that of `training.advice.advised`."""


def write_diagnosis(run: Run, found: Mapping[str, Any]) -> Path:
    """Write a diagnosis and its page into the report folder of the run; returns the page."""
    folder = run.path / REPORT
    folder.mkdir(exist_ok=True)
    write_json(folder / DIAGNOSIS_JSON, found)
    write_text(folder / DIAGNOSIS_PAGE, diagnosis_page(run.path.name, found))
    return folder / DIAGNOSIS_PAGE


def diagnosis_page(name: str, found: Found) -> str:
    """The diagnosis of the run `name` as HTML that needs no other file and no network."""
    sections = (advice, dimensions, map_positions, positions, prior) if found["has_code"] else ()
    body = [*verdict(found), *(line for section in sections for line in section(found))]
    return document(f"{name}: diagnosis", body)


def advice(found: Found) -> Iterator[str]:
    """What to change, in which order."""
    if found["advice"]:
        yield "<h2>What to change, one at a time, in this order</h2><ol>"
        yield from (
            f"<li>{html.escape(each['why'])} ({html.escape(each['source'])}; against: "
            f"{html.escape(each['symptom'])})<pre>{html.escape(each['command'])}</pre></li>"
            for each in found["advice"]
        )
        yield "</ol>"


def dimensions(found: Found) -> Iterator[str]:
    """The dimensions as bars and as a table."""
    shown = found["dimensions"][:MOST_BARS]
    yield (
        f"<h2>Dimensions</h2><p>{found['active_units']} of {found['latent_size']} are active. "
        "Information about the text in each dimension alone, and its KL, in nats.</p>"
    )
    names = [name for name in ("information", "kl") if name in shown[0]]
    yield curves({name: [each[name] for each in shown] for name in names}, "dimension, sorted")
    columns = [name for name in shown[0] if name in COLUMNS]
    headings = [COLUMNS[name] for name in columns]
    yield "<details><summary>as a table</summary>"
    yield table(headings, ([each[name] for name in columns] for each in shown))
    yield "</details>"


COLUMNS = {
    "level": "level",
    "dimension": "dimension",
    "position": "position",
    "channel": "channel",
    "kl": "KL",
    "information": "information",
    "activity": "variance of the posterior mean",
    "mean": "mean of all codes",
    "variance": "variance of all codes",
    "deviation": "nats that both differ from N(0, 1)",
}
"""The headings of the table of dimensions."""


def map_positions(found: Found) -> Iterator[str]:
    """The positions of a code that is a map."""
    rows = found["map_positions"]
    if rows:
        yield "<h2>Positions of the map</h2>"
        names = list(rows[0])
        yield table(names, ([row[name] for name in names] for row in rows))


def positions(found: Found) -> Iterator[str]:
    """What a position of a text costs with its own code and with that of another text."""
    exchanged, rows = found["exchanged"], found["positions"]
    yield (
        "<h2>Positions of a text</h2><p>Reconstruction in nats of each position, mean over the "
        "texts that reach it, with the code of the text, with that of another text and with one "
        f"of the prior. The whole text costs {exchanged['own']:.2f}, {exchanged['other']:.2f} and "
        f"{exchanged['prior']:.2f} nats.</p>"
    )
    labels = {"own": "own code", "other": "code of another text", "prior": "code of the prior"}
    yield curves({label: [row[name] for row in rows] for name, label in labels.items()}, "position")
    parts = enumerate(found["quarters"], start=1)
    yield table(
        ("quarter of the text", "nats that the code saves"),
        ([str(place), nats] for place, nats in parts),
    )


def prior(found: Found) -> Iterator[str]:
    """The aggregated posterior beside the prior."""
    yield "<h2>All codes together, and the prior</h2>"
    together = found["aggregated"]
    rows = ((name, together[name], unit) for name, unit in AGGREGATED.items() if name in together)
    yield table(("metric", "value", "meaning"), rows)


def curves(series: Mapping[str, Sequence[float]], label: str) -> str:
    """Curves over 0, 1, ... as SVG, with a legend and the largest value at the axis."""
    count = max(map(len, series.values()))
    top = max([0.0, *(value for values in series.values() for value in values)]) or 1.0
    low = min([0.0, *(value for values in series.values() for value in values)])
    width, height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(index: int, value: float) -> str:
        x = MARGIN + width * index / max(count - 1, 1)
        return f"{x:.1f},{MARGIN + height * (top - value) / (top - low):.1f}"

    lines = [
        f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="'
        + " ".join(place(index, value) for index, value in enumerate(values))
        + '"/>'
        for values, colour in zip(series.values(), COLOURS, strict=False)
    ]
    legend = [
        f'<text x="{MARGIN + 170 * index}" y="20" fill="{colour}">{html.escape(name)}</text>'
        for index, (name, colour) in enumerate(zip(series, COLOURS, strict=False))
    ]
    axis = f"M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}" '
        f'font-size="13"><path d="{axis}" fill="none" stroke="#888"/>'
        f'<text x="2" y="{MARGIN + 4}" fill="#888">{top:.2f}</text>'
        f'<text x="2" y="{HEIGHT - MARGIN}" fill="#888">{low:.2f}</text>'
        f'<text x="{MARGIN}" y="{HEIGHT - 12}" fill="#888">{html.escape(label)}, 0 to '
        f"{count - 1}</text>" + "".join([*lines, *legend]) + "</svg>"
    )
