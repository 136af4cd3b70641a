"""A search trains what it says it trains, and goes on where it was."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvae.configuration import Config
from kvae.presets import PRESETS, preset
from kvae.runs import load_run
from kvae.serving.errors import CheckFailed, ConfigError, DataError
from kvae.training.tune import (
    default_search,
    hyperparameter_space,
    parse_search,
    results_table,
    stored_search,
    tune,
)


def quiet(sentence: str) -> None:
    pass


def test_a_search_is_a_range_or_a_list() -> None:
    assert parse_search("objective.alpha=0.05..0.5") == ("objective.alpha", (0.05, 0.5))
    assert parse_search("model.latent_size=[16, [32, 16]]") == ("model.latent_size", [16, [32, 16]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("objective.alhpa=1..2", "did you mean 'objective.alpha'"),
        ("objective.alpha", "write KEY=LOW..HIGH"),
        ("objective.alpha=2..1", "write KEY=LOW..HIGH"),
        ("objective.alpha=[1]", "write KEY=LOW..HIGH"),
        ("objective.alpha=low..high", "write KEY=LOW..HIGH"),
    ],
)
def test_what_is_no_search_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_search(text)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_with_a_code_has_a_usual_search(name: str) -> None:
    config = preset(name)
    if config.model.latent == "none":
        with pytest.raises(ConfigError, match="no code to tune"):
            default_search(config)
        return
    search = default_search(config)
    assert ("objective.alpha" in search) == config.model.auxiliary
    assert hyperparameter_space(search).get("objective.beta_max") == pytest.approx(0.2)


@pytest.mark.slow
def test_a_search_trains_compares_and_goes_on(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    config = preset("hybrid-lstm").with_settings({**small_settings, "training.steps": 2})
    search = {"model.latent_size": [2, 6], "objective.alpha": (0.1, 0.4)}
    results = tune(config, tmp_path / "tune", quiet, trials=2, search=search)
    assert [result["elbo"] for result in results] == sorted(result["elbo"] for result in results)
    for result in results:
        trained = load_run(result["run"])
        assert list(trained.config.model.latent_size) == [result["settings"]["model.latent_size"]]
        assert trained.config.objective.alpha == result["settings"]["objective.alpha"]
        assert 0.1 <= trained.config.objective.alpha <= 0.4
        assert trained.evaluation["elbo"] == result["elbo"]
    assert results_table(results).splitlines()[0].split() == ["elbo", "kl", "active_units", *search]
    assert json.loads((tmp_path / "tune" / "results.json").read_text()) == results
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tune").rglob("model.keras")}
    assert tune(config, tmp_path / "tune", quiet, trials=2, search=search) == results
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "tune").rglob("model.keras")
    } == before
    with pytest.raises(ConfigError, match="holds a search over other settings"):
        tune(config, tmp_path / "tune", quiet, trials=2, search={"objective.alpha": (0.1, 0.3)})


def test_settings_that_do_not_fit_are_failed_trials_with_their_reason(
    tmp_path: Path, small_settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    config = preset("hybrid-lstm").with_settings({**small_settings, "training.steps": 1})
    with pytest.raises(CheckFailed, match="no trial of 2 succeeded"):
        tune(config, tmp_path / "tune", said.append, 2, {"model.length": [15, 17]})
    assert sum("failed: model.length must be a multiple of 4" in sentence for sentence in said) == 2
    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    kept = json.loads((tmp_path / "tune" / "search" / "trial_0" / "trial.json").read_text())
    assert (kept["status"], kept["message"].count("\n")) == ("FAILED", 0)
    assert any("failed: " + kept["message"] in sentence for sentence in said)


def test_a_failed_trial_does_not_end_the_search(
    tmp_path: Path, small_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished_run(config: Config, folder: Path, say: Any) -> tuple[Any, None]:
        if config.model.length == 15:
            raise CheckFailed("training diverged")
        folder.mkdir()
        return SimpleNamespace(evaluation={"elbo": 3.0, "kl": 1.0, "active_units": 2}), None

    monkeypatch.setattr("kvae.training.tune.finished_run", finished_run)
    said: list[str] = []
    config = preset("hybrid-lstm").with_settings(small_settings)
    results = tune(config, tmp_path / "tune", said.append, 2, {"model.length": [15, 16]})
    assert [result["settings"] for result in results] == [{"model.length": 16}]
    assert sum("failed: training diverged" in sentence for sentence in said) == 1


def test_a_corpus_that_is_not_there_ends_the_search(
    tmp_path: Path, small_settings: dict[str, Any]
) -> None:
    config = preset("hybrid-lstm").with_settings(
        {**small_settings, "data.source": str(tmp_path / "none.txt")}
    )
    for _ in range(2):
        with pytest.raises(DataError, match="no such file"):
            tune(config, tmp_path / "tune", quiet, 2, {"objective.alpha": (0.1, 0.4)})


def test_a_trial_that_was_stopped_goes_on_with_what_it_had_drawn(
    tmp_path: Path, small_settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[Config, Path]] = []

    def completed(config: Config, folder: Path, say: Any) -> tuple[Any, None]:
        trained.append((config, folder))
        folder.mkdir(exist_ok=True)
        if len(trained) == 1:
            raise KeyboardInterrupt
        return SimpleNamespace(evaluation={"elbo": 3.0, "kl": 1.0, "active_units": 2}), None

    monkeypatch.setattr("kvae.training.tune.finished_run", completed)
    config = preset("hybrid-lstm").with_settings(small_settings)
    search = {"objective.alpha": (0.1, 0.4)}
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        tune(config, tmp_path / "tune", said.append, 1, search)
    tune(config, tmp_path / "tune", said.append, 1, search)
    first, second = trained
    assert first == second  # the same settings in the same run folder: `completed` resumes it
    trials = [sentence for sentence in said if sentence.startswith("trial 0:")]
    assert trials == [trials[0]] * 2


def test_a_search_of_before_goes_on_with_the_split_that_it_began_with(tmp_path: Path) -> None:
    ranges: dict[str, list[Any]] = {"objective.alpha": [0.1, 0.2]}
    old = Config().to_dict()
    del old["data"]["split"]
    (tmp_path / "tune.json").write_text(json.dumps({"config": old, "search": ranges}))
    assert stored_search(tmp_path / "tune.json", Config(), ranges) == Config().with_settings(
        {"data.split": "texts"}
    )
    for config, search in (
        (Config().with_settings({"data.split_seed": 1}), ranges),
        (Config(), {"objective.alpha": [1]}),
    ):
        with pytest.raises(ConfigError, match="holds a search over other settings"):
            stored_search(tmp_path / "tune.json", config, search)
