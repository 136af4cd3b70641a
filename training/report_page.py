"""The page of a run's report: one HTML file with curves, texts, a map of the codes and a table."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kvae.runs import REPORT, Run
from kvae.serving.alphabet import one_line

from .evaluation import UNITS

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; text-align: left }
tr { border-bottom: 1px solid #8884 } td.number { text-align: right }
img, svg { max-width: 100%; height: auto } .bad { color: #b3261e } .good { color: #2e7d32 }
@media (prefers-color-scheme: dark) { body { background: #121212; color: #e6e6e6 } }
"""

WIDTH, HEIGHT = 720, 480
"""Size of the map in pixels."""

COLOURS = ("#3b6fb6", "#d1495b", "#2a9d8f", "#e9a23b", "#7b5ea7", "#6c757d")
"""Colours of labels, used again after the last one."""


def page(run: Run, report: Mapping[str, Any], codes: Mapping[str, Any]) -> str:
    """The report as HTML that needs no other file and no network."""
    body = [*verdict(report), *texts(report), *curves(run), *code_map(codes), *numbers(report)]
    return document(run.path.name, body)


def document(title: str, body: Iterable[str]) -> str:
    """A page of sections in HTML."""
    name = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style><h1>{name}</h1>" + "\n".join(body) + "</html>\n"
    )


def verdict(report: Mapping[str, Any]) -> Iterator[str]:
    """The findings as a list."""
    yield "<ul>"
    for finding in report["findings"]:
        kind = "good" if finding["good"] else "bad"
        yield f'<li class="{kind}">{html.escape(finding["sentence"])}</li>'
    yield "</ul>"


def texts(report: Mapping[str, Any]) -> Iterator[str]:
    """Reconstructions and samples."""
    if report.get("reconstructed"):
        yield "<h2>Reconstructions of held-out texts</h2>"
        columns = ("text", "reconstruction", "nearest")
        headings = ("held-out text", "reconstruction", "nearest training text")
        yield table(headings, ([row[name] for name in columns] for row in report["reconstructed"]))
    headings_of = {
        "greedy_samples": "Samples, greedy",
        "samples": f"Samples at temperature {report['temperature']:g}",
    }
    for name, heading in headings_of.items():
        if name in report["shown_samples"]:
            yield f"<h2>{heading}</h2><ul>"
            yield from (f"<li>{shown(text)}</li>" for text in report["shown_samples"][name])
            yield "</ul>"


def curves(run: Run) -> Iterator[str]:
    """The learning curves, if they were drawn."""
    file = run.path / REPORT / "curves.png"
    if file.is_file():
        picture = base64.b64encode(file.read_bytes()).decode()
        yield f'<h2>Curves</h2><img alt="learning curves" src="data:image/png;base64,{picture}">'


def code_map(codes: Mapping[str, Any]) -> Iterator[str]:
    """The codes on their two principal axes, coloured by label or by length."""
    if not codes:
        return
    labels, points = codes["labels"], np.asarray(codes["points"])
    low, high = points.min(axis=0), points.max(axis=0)
    places = (points - low) / np.maximum(high - low, 1e-9) * (WIDTH - 20, HEIGHT - 20) + 10
    colours = colours_of_labels(labels) if labels else colours_of_lengths(codes["lengths"])
    by = "label" if labels else "length (short is blue, long is red)"
    yield (
        f"<h2>Map of the latent space</h2><p>Posterior means of {len(points):,} held-out texts on "
        f"two principal axes, {codes['explained']:.0%} of their variance, coloured by {by}.</p>"
    )
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="map of the latent space">'
    for (x, y), text, colour in zip(places, codes["texts"], colours, strict=True):
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}" fill-opacity=".6">'
            f"<title>{shown(text)}</title></circle>"
        )
    yield "</svg>"
    if labels:
        legend = dict(zip(labels, colours, strict=True))
        yield (
            "<p>"
            + ", ".join(
                f'<span style="color:{colour}">{shown(label) or "no label"}</span>'
                for label, colour in sorted(legend.items())
            )
            + "</p>"
        )


def colours_of_labels(labels: Sequence[str]) -> list[str]:
    """A colour for each label."""
    order = {label: place for place, label in enumerate(sorted(set(labels)))}
    return [COLOURS[order[label] % len(COLOURS)] for label in labels]


def colours_of_lengths(lengths: np.ndarray) -> list[str]:
    """Colours from blue for the shortest to red for the longest text."""
    ranks = np.argsort(np.argsort(lengths, kind="stable"), kind="stable")
    return [f"hsl({hue:.0f} 70% 50%)" for hue in 220 * (1 - ranks / max(len(ranks) - 1, 1))]


def numbers(report: Mapping[str, Any]) -> Iterator[str]:
    """The evaluation as a table."""
    yield "<h2>Numbers</h2>"
    rows = ((name, report[name], unit) for name, unit in UNITS.items() if name in report)
    yield table(("metric", "value", "unit"), rows)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; numbers are aligned to the right."""

    def cell(value: Any) -> str:
        if isinstance(value, int | float):
            text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}"
            return f'<td class="number">{text}</td>'
        return f"<td>{shown(value)}</td>"

    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def shown(text: str) -> str:
    """A text on one line, escaped."""
    return html.escape(one_line(text))
