"""The book of results depends on the results alone, and the one in docs is up to date."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvae.training.book import add_chapter, book_text, cell, sample_lines, write_book
from kvae.training.reproduction import SAMPLES, Statement, Study
from kvae.training.studies import STUDIES

DOCS = Path(__file__).parent.parent / "docs"


def report(**changes: Any) -> dict[str, Any]:
    """Two rows of two seeds."""
    made_with = {
        "python": "3.11",
        "keras": "3.15",
        "backend": "tensorflow",
        "hardware": "1 CPU core(s), a fast one",
    }
    rows = [
        {
            "row": row,
            "seed": seed,
            "series": "",
            "x": 0,
            "published": {"elbo": 40.8} if row == "first" else {},
            "settings": {},
            "seconds": 90,
            "made_with": made_with,
            "elbo": bound,
            "units": 7,
        }
        for row, bounds in {"first": (9.1, 9.3), "second": (12.0, 13.0)}.items()
        for seed, bound in enumerate(bounds)
    ]
    return {"scale": "small", "rows": rows, "study": {}, **changes}


def study(holds: bool) -> Study:
    return Study(
        title="Two systems",
        source="somebody 2020, table 1",
        about="On nothing much.",
        scales={"small": list, "paper": list},
        columns={"elbo": "bound", "units": "units"},
        statements=(
            Statement(
                "First is lower.",
                "somebody 2020",
                lambda numbers: (holds, "9.2 and 12.5"),
                "It is odd.",
            ),
        ),
    )


def test_a_chapter_shows_means_spread_published_numbers_and_verdicts(tmp_path: Path) -> None:
    page = add_chapter(tmp_path / "book", "two", tmp_path, report(), {"two": study(True)})
    text = page.read_text(encoding="utf-8")
    assert "## two\n\n**Two systems** (somebody 2020, table 1). On nothing much." in text
    assert "kvae reproduce two --scale small --seeds 2" in text
    assert "| first | 9.20 ± 0.14 (40.8) | 7.00 ± 0.00 |" in text
    assert (
        "- **PASS** First is lower. (somebody 2020) 9.2 and 12.5. "
        "It holds for 2 of 2 seeds judged one by one.\n"
    ) in text
    assert "It is odd." not in text
    assert (
        "4 runs, 6 minutes in all; "
        "python 3.11, keras 3.15 on 1 CPU core(s), a fast one (tensorflow)" in text
    )
    assert "| [two](#two) | Two systems | somebody 2020, table 1 | 6 | PASS |" in text


def test_a_failure_stays_with_its_explanation_and_both_scales_have_a_section(
    tmp_path: Path,
) -> None:
    studies = {"two": study(False), "three": study(True)}
    add_chapter(tmp_path, "two", tmp_path, report(), studies)
    text = add_chapter(tmp_path, "two", tmp_path, report(scale="paper"), studies).read_text(
        encoding="utf-8"
    )
    failed = (
        "- **FAIL** First is lower. (somebody 2020) 9.2 and 12.5. "
        "It holds for 0 of 2 seeds judged one by one."
    )
    assert text.count(failed) == 2
    assert text.count(f"{failed} *It is odd.*") == 1, "what is known is of the small scale"
    assert "--scale paper" in text
    assert "two-paper.json" in text
    assert "| [three](#three) | Two systems | somebody 2020, table 1 |  | not run yet |" in text
    assert "Not run yet: `kvae reproduce three --book docs`" in text


def test_the_first_seed_of_the_rows_that_a_study_names_shows_its_samples() -> None:
    found = report()
    for result in found["rows"]:
        result[SAMPLES] = [f"{result['row']} of seed {result['seed']}", "two\n```lines", "x" * 200]
    shown = replace(study(True), sampled_rows=lambda numbers: ["second", "absent"])
    assert sample_lines(study(True), found) == []
    assert sample_lines(shown, found) == [
        "Greedy samples of *second*, in their order:\n\n```\nsecond of seed 0\ntwo '''lines\n"
        + "x" * 99
        + "…\n```\n"
    ]


def test_samples_are_shown_too_where_the_rows_that_choose_them_are_missing() -> None:
    found = report()
    for result in found["rows"]:
        result[SAMPLES] = [result["row"]]
    shown = replace(study(True), sampled_rows=lambda numbers: [str(numbers["absent"])])
    assert len(sample_lines(shown, found)) == 2


def test_the_book_is_written_again_from_its_results(tmp_path: Path) -> None:
    page = add_chapter(tmp_path, "two", tmp_path, report(), {"two": study(True)})
    before = page.read_text(encoding="utf-8")
    page.write_text("typed by hand", encoding="utf-8")
    write_book(tmp_path, {"two": study(True)})
    assert page.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("values", "published", "text"),
    [
        ([], None, ""),
        ([3], None, "3"),
        ([1234.5], None, "1,234.50"),
        ([0.1234], 0.5, "0.123 (0.5)"),
        ([1.0, 3.0], -2.5, "2.00 ± 1.41 (-2.5)"),
    ],
)
def test_a_cell(values: list[float], published: float | None, text: str) -> None:
    assert cell(values, published) == text


def test_the_book_in_docs_is_what_its_results_make() -> None:
    assert (DOCS / "results.md").read_text(encoding="utf-8") == book_text(DOCS / "results", STUDIES)


UNTRAINED = {
    "moses": ("lstm-lm", "lstm-vae", "hybrid", "hybrid-selfies-high-rate"),
}
"""Rows of a chapter that nobody has trained yet; its failure notes say so."""


@pytest.mark.parametrize("name", [file.stem for file in (DOCS / "results").glob("*.json")])
def test_every_chapter_has_all_rows_seeds_and_its_figure(name: str) -> None:
    study, found = (
        STUDIES[name],
        json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8")),
    )
    rows = [row for row in study.scales["small"]() if row.name not in UNTRAINED.get(name, ())]
    assert {result["row"] for result in found["rows"]} == {row.name for row in rows}
    for row in rows:
        seeds = {result["seed"] for result in found["rows"] if result["row"] == row.name}
        assert seeds >= set(range(study.seeds)), row.name
    assert (DOCS / "results" / f"{name}.png").is_file()


@pytest.mark.parametrize("name", STUDIES)
def test_every_figure_can_be_drawn_from_its_chapter(name: str, tmp_path: Path) -> None:
    found = json.loads((DOCS / "results" / f"{name}.json").read_text(encoding="utf-8"))
    draw = STUDIES[name].draw
    assert draw is not None
    draw(found["rows"], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000
