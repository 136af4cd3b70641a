"""What the rate costs and brings: planned runs at several rates on several corpora.

    python benchmarks/rates.py names.txt reviews.txt unicode-names --steps 1000 --out runs/rates

Each run has the same number of steps and lands in a folder of its own. A run that is there already
is read, so that an interrupted study goes on. The table is printed as Markdown, and the curves are
drawn into `rates.png` in the folder: bound, exact reconstructions and BLEU-4, and the reverse
perplexity of samples over that of real texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RATES = (5.0, 10.0, 15.0, 30.0, 60.0)

MEASURES = {
    "KL, nats": lambda report: report["kl"],
    "bits a character": lambda report: report["bits_per_character"],
    "exact reconstructions, %": lambda report: 100 * report["reconstructions"]["exact_match"],
    "BLEU-4 of reconstructions": lambda report: report["reconstructions"]["bleu_4"],
    "reverse perplexity over that of real texts": lambda report: (
        report["samples"]["reverse_perplexity"] / report["real_texts"]["reverse_perplexity"]
    ),
}
"""Columns of the table: title -> number of a report."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpora", nargs="+", help="files, or names of corpora")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, metavar="NATS")
    parser.add_argument("--out", type=Path, default=Path("runs/rates"))
    options = parser.parse_args()
    rows = [
        {"texts": Path(corpus).name.split(".")[0], "rate": rate, **measured(corpus, rate, options)}
        for corpus in options.corpora
        for rate in options.rates
    ]
    print(table(rows))
    draw(rows, options.out / "rates.png")


def measured(corpus: str, rate: float, options: argparse.Namespace) -> dict[str, float]:
    """The measures of a planned run, which is trained if it is not there."""
    folder = options.out / f"{Path(corpus).name.split('.')[0]}-{rate:g}"
    file = folder / "report" / "report.json"
    report = (
        json.loads(file.read_text()) if file.is_file() else train(corpus, rate, folder, options)
    )
    return {title: measure(report) for title, measure in MEASURES.items()}


def train(corpus: str, rate: float, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The report of a planned run."""
    from kvae.presets import preset
    from kvae.run_defaults import PRESET
    from kvae.training import experiment
    from kvae.training.end_report import reported
    from kvae.training.plan import Wishes, planned

    def read(config: Any, say: Any) -> Any:
        return planned(config, (), options.steps, Wishes(rate=rate), say)

    config = preset(PRESET).with_settings({"data.source": corpus})
    run, prepared = experiment.run(config, folder, print, overwrite=True, read=read)
    return reported(run, prepared, print)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    titles = list(rows[0])
    lines = [titles, ["---"] + ["---:"] * (len(titles) - 1)]
    lines += [
        [value if isinstance(value, str) else f"{value:.3g}" for value in row.values()]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a measure but the KL, with a line for each corpus over the rate."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    titles = list(MEASURES)[1:]
    figure, axes = pyplot.subplots(1, len(titles), figsize=(4 * len(titles), 3.2))
    for axis, title in zip(axes, titles, strict=True):
        for texts in dict.fromkeys(row["texts"] for row in rows):
            mine = [row for row in rows if row["texts"] == texts]
            axis.plot(
                [row["rate"] for row in mine], [row[title] for row in mine], "o-", label=texts
            )
        axis.set(xlabel="rate, nats", title=title, xscale="log")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
