"""The book of results, docs/results.md: a chapter for each study, generated from stored results.

A book is a folder with `results.md` and a folder `results/` that holds the sources of each chapter:
ID.json, ID.csv and ID.png, and for the published sizes ID-paper.json, ID-paper.csv and
ID-paper.png.
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

from .reproduction import FIGURE, SAMPLES, TABLE, Study, Verdict, row_means, row_values, verdicts_of

PAGE, PARTS = "results.md", "results"

HEAD = """# Results

kvae reproduces tables and figures of the papers that it builds on. This page is **generated from
the results of training runs, never typed**. The command at the head of a section makes it. The
numbers in the table mark each statement as PASS or FAIL. A FAIL stays in the book, with its cause
as far as it is known.

Bound, reconstruction, KL and information are in nats a text, on the whole held-out split, with the
KL at full weight and one sampled code for each text. The bound is reconstruction + KL; lower is
better. Padding counts only where a column says so. A number in brackets is the one that the source
reports, in the unit of the column. A number after ± is the standard deviation over seeds.
[metrics.md](metrics.md) defines the metrics that `kvae evaluate` prints too;
[systems/](systems/README.md) describes the systems.

"""

VERDICTS = {True: "PASS", False: "FAIL", None: "OPEN"}
"""OPEN: a row that the statement needs is missing."""

SAMPLE_WIDTH = 100
"""Characters after which a sample is cut."""


def file_stem(name: str, scale: str) -> str:
    """The name, without ending, of the files of a chapter."""
    return name if scale == "small" else f"{name}-{scale}"


def add_chapter(
    book: Path, name: str, folder: Path, report: Mapping[str, Any], studies: Mapping[str, Study]
) -> Path:
    """Copy a study's results into the book, generate its page again, and return the page's path."""
    parts = book / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    stem = file_stem(name, report["scale"])
    write_json(parts / f"{stem}.json", report)
    for file in (TABLE, FIGURE):
        if (folder / file).is_file():
            shutil.copyfile(folder / file, parts / f"{stem}{Path(file).suffix}")
    return write_book(book, studies)


def write_book(book: Path, studies: Mapping[str, Study]) -> Path:
    """Generate the page from the stored results and return its path."""
    page = book / PAGE
    # One writer at a time: the last one has read every result that is stored.
    with sole_writer(lock_path(page), page, wait=True) as exclusive:
        write_text(page, book_text(book / PARTS, studies), exclusive)
    return page


def book_text(parts: Path, studies: Mapping[str, Study]) -> str:
    """The text of the page: an overview and a chapter for every study."""
    reports = {name: list(reports_of(parts, name, study)) for name, study in studies.items()}
    chapters = (chapter(name, study, reports[name], parts.name) for name, study in studies.items())
    return HEAD + overview(studies, reports) + "".join(chapters)


def reports_of(parts: Path, name: str, study: Study) -> Iterator[dict[str, Any]]:
    """The reports of a study that the book holds, at most one for each scale."""
    for scale in study.scales:
        file = parts / f"{file_stem(name, scale)}.json"
        if file.is_file():
            yield json.loads(file.read_text(encoding="utf-8"))


def overview(
    studies: Mapping[str, Study], reports: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str:
    """A table with a line for each study: title, source, minutes and verdicts."""
    lines = ["| study | what | source | minutes | verdicts |", "|---|---|---|---:|---|"]
    for name, study in studies.items():
        marks = [
            VERDICTS[verdict.passed]
            for report in reports[name]
            for _, verdict in verdicts_of(study, report)
        ]
        cells = (
            f"[{name}](#{name})",
            study.title,
            study.source,
            ", ".join(f"{minutes(report['rows']):,.0f}" for report in reports[name]),
            ", ".join(marks) or "not run yet",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def chapter(name: str, study: Study, reports: Sequence[Mapping[str, Any]], parts: str) -> str:
    """A study's chapter: its text and a section for each scale that was run."""
    text = f"\n## {name}\n\n**{study.title}** ({study.source}). {study.about}\n"
    if not reports:
        text += f"\nNot run yet: `kvae reproduce {name} --book docs` writes this chapter.\n"
    for report in reports:
        text += section(name, study, report, f"{parts}/{file_stem(name, report['scale'])}")
    return text


def section(name: str, study: Study, report: Mapping[str, Any], stem: str) -> str:
    """A section for one scale: command, table, figure, verdicts, samples, provenance."""
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
    """A table with a line for each row: means over the seeds, and the published numbers."""
    published = {result["row"]: result["published"] for result in results}
    lines = [
        f"| row | {' | '.join(study.columns.values())} |",
        f"|---{'|---:' * len(study.columns)}|",
    ]
    for row, numbers in row_values(results).items():
        cells = [
            cell(numbers.get(metric, []), published[row].get(metric)) for metric in study.columns
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for row, spreads in study.published_rows.items():
        cells = [published_cell(spreads.get(metric)) for metric in study.columns]
        lines.append(f"| published: {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def published_cell(spread: tuple[float, float] | None) -> str:
    """A cell of a published row: (mean ± standard deviation)."""
    return "" if spread is None else f"({spread[0]:.3f} ± {spread[1]:.3f})"


def cell(values: Sequence[float], published: float | None) -> str:
    """A cell: mean over seeds, ± standard deviation if there are several, (published number)."""
    if not values:
        return ""
    mean = float(np.mean(values))
    integers = all(isinstance(value, int) for value in values)
    digits = 3 if abs(mean) < 1 and not integers else 0 if integers and len(values) == 1 else 2
    text = f"{mean:,.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text if published is None else f"{text} ({published:,})"


def verdict_lines(study: Study, report: Mapping[str, Any]) -> list[str]:
    """A line for each statement: PASS, FAIL or OPEN, and the numbers that decide it."""
    lines = []
    for statement, verdict in verdicts_of(study, report):
        explained = verdict.passed is False and report["scale"] == "small"
        parts = (
            statement.text,
            f"({statement.source})",
            sentence(verdict.evidence),
            seeds_sentence(verdict),
            f"*{statement.failure_note}*" if explained and statement.failure_note else "",
        )
        lines.append(f"- **{VERDICTS[verdict.passed]}** {' '.join(part for part in parts if part)}")
    return lines


def seeds_sentence(verdict: Verdict) -> str:
    """A sentence on how many single seeds satisfy the statement; empty if there is one seed."""
    holds, seeds = sum(verdict.seeds), len(verdict.seeds)
    return f"It holds for {holds} of {seeds} seeds judged one by one." if seeds else ""


def sample_lines(study: Study, report: Mapping[str, Any]) -> list[str]:
    """Blocks with the samples of the rows that the study chooses, or of every row if it cannot."""
    if study.sampled_rows is None:
        return []
    texts = {
        result["row"]: result[SAMPLES]
        for result in report["rows"]
        if not result["seed"] and SAMPLES in result
    }
    try:
        names = study.sampled_rows(row_means(report["rows"]))
        rows = [name for name in names if name in texts]
    except KeyError:  # a row that the choice depends on is missing
        rows = list(texts)
    return [
        f"Greedy samples of *{name}*, in their order:\n\n```\n{sample_block(texts[name])}\n```\n"
        for name in rows
    ]


def sample_block(texts: Sequence[str]) -> str:
    """A line for each text, cut after `SAMPLE_WIDTH` characters."""
    lines = (text.replace("\n", " ").replace("`", "'") for text in texts)
    return "\n".join(
        line if len(line) <= SAMPLE_WIDTH else line[: SAMPLE_WIDTH - 1] + "…" for line in lines
    )


def sentence(text: str) -> str:
    """The phrase with a capital letter and a full stop; an empty one stays empty."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def minutes(results: Sequence[Mapping[str, Any]]) -> float:
    """The time that all runs took together, in minutes."""
    return float(sum(result["seconds"] for result in results)) / 60


def provenance(results: Sequence[Mapping[str, Any]], stem: str) -> str:
    """Number of runs, time, versions and hardware, and links to all numbers and settings."""
    environments = dict.fromkeys(json.dumps(result["made_with"]) for result in results)
    made_with = []
    for text in environments:
        versions = json.loads(text)
        hardware, backend = versions.pop("hardware"), versions.pop("backend")
        programs = ", ".join(f"{name} {version}" for name, version in versions.items())
        made_with.append(f"{programs} on {hardware} ({backend})")
    return (
        f"{len(results)} runs, {minutes(results):,.0f} minutes in all; {'; '.join(made_with)}. "
        f"Every number: [csv]({stem}.csv); settings of each row: [json]({stem}.json)."
    )
