"""Texts that are read in lower case, in training and afterwards."""

from pathlib import Path
from typing import Any

import pytest

from kvae.cli import parser
from kvae.commands.training_arguments import with_arguments
from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.alphabet import Alphabet
from kvae.training.data.prepare import Prepared, held_out, prepare, training_texts
from kvae.training.data.stores import store_name
from kvae.training.identity import fingerprint

TEXTS = [
    f"{word} {number}" for number in range(30) for word in ("Straße", "ΟΔΟΣ", "İNCİ", "Kelvin")
]
LOWER = [
    f"{word} {number}" for number in range(30) for word in ("straße", "οδοσ", "inci", "kelvin")
]
"""By hand: one character for each, also for the dotted I and a sigma at the end of a word."""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    made = {"mixed": tmp_path / "mixed.txt", "lower": tmp_path / "lower.txt"}
    made["mixed"].write_text("\n".join(TEXTS), encoding="utf-8")
    made["lower"].write_text("\n".join(LOWER), encoding="utf-8")
    return made


def config(source: Path, **settings: Any) -> Config:
    return preset("cnn-small").with_settings(
        {"data.source": str(source), "data.mode": "lines", **settings}
    )


def without_flag(prepared: Prepared) -> tuple[Any, ...]:
    symbols = prepared.alphabet.symbols
    return fingerprint(prepared), symbols, list(prepared.train_texts), prepared.validation_texts


FOLDED = {"data.fold_case": True}
READINGS: dict[str, dict[str, Any]] = {
    "memory": {},
    "disk": {"data.storage": "disk"},
    "bytes": {"model.tokenizer": "byte"},
    "words": {"model.tokenizer": "word"},
    "a stream": {"data.mode": "windows", "model.length": 16},
}


@pytest.mark.parametrize("reading", READINGS)
def test_folded_texts_are_those_of_a_file_in_lower_case(
    reading: str, files: dict[str, Path]
) -> None:
    settings = READINGS[reading]
    folded = prepare(config(files["mixed"], **settings, **FOLDED))
    assert without_flag(folded) == without_flag(prepare(config(files["lower"], **settings)))
    assert folded.alphabet.fold_case
    assert Alphabet.from_dict(folded.alphabet.to_dict()) == folded.alphabet
    assert not prepare(config(files["lower"], **settings)).alphabet.fold_case


def test_given_texts_and_texts_that_are_read_again_are_folded_too(files: dict[str, Path]) -> None:
    folded = prepare(config(files["mixed"], **FOLDED))
    given = prepare(config(files["mixed"], **FOLDED), texts=TEXTS)
    assert fingerprint(given) == fingerprint(folded)
    assert held_out(folded.config, folded.alphabet).texts == list(folded.validation_texts)
    assert held_out(folded.config, folded.alphabet, texts=TEXTS).texts == LOWER
    assert held_out(folded.config, folded.alphabet, str(files["mixed"])).texts == LOWER
    assert sorted(training_texts(folded.config, folded.alphabet)) == sorted(folded.train_texts)


def test_a_store_of_folded_texts_has_a_name_of_its_own(files: dict[str, Path]) -> None:
    assert store_name(config(files["mixed"])) != store_name(config(files["mixed"], **FOLDED))


def test_the_option_of_kvae_train_is_a_setting_of_the_run() -> None:
    command = ["train", "--data", "a.txt", "--out", "run"]
    asked = with_arguments(Config(), parser().parse_args([*command, "--fold-case"]))
    assert asked.data.fold_case
    stored = Config().with_settings(FOLDED)
    assert with_arguments(stored, parser().parse_args(command)).data.fold_case
    assert not with_arguments(Config(), parser().parse_args(command)).data.fold_case
    old = Config().to_dict()
    del old["data"]["fold_case"]
    assert not Config.from_stored(old).data.fold_case
