"""The demo keeps its promises. Slow: it trains for minutes."""

import json
from pathlib import Path

import pytest

from kvae.serving import Sampler


def test_the_demo_trains_a_plan_of_the_corpus_that_is_always_there() -> None:
    from kvae.commands.demo import demo_config

    config = demo_config()
    assert config.data.source == "unicode-names"
    assert (config.model.head, config.model.expander) == ("lstm", "deconv")


@pytest.mark.slow
def test_the_demo_ends_with_names_that_come_back_and_distinct_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.cli import main

    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    evaluation = json.loads((tmp_path / "demo" / "report" / "evaluation.json").read_text())
    assert 30.0 < evaluation["kl"] < 60.0
    assert evaluation["mutual_information"] > 0.9 * evaluation["mutual_information_ceiling"]
    assert evaluation["reconstruction"] < 9.0
    report = capsys.readouterr().out
    for words in (
        "nats a name",
        "bits a character",
        "order 3",
        "order 5",
        "equal in 400 of 400 rows",
        "kvae sample",
    ):
        assert words in report
    sampler = Sampler.load(tmp_path / "demo" / "bundle")
    names = ["GREEK SMALL LETTER ALPHA", "BLACK CHESS QUEEN", "DIGIT ONE", "LATIN CAPITAL LETTER A"]
    same = [a == b for a, b in zip(names, sampler.reconstruct(names), strict=True)]
    assert sum(same) >= 1
    samples = sampler.sample(10, seed=0, greedy=True)
    assert len(set(samples)) >= 9
    assert all(sample in report for sample in samples)
