"""Runs that were trained before `data.split` existed keep their splits and results.

`old_run.json` has configuration, vocabulary, losses, evaluation and fingerprints as that version
wrote them, on TensorFlow.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from kvae.runs import CONFIG, METRICS, REPORT, VOCABULARY, load_run, write_json
from kvae.training.data import stores
from kvae.training.data.prepare import held_out, prepare
from kvae.training.experiment import finished_run, stored_config
from kvae.training.identity import fingerprint
from kvae.training.transfer import note_other_split

OLD = json.loads(Path(__file__).with_name("old_run.json").read_text(encoding="utf-8"))

LABELS = {"data.labelled_fraction": 0.3, "data.split_seed": 1, "objective.semi_supervised": True}
CASES: dict[str, dict[str, Any]] = {
    "memory": {},
    "disk": {"data.storage": "disk"},
    "capped": {"data.storage": "disk"},
    "other seed": {"data.split_seed": 1},
    "small fraction": {"data.validation_fraction": 0.0001, "data.split_seed": 2},
    "labels": LABELS,
}


def access_log() -> list[str]:
    return [
        f"job {i} finished in {i * 37 % 991} ms" if i % 10 == 0 else "GET / 200"
        for i in range(1, 401)
    ]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the old run, stopped before its first checkpoint; its data lies beside it."""
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    texts, folder = tmp_path / "access.txt", tmp_path / "old"
    texts.write_text("\n".join(access_log()) + "\n")
    (tmp_path / "labels.txt").write_text(
        "\n".join("abc"[number % 3] for number in range(400)) + "\n"
    )
    (folder / REPORT).mkdir(parents=True)
    config = json.loads(json.dumps(OLD["config"]))
    config["data"]["source"] = str(texts)
    write_json(folder / CONFIG, config)
    write_json(folder / VOCABULARY, OLD["vocabulary"])
    return folder


@pytest.mark.parametrize("case", CASES)
def test_an_old_configuration_has_its_old_split(
    old: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "capped":
        monkeypatch.setattr(stores, "MOST_HELD_OUT", 7)
    labels = {"data.labels": str(old.parent / "labels.txt")} if case == "labels" else {}
    open_again = {"model.length": 0, "model.vocabulary_size": 0}
    config = stored_config(old).with_settings({**open_again, **CASES[case], **labels})
    assert config.data.split == "texts"
    assert fingerprint(prepare(config)) == OLD["fingerprints"][case]


def test_an_old_run_of_a_study_goes_on_to_its_old_losses_and_evaluation(old: Path) -> None:
    """The study splits by lines now; the old run is not trained again for that."""
    said: list[str] = []
    finished, prepared = finished_run(
        stored_config(old).with_settings({"data.split": "lines"}), old, said.append
    )
    assert not any("anew" in sentence for sentence in said)
    assert fingerprint(prepared) == OLD["fingerprints"]["memory"]
    metrics = json.loads((old / METRICS).read_text().splitlines()[0])
    assert {name: metrics[name] for name in OLD["metrics"]} == pytest.approx(
        OLD["metrics"], rel=1e-3, abs=1e-3
    )
    evaluation = {name: finished.evaluation[name] for name in OLD["evaluation"]}
    assert evaluation == pytest.approx(OLD["evaluation"], rel=1e-3, abs=1e-3)
    assert stored_config(old).data.split == "texts"
    opened = load_run(old)
    found = held_out(opened.config, opened.alphabet)
    assert (found.rows == prepared.validation).all()
    assert any("362 of 400 lines are held out, 90.50% where" in note for note in found.notes)


def test_the_store_of_an_old_run_is_not_taken_for_one_of_the_layout_of_today(old: Path) -> None:
    """Its name followed from files, shape, rules, fraction and seed, in that order."""
    config = stored_config(old).with_settings({"data.storage": "disk"})
    source = Path(config.data.source)
    files = [(str(source), source.stat().st_size, source.stat().st_mtime_ns)]
    asked = [files, [28, "char"], ["lines", "refuse", 0, 1, True], [0.05, 0]]
    old_name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:24]
    old_store = stores.stores_folder() / old_name
    old_store.mkdir(parents=True)
    (old_store / stores.STORE_INFO).write_text("{}")
    assert stores.store_name(config) != old_name
    assert fingerprint(prepare(config)) == OLD["fingerprints"]["disk"]
    assert (old_store / stores.STORE_INFO).read_text() == "{}"


OTHER_TOKENS: dict[str, Any] = {
    "model.length": 32,
    "model.tokenizer": "word",
    "data.mode": "windows",
    "data.too_long": "cut",
    "data.max_symbols": 9,
    "data.min_count": 2,
    "data.format": "csv",
    "data.column": "text",
    "data.label_column": "label",
    "data.labelled_fraction": 0.5,
    "data.validation_fraction": 0.1,
    "data.split_seed": 5,
    "data.split": "lines",
}


@pytest.mark.parametrize("key", [*OTHER_TOKENS, "data.source", "data.labels", "data.validation"])
def test_a_store_has_another_name_for_each_setting_that_its_tokens_depend_on(
    old: Path, key: str
) -> None:
    config = stored_config(old)
    name = stores.store_name(config)
    value = OTHER_TOKENS.get(key, str(old.parent / "labels.txt"))
    assert stores.store_name(config.with_settings({key: value})) != name


def test_a_store_keeps_its_name_where_its_tokens_stay_the_same(old: Path) -> None:
    config = stored_config(old)
    name = stores.store_name(config)
    for unconcerned in (
        {"training.seed": 9},
        {"training.batch_size": 9},
        {"model.latent_size": 9},
        {"data.storage": "disk"},
    ):
        assert stores.store_name(config.with_settings(unconcerned)) == name
    for texts in ("one", "other"):  # with a given length they decide nothing
        (old.parent / f"{texts}.txt").write_text(texts)
    one, other = (
        stores.store_name(
            config.with_settings({"data.validation": str(old.parent / f"{texts}.txt")})
        )
        for texts in ("one", "other")
    )
    assert one == other
    source = Path(config.data.source)
    source.write_text(source.read_text() + "another line\n")
    assert stores.store_name(config) != name


def test_a_run_that_begins_with_an_old_one_says_that_its_held_out_texts_may_be_known(
    old: Path,
) -> None:
    said: list[str] = []
    for unconcerned in (
        {},
        {"data.split": "lines", "data.validation": "held-out.txt"},
        {"data.source": "sines"},
    ):
        note_other_split(stored_config(old).with_settings(unconcerned), old, said.append)
    assert said == []
    note_other_split(stored_config(old).with_settings({"data.split": "lines"}), old, said.append)
    assert "hold out the same ones with --set data.split=texts --set data.split_seed=0" in said[0]
