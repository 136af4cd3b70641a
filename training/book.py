"""The book of results, docs/results.md: a chapter for each study, written from results alone.

A book is a folder with `results.md` and, in `results/`, what each chapter is made of: ID.json, ID.csv, ID.png, and the same
with `-paper` behind the ID for the published sizes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvae.runs import write_json
from kvae.writing import lock_path, sole_writer, write_text

from .reproduction import FIGURE, SAMPLES, TABLE, Study, Verdict, by_row, judged, means

PAGE, PARTS = "results.md", "results"

HEAD = """# Results

What kvae reproduces of the papers it comes from, on its own training runs: **generated, never typed**. Each chapter is made by
its command, a statement is marked PASS or FAIL by the numbers of its table, and a FAIL stays with what is known of it.

Bound, reconstruction, KL and information are nats a text on the whole held-out split, the KL in full, one drawn code a
text; the bound is reconstruction + KL and lower is better; padding counts only where a column says so. Behind a number
in brackets stands what the source reports, in the unit of the column; behind ± the standard deviation over seeds.
[metrics.md](metrics.md) defines the numbers that `kvae evaluate` gives too, [systems/](systems/README.md) the systems.

"""

VERDICTS = {True: "PASS", False: "FAIL", None: "OPEN"}
"""OPEN: not all of its numbers are there."""

WIDEST = 100
"""Characters of a sample that are shown."""


def file_stem(name: str, scale: str) -> str:
    """What the files of a chapter are called."""
    return name if scale == "small" else f"{name}-{scale}"


def add_chapter(book: Path, name: str, folder: Path, report: Mapping[str, Any], studies: Mapping[str, Study]) -> Path:
    """Put the results of a study's folder into a book and write the book anew; returns its page."""
    parts = book / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    stem = file_stem(name, report["scale"])
    write_json(parts / f"{stem}.json", report)
    for file in (TABLE, FIGURE):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, parts / f"{stem}{Path(file).suffix}")
    return write_book(book, studies)


def write_book(book: Path, studies: Mapping[str, Study]) -> Path:
    """Write the page from the results that are there; returns its path."""
    page = book / PAGE
    with sole_writer(lock_path(page), page, wait=True) as exclusive:  # the last writer has read all results
        write_text(page, book_text(book / PARTS, studies), exclusive)
    return page


def book_text(parts: Path, studies: Mapping[str, Study]) -> str:
    """The page: an overview, and a chapter for every study, in their order."""
    found = {name: list(reports_of(parts, name, study)) for name, study in studies.items()}
    chapters = (chapter(name, study, found[name], parts.name) for name, study in studies.items())
    return HEAD + overview(studies, found) + "".join(chapters)


def reports_of(parts: Path, name: str, study: Study) -> Iterator[dict[str, Any]]:
    """The results of a study that the book has, one for each scale."""
    for scale in study.scales:
        file = parts / f"{file_stem(name, scale)}.json"
        if file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def overview(studies: Mapping[str, Study], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A line for each study: what it is, and its verdicts."""
    lines = ["| study | what | source | minutes | verdicts |", "|---|---|---|---:|---|"]
    for name, study in studies.items():
        marks = [VERDICTS[verdict.passed] for report in found[name] for _, verdict in judged(study, report)]
        took = ", ".join(f"{minutes(report['rows']):,.0f}" for report in found[name])
        lines.append(
            f"| [{name}](#{name}) | {study.title} | {study.source} | {took} | {', '.join(marks) or 'not run yet'} |"
        )
    return "\n".join(lines) + "\n"


def chapter(name: str, study: Study, reports: Sequence[Mapping[str, Any]], parts: str) -> str:
    """A study's chapter, a section for each scale that was run."""
    text = f"\n## {name}\n\n**{study.title}** ({study.source}). {study.about}\n"
    if not reports:
        text += f"\nNot run yet: `kvae reproduce {name} --book docs` writes this chapter.\n"
    for report in reports:
        text += section(name, study, report, f"{parts}/{file_stem(name, report['scale'])}")
    return text


def section(name: str, study: Study, report: Mapping[str, Any], stem: str) -> str:
    """One scale of a study: command, table, figure, verdicts, how it was made."""
    results, scale = report["rows"], report["scale"]
    seeds = len({result["seed"] for result in results})
    command = f"kvae reproduce {name} --scale {scale} --seeds {seeds}"
    pieces = [f"```\n{command}\n```", results_table(study, results)]
    if study.draw:
        pieces.append(f"![{study.title}]({stem}.png)")
    pieces.append("\n".join(verdict_lines(study, report)))
    pieces.append("\n".join(sample_lines(study, report)).rstrip())
    pieces.append(provenance(results, stem))
    return "\n" + "\n\n".join(piece for piece in pieces if piece) + "\n"


def results_table(study: Study, results: Sequence[Mapping[str, Any]]) -> str:
    """A line for each row: its numbers, the mean over seeds, and what the source reports."""
    published = {result["row"]: result["published"] for result in results}
    lines = [f"| row | {' | '.join(study.columns.values())} |", f"|---{'|---:' * len(study.columns)}|"]
    for row, numbers in by_row(results).items():
        cells = [cell(numbers.get(metric, []), published[row].get(metric)) for metric in study.columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: Sequence[float], published: float | None) -> str:
    """Mean, spread over seeds where there are several, and the source's number in brackets."""
    if not values:
        return ""
    mean = float(np.mean(values))
    whole = all(isinstance(value, int) for value in values)
    digits = 3 if abs(mean) < 1 and not whole else 0 if whole and len(values) == 1 else 2
    text = f"{mean:,.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text if published is None else f"{text} ({published:,})"


def verdict_lines(study: Study, report: Mapping[str, Any]) -> list[str]:
    """PASS, FAIL or OPEN for each statement, with the numbers that say so."""
    lines = []
    for statement, verdict in judged(study, report):
        known = verdict.passed is False and report["scale"] == "small" and statement.otherwise
        why = f"*{statement.otherwise}*" if known else ""
        parts = (statement.text, f"({statement.source})", sentence(verdict.evidence), by_seed(verdict), why)
        lines.append(f"- **{VERDICTS[verdict.passed]}** {' '.join(part for part in parts if part)}")
    return lines


def by_seed(verdict: Verdict) -> str:
    """At how many seeds a statement about means holds by itself."""
    return f"At {sum(verdict.seeds)} of {len(verdict.seeds)} seeds alone." if verdict.seeds else ""


def sample_lines(study: Study, report: Mapping[str, Any]) -> list[str]:
    """What the chosen rows write, a line each, cut where it is long: the texts are a model's."""
    if study.samples is None:
        return []
    texts = {result["row"]: result[SAMPLES] for result in report["rows"] if not result["seed"] and SAMPLES in result}
    try:
        shown = [name for name in study.samples(means(report["rows"])) if name in texts]
    except KeyError:  # a row that chooses them is missing
        shown = list(texts)
    return [f"Greedy samples of *{name}*, in their order:\n\n```\n{shortened(texts[name])}\n```\n" for name in shown]


def shortened(texts: Sequence[str]) -> str:
    """A line a text, at most `WIDEST` characters of it."""
    lines = (text.replace("\n", " ").replace("`", "'") for text in texts)
    return "\n".join(line if len(line) <= WIDEST else line[: WIDEST - 1] + "…" for line in lines)


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def minutes(results: Sequence[Mapping[str, Any]]) -> float:
    """What all runs took."""
    return sum(result["seconds"] for result in results) / 60


def provenance(results: Sequence[Mapping[str, Any]], stem: str) -> str:
    """Versions, hardware, time, and where all numbers and settings stand."""
    made = dict.fromkeys(json.dumps(result["made_with"]) for result in results)
    lines = []
    for text in made:
        with_what = json.loads(text)
        where, backend = with_what.pop("hardware"), with_what.pop("backend")
        versions = ", ".join(f"{name} {version}" for name, version in with_what.items())
        lines.append(f"{versions} on {where} ({backend})")
    return (
        f"{len(results)} runs, {minutes(results):,.0f} minutes in all; {'; '.join(lines)}. Every number: [csv]({stem}.csv); "
        f"settings of each row: [json]({stem}.json)."
    )
