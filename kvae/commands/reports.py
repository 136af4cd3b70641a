"""Results for readers: evaluations as tables, the records of an export as sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kvae.serving.alphabet import one_line

from .output import table


def evaluation_table(report: Mapping[str, Any]) -> str:
    """A table of the numbers of an evaluation and their units."""
    from kvae.training.evaluation import UNITS

    levels = [name for name in report if name.startswith("kl_level_")]
    units = UNITS | dict.fromkeys(levels if len(levels) > 1 else (), "nats per sequence")
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    return table(
        {
            name: f"{cell(value):>12}  {units[name]}"
            for name, value in numbers.items()
            if name in units
        }
    )


def text_tables(report: Mapping[str, Any]) -> Iterator[str]:
    """The tables of metrics of reconstructions and samples, each with a heading."""
    from kvae.training.generation import TABLES, UNITS

    for title, groups in TABLES.items():
        columns = {name: heading for name, heading in groups.items() if name in report}
        names = [name for name in UNITS if any(name in report[group] for group in columns)]
        rows = {
            name: "  ".join(f"{cell(report[group].get(name, '')):>15}" for group in columns)
            + f"  {UNITS[name].format_map(report)}"
            for name in names
        }
        headings = {"": "  ".join(f"{heading:>15}" for heading in columns.values())}
        if rows:
            yield f"{title}\n{'-' * len(title)}\n" + table(
                headings | rows if len(columns) > 1 else rows
            )


def cell(value: Any) -> str:
    """A number for a right-aligned column in which decimal points are aligned; text as it is."""
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}    " if isinstance(value, int) else str(value)


def parity_line(record: Mapping[str, Any]) -> str:
    """A sentence about the comparison of the exported graphs with Keras."""
    return (
        f"largest logit difference against Keras {record['largest_turn_difference']:.1e} (at most "
        f"{record['tolerance']:g}), greedy decoding equal in {record['greedy_rows_equal']} of "
        f"{record['rows']} rows"
    )


def quantization_line(record: Mapping[str, Any]) -> str:
    """A sentence about the effect of weights in eight bits: size, bound and top-1 agreement."""
    return (
        f"{record['kind']}, {100 * record['size_ratio']:.0f} % of the size; on {record['texts']} "
        f"texts a bound of {record['bound']:.2f} nats instead of "
        f"{record['bound_in_float32']:.2f}, top-1 agreement with float32 "
        f"{100 * record['likeliest_symbols_unchanged']:.2f} %"
    )


GREEDY_SAMPLES = "Ten samples, greedy: all variety comes from the latent code"
"""Title of greedy samples."""


def end_sections(report: Mapping[str, Any]) -> Iterator[str]:
    """The texts and the findings of `kvae.training.end_report`, each with a heading."""
    if "reconstructed" in report:
        pairs = ((row["text"], row["reconstruction"]) for row in report["reconstructed"])
        yield section("Held-out texts and their reconstructions", map(pair, pairs))
    headings = {
        "greedy_samples": GREEDY_SAMPLES,
        "samples": f"Samples at temperature {report.get('temperature', 1.0):g}, which is closest "
        "to the corpus",
    }
    shown = report.get("shown_samples", {})
    for name, heading in headings.items():
        if name in shown:
            yield section(heading, map(one_line, shown[name]))
    if "findings" in report:
        rows = (
            ("+ " if finding["good"] else "- ")
            + finding["sentence"]
            + (f" Try {finding['advice']}." if finding["advice"] else "")
            for finding in report["findings"]
        )
        yield section("What this means", rows)


def pair(texts: tuple[str, str]) -> str:
    """A text and its reconstruction below it."""
    text, reconstruction = map(one_line, texts)
    return f"{text}\n  -> {reconstruction}"


def section(title: str, lines: Iterable[str] = ()) -> str:
    """Lines below an underlined title."""
    return "\n".join([title, "-" * len(title), *lines])


BAR = 40
"""Characters of the longest bar of a histogram."""


def summary_text(report: Mapping[str, Any]) -> str:
    """A summary of a corpus (`training.data.summary`) for readers."""
    texts, tokens = report["texts"], report["tokens"]
    rows = {
        "texts": f"{texts:,}, {report['different']:,} of them different "
        f"({1 - report['different'] / texts:.1%} repeat another)",
        "blank": f"{report['blank']:,}, skipped",
        "held out": f"{report['held_out']:,}",
        tokens: ", ".join(f"{name} {value:,}" for name, value in report["lengths"].items()),
        "model.length": f"{report['model_length']}; {report['too_long']:,} texts are longer "
        "(data.too_long)",
        "symbols": f"{report['symbols']:,}"
        + ("" if report["kinds"] is None else f" of {report['kinds']:,} kinds")
        + f"; {report['unknown_share']:.2%} of the {tokens} are unknown",
    }
    if report["most_frequent"]:
        rows["most frequent"] = " ".join(map(repr, report["most_frequent"]))
    if report["labels"] is not None:
        rows["labels"] = ", ".join(
            f"{label or 'none'} {count:,}" for label, count in report["labels"].items()
        )
    most = max(count for _, _, count in report["histogram"])
    bars = {
        f"{first:,}-{last:,}": "#" * round(BAR * count / most) + f" {count:,}"
        for first, last, count in report["histogram"]
    }
    seen = "\n".join(map(one_line, report["examples"]))
    return "\n\n".join(
        [table(rows), f"{tokens} a text\n{table(bars)}", f"as the model sees them\n{seen}"]
    )
