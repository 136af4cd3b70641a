"""The demo keeps its promises. Slow: it trains for minutes."""

import json
from pathlib import Path

import pytest

from kvae.serving import Sampler


def test_the_demo_trains_the_preset_on_the_corpus_that_is_always_there() -> None:
    from kvae.commands.demo import demo_config

    config = demo_config()
    assert config.data.source == "unicode-names"
    assert (config.model.head, config.model.expander) == ("lstm", "deconv")


@pytest.mark.slow
def test_the_demo_ends_with_a_live_code_a_good_bound_and_distinct_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kvae.cli import main

    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    evaluation = json.loads((tmp_path / "demo" / "report" / "evaluation.json").read_text())
    assert evaluation["kl"] >= 5.0
    assert evaluation["active_units"] >= 8
    assert evaluation["elbo"] < 28.2
    report = capsys.readouterr().out
    for words in (
        "nats a name",
        "bits a character",
        "order 3",
        "order 5",
        "equal in 200 of 200 rows",
        "kvae sample",
    ):
        assert words in report
    samples = Sampler.load(tmp_path / "demo" / "bundle").sample(10, seed=0, greedy=True)
    assert len(set(samples)) >= 9
    assert all(sample in report for sample in samples)
