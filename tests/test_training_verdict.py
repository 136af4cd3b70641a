"""The verdict on a run: from numbers to sentences."""

from typing import Any

import pytest

from kvae.training.verdict import Finding, findings

GOOD: dict[str, Any] = {
    "elbo": 40.0,
    "kl": 9.0,
    "active_units": 20,
    "mutual_information": 6.0,
    "mutual_information_ceiling": 7.6,
    "bits_per_character": 1.4,
    "rival_bits_per_character": 1.5,
    "rival_order": 5,
    "rival_texts": 10_000,
    "training_elbo": 39.0,
    "edit_distances": {"reconstruction": 0.2, "nearest": 0.5, "random": 0.9},
    "samples": {"reverse_perplexity": 6.0},
    "real_texts": {"reverse_perplexity": 5.5},
    "greedy_samples": {"distinct_texts": 0.97},
}


def bad_ones(**changes: Any) -> list[Finding]:
    return [finding for finding in findings({**GOOD, **changes}) if not finding.good]


def test_a_good_run_has_no_bad_finding() -> None:
    assert bad_ones() == []
    assert [finding.about for finding in findings(GOOD)] == [
        "code",
        "reconstruction",
        "samples",
        "rival",
    ]


CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "collapsed": (
        {"kl": 0.02, "mutual_information": 0.0, "active_units": 0},
        "code",
        "is not used",
    ),
    "empty KL": ({"kl": 6.3, "mutual_information": 0.006}, "code", "costs more than it says"),
    "overfit": ({"training_elbo": 20.0}, "overfitting", "40.0 nats on held-out texts, 20.0"),
    "far reconstructions": (
        {"edit_distances": {"reconstruction": 0.89, "nearest": 0.5, "random": 0.9}},
        "reconstruction",
        "as far from the texts as random texts are",
    ),
    "vague reconstructions": (
        {"edit_distances": {"reconstruction": 0.7, "nearest": 0.5, "random": 0.9}},
        "reconstruction",
        "less of a text than its nearest training text",
    ),
    "poor samples": ({"samples": {"reverse_perplexity": 7.7}}, "samples", "1.40 times as badly"),
    "equal samples": ({"greedy_samples": {"distinct_texts": 0.16}}, "variety", "Only 16%"),
    "a bound above the rival's": (
        {"bits_per_character": 1.6},
        "rival",
        "higher than that of a character n-gram model of order 5 of 10,000 training texts",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_with_what_helps(case: str) -> None:
    changes, about, sentence = CASES[case]
    (finding,) = bad_ones(**changes)
    assert finding.about == about
    assert sentence in finding.sentence
    assert finding.advice


@pytest.mark.parametrize(
    ("case", "kl", "advice"),
    [
        ("poor samples", 15.0, "--goal generation"),
        ("poor samples", 5.4, "more --minutes, or more texts"),
        ("a bound above the rival's", 5.4, "more --minutes, or more texts"),
        ("vague reconstructions", 15.0, "--goal reconstruction"),
        ("vague reconstructions", 42.0, "more --minutes, or more texts"),
        ("equal samples", 5.4, "--goal balanced"),
        ("equal samples", 15.0, "--set objective.input_dropout=0.5"),
    ],
)
def test_a_run_is_not_told_to_take_the_goal_that_it_has(case: str, kl: float, advice: str) -> None:
    changes, *_ = CASES[case]
    (finding,) = bad_ones(**{**changes, "kl": kl, "mutual_information": 5.0})
    assert finding.advice == advice


def test_information_is_compared_with_the_ceiling_of_its_estimate() -> None:
    """50 texts can show at most 3.9 nats, which is no reason to doubt a KL of 15."""
    report = {"kl": 15.0, "mutual_information": 3.5, "mutual_information_ceiling": 3.9}
    assert bad_ones(**report) == []
    (finding, *_) = findings({**GOOD, **report})
    assert "the estimate cannot exceed 3.9" in finding.sentence


def test_the_information_of_a_ladder_is_compared_with_the_kl_of_its_top_level() -> None:
    levels = {"kl": 9.0, "kl_level_0": 6.0, "kl_level_1": 3.0, "mutual_information": 0.2}
    (finding,) = bad_ones(**levels)
    assert "costs more than it says" in finding.sentence
    assert bad_ones(**{**levels, "mutual_information": 0.4}) == []


def test_a_language_model_is_judged_without_a_code() -> None:
    report = {
        name: value
        for name, value in GOOD.items()
        if not name.startswith("mutual_information")
        and name not in ("edit_distances", "greedy_samples")
    }
    assert [finding.about for finding in findings(report)] == ["samples", "rival"]


ALONE = sorted({*GOOD} - {"kl", "mutual_information", "active_units", "rival_order", "rival_texts"})
"""The numbers that may be missing while those beside them are there."""


@pytest.mark.parametrize("name", [*ALONE, None])
def test_a_number_that_is_missing_is_left_out_of_the_verdict(name: str | None) -> None:
    """An evaluation that is not finite is stored without its numbers."""
    report = {key: value for key, value in GOOD.items() if name is not None and key != name}

    assert all(finding.good for finding in findings(report))
