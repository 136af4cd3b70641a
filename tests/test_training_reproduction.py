"""A study: trained run by run, kept, judged, written down."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.errors import CheckFailed, ConfigError
from kvae.training import fit, reproduction
from kvae.training.data.corpora import holds_lines_out
from kvae.training.figures import stacked_bars
from kvae.training.reproduction import (
    SAMPLES,
    Progress,
    Row,
    Statement,
    Study,
    changed_settings,
    finished_result,
    reproduce,
    run_config,
    unfinished_configs,
    verdicts_of,
)
from kvae.training.studies import STUDIES

from .conftest import stopping_checkpoints

pytestmark = pytest.mark.usefixtures("few_sines")


def tiny(**settings: Any) -> Config:
    """Two steps of the toy's smallest system."""
    shortened = {"training.epochs": 2, "training.steps_per_epoch": 1, "training.jit_compile": False}
    return preset("cnn-dense-toy-small").with_settings({**shortened, **settings})


def study(**fields: Any) -> Study:
    """Two rows and a statement about both."""
    rows = [
        Row("free", tiny(), "a", 0.0, {"elbo": 38.8}),
        Row("half", tiny(**{"objective.beta_max": 0.5}), "a", 0.5),
    ]
    about: dict[str, Any] = {
        "title": "Two",
        "source": "somebody 2020",
        "about": "Nothing.",
        "scales": {"small": lambda: rows},
        "columns": {"elbo": "bound"},
        "statements": (
            Statement(
                "Half is lower.",
                "here",
                lambda n: (n["half"]["elbo"] < n["free"]["elbo"], "as measured"),
            ),
        ),
        "draw": stacked_bars(),
    }
    return Study(**{**about, **fields})


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Runs that take no time; their folders."""
    folders: list[Path] = []

    def instead(folder: Path, config: Config, measure: Any, say: Any) -> dict[str, Any]:
        folders.append(folder)
        folder.mkdir(parents=True)
        result = {
            "asked": config.to_dict(),
            "seconds": 60,
            "reconstruction": 9.0,
            "kl": 1.0,
            "elbo": 10.0 - config.objective.beta_max,
            "seed_seen": config.training.seed,
        }
        (folder / reproduction.RESULT).write_text(json.dumps(result), encoding="utf-8")
        return result

    monkeypatch.setattr(reproduction, "train_and_measure", instead)
    return folders


@pytest.mark.slow
def test_a_row_is_trained_measured_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    measured = study(
        measure=lambda run, prepared: {"texts_seen": len(prepared.validation), SAMPLES: ["a", "b"]}
    )
    found = reproduce(measured, tmp_path, said.append, seeds=2, rows=["free"])
    assert [(result["row"], result["seed"]) for result in found["rows"]] == [
        ("free", 0),
        ("free", 1),
    ]
    assert found["rows"][0]["elbo"] != found["rows"][1]["elbo"]  # another seed, other weights
    assert found["rows"][0]["texts_seen"] == 100
    assert found["rows"][0][SAMPLES] == ["a", "b"]
    assert SAMPLES not in (tmp_path / "results.csv").read_text(encoding="utf-8"), (
        "texts are no column"
    )
    assert found["rows"][0]["settings"]["training.epochs"] == 2
    assert found["rows"][0]["made_with"]["hardware"]
    assert len(found["rows"][0]["curve"]["val_elbo"]) == 2
    assert (tmp_path / "figure.png").stat().st_size > 1000
    said.clear()
    assert reproduce(measured, tmp_path, said.append, seeds=2, rows=["free"]) == found
    assert said == ["2 of 2 runs are already finished"]


def test_every_row_and_seed_is_written_down(untrained: list[Path], tmp_path: Path) -> None:
    found = reproduce(study(), tmp_path, lambda sentence: None, seeds=2)
    assert [(result["row"], result["seed_seen"]) for result in found["rows"]] == [
        ("free", 0),
        ("free", 1),
        ("half", 0),
        ("half", 1),
    ]
    assert [folder.relative_to(tmp_path).as_posix() for folder in untrained] == [
        "free/seed-0",
        "half/seed-0",
        "free/seed-1",
        "half/seed-1",
    ]
    with (tmp_path / "results.csv").open(encoding="utf-8") as file:
        assert [line["row"] for line in csv.DictReader(file)] == ["free", "free", "half", "half"]
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(found)
    )


def test_some_rows_leave_statements_about_others_open(
    untrained: list[Path], tmp_path: Path
) -> None:
    one = study()
    found = reproduce(one, tmp_path, lambda sentence: None, rows=["half"])
    assert [result["row"] for result in found["rows"]] == ["half"]
    ((_, verdict),) = verdicts_of(one, found)
    assert verdict.passed is None
    assert verdict.evidence == "not measured: free"


def test_a_statement_is_judged_by_the_means_over_seeds() -> None:
    rows = [
        {"row": name, "seed": seed, "elbo": bound}
        for name, bounds in {"free": (10.0, 12.0), "half": (9.0, 12.5)}.items()
        for seed, bound in enumerate(bounds)
    ]
    assert [verdict.passed for _, verdict in verdicts_of(study(), {"rows": rows, "study": {}})] == [
        True
    ]
    assert [
        verdict.passed
        for _, verdict in verdicts_of(study(), {"rows": rows[2:] + rows[1:2], "study": {}})
    ] == [True]
    assert [
        verdict.passed
        for _, verdict in verdicts_of(study(), {"rows": rows[3:] + rows[:2], "study": {}})
    ] == [False]


def test_of_several_seeds_a_verdict_says_what_each_finds_alone() -> None:
    rows = [
        {"row": name, "seed": seed, "elbo": bound}
        for name, bounds in {"free": (10.0, 12.0), "half": (9.0, 12.5)}.items()
        for seed, bound in enumerate(bounds)
    ]
    assert [verdict.seeds for _, verdict in verdicts_of(study(), {"rows": rows, "study": {}})] == [
        [True, False]
    ]
    one = [row for row in rows if not row["seed"]]
    assert [verdict.seeds for _, verdict in verdicts_of(study(), {"rows": one, "study": {}})] == [
        ()
    ]


def test_a_run_that_diverges_is_said_and_the_others_go_on(
    untrained: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = reproduction.train_and_measure

    def diverging(folder: Path, config: Config, measure: Any, say: Any) -> dict[str, Any]:
        if config.objective.beta_max == 1.0:
            raise CheckFailed("training diverged")
        return fine(folder, config, measure, say)

    monkeypatch.setattr(reproduction, "train_and_measure", diverging)
    said: list[str] = []
    found = reproduce(study(), tmp_path, said.append)
    assert [result["row"] for result in found["rows"]] == ["half"]
    assert "free, seed 0: training diverged" in said


def test_what_is_measured_of_the_whole_is_measured_once(
    untrained: list[Path], tmp_path: Path
) -> None:
    calls: list[int] = []

    def beside(rows: Any, say: Any) -> dict[str, float]:
        calls.append(len(rows))
        return {"ratio": 2.0}

    for _ in range(2):
        found = reproduce(study(measure_study=beside), tmp_path, lambda sentence: None)
    assert (calls, found["study"]) == ([2], {"ratio": 2.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rows": ["fre"]}, "did you mean 'free'"), ({"seeds": 0}, "at least 1, got 0")],
)
def test_unknown_rows_and_no_seeds_are_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        reproduce(study(), tmp_path / "new", lambda sentence: None, **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("traced_once")
def test_a_stopped_study_goes_on_within_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(fit, "Checkpoints", stopping_checkpoints())
        with pytest.raises(KeyboardInterrupt):
            reproduce(study(), tmp_path, said.append, rows=["free"])
    assert not (tmp_path / "free" / "seed-0" / reproduction.RESULT).exists()
    reproduce(study(), tmp_path, said.append, rows=["free"])
    assert any("going on at step 1" in sentence for sentence in said)


def test_another_configuration_is_not_taken_for_the_result(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / reproduction.RESULT).write_text(
        json.dumps({"asked": tiny().to_dict(), "elbo": 1.0}), encoding="utf-8"
    )
    assert (finished_result(folder, tiny()) or {})["elbo"] == 1.0
    assert finished_result(folder, tiny(**{"training.seed": 1})) is None


def test_a_row_begins_with_the_weights_of_another_of_its_seed(tmp_path: Path) -> None:
    later = run_config(tmp_path, Row("later", tiny(), start_from="first"), 2)
    assert later.training.start_from == str(tmp_path / "first" / "seed-2")
    assert later.training.seed == 2
    assert run_config(tmp_path, Row("first", tiny()), 2).training.start_from is None


def test_the_time_left_follows_the_size_of_what_is_left(tmp_path: Path) -> None:
    said: list[str] = []
    rows = [Row("a", tiny()), Row("b", tiny(**{"training.steps_per_epoch": 3}))]
    progress = Progress([(row, 0) for row in rows], tmp_path, said.append)
    progress.announce(rows[0], 0)
    progress.record(rows[0], {"seconds": 100})
    progress.announce(rows[1], 0)
    assert said == ["[1 of 2] a, seed 0", "[2 of 2] b, seed 0, about 5 minutes left"]


def test_the_time_left_is_known_from_the_first_run_that_is_missing(
    untrained: list[Path], tmp_path: Path
) -> None:
    said: list[str] = []
    reproduce(study(), tmp_path, said.append, rows=["free"])
    said.clear()
    reproduce(study(), tmp_path, said.append)
    assert said == [
        "1 of 2 runs are already finished",
        "[2 of 2] half, seed 0, about 1 minutes left",
    ]


def test_only_what_is_not_there_is_to_be_trained(untrained: list[Path], tmp_path: Path) -> None:
    reproduce(study(), tmp_path, lambda sentence: None, rows=["free"])
    assert unfinished_configs(study(), tmp_path) == [study().scales["small"]()[1].config]
    assert unfinished_configs(study(), tmp_path, rows=["free"]) == []


def test_the_settings_of_a_result_make_its_configuration() -> None:
    config = tiny(**{"objective.beta_max": 0.5})
    assert Config().with_settings(changed_settings(config)) == config


def test_no_study_depends_on_how_lines_are_split() -> None:
    """Their corpora bring held-out texts, so results from before `data.split` stay the same."""
    rows = [row for study in STUDIES.values() for scale in study.scales.values() for row in scale()]
    assert not any(
        holds_lines_out(row.config) or row.config.data.labelled_fraction < 1 for row in rows
    )


def test_a_result_of_before_a_field_is_kept(tmp_path: Path) -> None:
    old = tiny().to_dict()
    del old["data"]["split"]
    (tmp_path / reproduction.RESULT).write_text(json.dumps({"asked": old}), encoding="utf-8")
    assert finished_result(tmp_path, tiny()) == {"asked": old}
