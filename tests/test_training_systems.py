"""The table of systems: made row by row, gone on with where it stopped."""

import re
from pathlib import Path
from typing import Any

import pytest

from kvae.configuration import Config
from kvae.presets import PUBLISHED
from kvae.runs import write_json
from kvae.serving.errors import ConfigError
from kvae.training import fit, reproduction, systems
from kvae.training.systems import distinct_configs, reproduce

from .conftest import stopping_checkpoints

pytestmark = pytest.mark.usefixtures("few_sines")

ROWS = ["lstm-lm-ptb", "lvae-3-toy"]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps a row."""
    full = systems.on_corpus

    def shortened(config: Config) -> Config:
        settings = {
            "training.epochs": 2,
            "training.steps_per_epoch": 1,
            "training.jit_compile": False,
        }
        return full(config).with_settings(settings)

    monkeypatch.setattr(systems, "on_corpus", shortened)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results without training, with the KL of three levels."""

    def result_of(folder: Path, config: Config, measure: Any, say: Any) -> dict[str, Any]:
        folder.mkdir(parents=True)
        result = {
            "asked": config.to_dict(),
            "seconds": 60,
            "texts": 100,
            "parameters": 5_000,
            "reconstruction": 9.0,
            "kl": 6.0,
            **{f"kl_level_{level}": 1.0 + level for level in range(3)},
            "elbo": 15.0,
            "active_units": 3,
            "latent_size": 4,
            "mutual_information": 2.0,
        }
        write_json(folder / reproduction.RESULT, result)
        return result

    monkeypatch.setattr(systems, "train_and_measure", result_of)


def test_a_page_has_a_line_for_every_row_and_no_row_is_trained_twice(
    untrained: None, tmp_path: Path
) -> None:
    said: list[str] = []
    reproduce(tmp_path / "rows", said.append, ROWS[:1])
    assert any("[1 of 1] lstm-lm-ptb-small" in sentence for sentence in said)
    said.clear()
    page = reproduce(tmp_path / "rows", said.append, ROWS, tmp_path / "page.md")
    assert page == tmp_path / "page.md"
    assert [sentence for sentence in said if sentence.startswith("[")] == [
        "[2 of 2] lvae-3-toy-small"
    ]
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    assert [line[0].strip("| `") for line in lines] == ROWS
    assert [line[2] for line in lines] == ["1,146,058", "756,146"]
    assert lines[1][7] == "1.00 + 2.00 + 3.00"  # the KL of three levels
    assert lines[1][-1] == "41.3 |"
    named = page.read_text().partition("Not measured: ")[2]
    assert set(re.findall(r"`([^`]+)`", named)) == set(PUBLISHED) - set(ROWS)


def test_the_page_in_docs_names_every_preset() -> None:
    text = (Path(__file__).parents[1] / "docs" / systems.PAGE).read_text(encoding="utf-8")
    rows, _, missing = text.partition("Not measured: ")
    measured = set(re.findall(r"^\| `([^`]+)`", rows, re.MULTILINE))
    assert measured | set(re.findall(r"`([^`]+)`", missing)) == set(PUBLISHED)


@pytest.mark.slow  # every day with results that nobody trained
def test_a_page_of_trained_rows(tiny: None, tmp_path: Path) -> None:
    page = reproduce(tmp_path / "rows", lambda sentence: None, ROWS, tmp_path / "page.md")
    lines = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| `")]
    assert [line[0].strip("| `") for line in lines] == ROWS
    assert [line[2] for line in lines] == ["1,146,058", "756,146"]
    assert lines[1][7].count("+") == 2  # the KL of three levels


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'lvae-3-toy'"):
        reproduce(tmp_path, lambda sentence: None, ["lvae-3-toi"])


def test_equal_systems_are_trained_once_and_every_preset_has_a_row() -> None:
    groups = list(distinct_configs(list(PUBLISHED)))
    assert sorted(name for _, names in groups for name in names) == sorted(PUBLISHED)
    together = {frozenset(names) for _, names in groups if len(names) > 1}
    assert frozenset({"hybrid-dense-toy", "hybrid-dense-twitter"}) in together


@pytest.mark.slow  # a study's row goes on in the same way, every day
def test_a_row_that_was_stopped_is_no_result_and_goes_on(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(fit, "Checkpoints", stopping_checkpoints())
        with pytest.raises(KeyboardInterrupt):
            reproduce(tmp_path, said.append, ROWS[:1])
    assert not (tmp_path / ROWS[0] / reproduction.RESULT).exists()
    reproduce(tmp_path, said.append, ROWS[:1])
    assert (tmp_path / ROWS[0] / reproduction.RESULT).exists()
    assert any("going on at step 1" in sentence for sentence in said)
