"""Probes: who is tested, what the numbers are, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.cli import main
from kvae.runs import Run, load_run
from kvae.serving.errors import ConfigError, DataError
from kvae.training import probe as probing
from kvae.training.data.named_corpora import CORPORA
from kvae.training.data.prepare import held_out
from kvae.training.evaluation import collect
from kvae.training.probe import (
    BY_HASH,
    UNSEEN,
    Labelled,
    Part,
    accuracy_of,
    check_model,
    dense_results,
    labelled_texts,
    neighbour_agreement,
    posterior_means,
    probe,
)

from .conftest import SYLLABLES, small_model


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> Run:
    return load_run(run_folder)


@pytest.fixture
def labels(corpus_file: Path, tmp_path: Path) -> Path:
    """The first syllable of each text, one a line."""
    path = tmp_path / "labels.txt"
    path.write_text("".join(text[:2] + "\n" for text in corpus_file.read_text().split()))
    return path


def parts_of(data: Labelled) -> list[Part]:
    return [data.train, data.validation, data.test]


def all_texts(data: Labelled) -> list[str]:
    return [text for part in parts_of(data) for text in part.texts]


def test_the_test_texts_of_a_run_are_those_that_it_holds_out(trained: Run, labels: Path) -> None:
    data = labelled_texts(trained, trained.config, labels=str(labels))
    assert data.test.texts == held_out(trained.config, trained.alphabet).texts
    assert data.test_source == UNSEEN
    assert len(data.validation.texts) > 0
    assert len(all_texts(data)) == len(set(all_texts(data))) == 125
    assert data.labels == tuple(sorted(SYLLABLES))
    for part in parts_of(data):
        assert [data.labels[number] for number in part.classes] == [t[:2] for t in part.texts]
        assert trained.alphabet.decode(part.rows) == part.texts


def test_other_texts_are_split_by_their_hash(
    trained: Run, corpus_file: Path, tmp_path: Path
) -> None:
    texts = corpus_file.read_text().split()
    twice, labels = tmp_path / "twice.txt", tmp_path / "labels.txt"
    twice.write_text("\n".join(texts + texts[::-1]) + "\n")
    labels.write_text("\n".join(text[:2] for text in texts + texts[::-1]) + "\n")
    data = labelled_texts(trained, trained.config, str(twice), str(labels))
    assert data.test_source == BY_HASH
    assert len(all_texts(data)) == 250
    sets = [set(part.texts) for part in parts_of(data)]
    assert sum(map(len, sets)) == 125  # a text and its copy are in one part
    assert 0.1 <= len(data.test.texts) / 250 <= 0.3
    again = labelled_texts(trained, trained.config, str(twice), str(labels))
    assert again.test.texts == data.test.texts


def test_texts_of_a_validation_file_are_no_test_texts(
    trained: Run, labels: Path, corpus_file: Path
) -> None:
    config = trained.config.with_settings({"data.validation": str(corpus_file)})
    data = labelled_texts(trained, config, labels=str(labels))
    assert data.test_source == BY_HASH
    assert len(all_texts(data)) == 125


def test_texts_without_a_label_are_left_out(trained: Run, labels: Path) -> None:
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join("" if line == "KA" else line for line in lines) + "\n")
    data = labelled_texts(trained, trained.config, labels=str(labels))
    assert data.labels == ("MI", "NE", "RU", "TO")
    assert len(all_texts(data)) == 100
    assert any("25 texts without a label are left out" in note for note in data.notes)


def test_a_limit_takes_texts_at_equal_distances(trained: Run, labels: Path) -> None:
    whole = labelled_texts(trained, trained.config, labels=str(labels))
    data = labelled_texts(trained, trained.config, labels=str(labels), most=63)
    assert len(all_texts(data)) == 63
    assert set(data.test.texts) <= set(whole.test.texts)
    assert {text[:2] for text in data.train.texts} == set(SYLLABLES)


def test_a_named_corpus_brings_its_own_labels(
    trained: Run, corpus_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = corpus_file.read_text().split()
    named = replace(
        CORPORA["unicode-names"], texts=lambda: texts, label=lambda text: str("KA" in text)
    )
    monkeypatch.setitem(CORPORA, "unicode-names", named)
    data = labelled_texts(trained, trained.config, "unicode-names")
    assert data.labels == ("False", "True")
    assert len(all_texts(data)) == 125


def test_a_column_of_a_table_has_the_labels(
    trained: Run, corpus_file: Path, tmp_path: Path
) -> None:
    table = tmp_path / "names.csv"
    rows = [f"{text},{text[2:4]}\n" for text in corpus_file.read_text().split()]
    table.write_text("name,middle\n" + "".join(rows))
    config = trained.config.with_settings({"data.format": "auto", "data.column": "name"})
    data = labelled_texts(trained, config, str(table), label_column="middle")
    for part in parts_of(data):
        assert [data.labels[number] for number in part.classes] == [t[2:4] for t in part.texts]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (lambda n: "x\n" * n, DataError, "1 different labels, the probe takes 2 to 100; give"),
        (lambda n: "".join(f"{i}\n" for i in range(n)), DataError, "125 different .* group them"),
        (lambda n: "a\nb\n" + "\n" * (n - 2), DataError, "too few labelled texts"),
        (lambda n: "a\nb\n", DataError, "2 labels for the 125 lines"),
    ],
)
def test_labels_that_do_not_serve_are_refused(
    trained: Run, labels: Path, content: Callable[[int], str], error: type, words: str
) -> None:
    labels.write_text(content(125))
    with pytest.raises(error, match=words):
        labelled_texts(trained, trained.config, labels=str(labels))


def test_no_labels_and_models_that_do_not_serve_are_refused(trained: Run) -> None:
    with pytest.raises(ConfigError, match=r"no labels of its own; give them with --labels FILE"):
        labelled_texts(trained, trained.config)
    attributes = trained.config.with_settings({"model.attributes": ["a", "b"]})
    with pytest.raises(ConfigError, match="was trained with labels"):
        check_model(replace(trained, config=attributes))
    no_code = replace(trained.config, model=replace(trained.config.model, latent="none"))
    with pytest.raises(ConfigError, match="language model has no codes"):
        check_model(replace(trained, config=no_code))


@pytest.mark.both
def test_codes_are_the_posterior_means(trained: Run) -> None:
    rows = held_out(trained.config, trained.alphabet).rows
    means = posterior_means(trained.model, rows, batch_size=3)
    np.testing.assert_allclose(means, collect(trained.model, rows)["mean"], atol=1e-5)


def test_codes_of_a_ladder_have_all_levels() -> None:
    from .conftest import random_tokens

    model = small_model(latent_size=(4, 3))
    means = posterior_means(model, random_tokens(5), batch_size=2)
    assert means.shape == (5, 7)
    assert (means.std(axis=0) > 0).all()


def made(train: int, validation: int, test: int, seed: int = 0) -> Labelled:
    """Labelled texts of two classes; the word `good` or `bad` gives the class away."""
    generator = np.random.default_rng(seed)

    def part(count: int) -> Part:
        classes = generator.integers(0, 2, count)
        noise = generator.integers(0, 9, (count, 3))
        texts = [
            f"w{a} {('bad', 'good')[c]} w{b} w{d}"
            for (a, b, d), c in zip(noise, classes, strict=True)
        ]
        return Part(texts, np.zeros((count, 16), np.int32), classes)

    return Labelled(part(train), part(validation), part(test), ("0", "1"), BY_HASH, ())


def test_what_the_code_knows_is_found_and_what_it_does_not_know_is_not(
    monkeypatch: pytest.MonkeyPatch, trained: Run
) -> None:
    data, generator = made(300, 60, 400), np.random.default_rng(1)
    parts = iter(parts_of(data))

    def informed(model: Any, rows: np.ndarray) -> np.ndarray:
        classes = next(parts).classes
        noise = generator.standard_normal((len(rows), 4))
        return np.hstack([3.0 * (2 * classes[:, None] - 1), noise])

    monkeypatch.setattr(probing, "posterior_means", informed)
    found = probe(trained, data)
    assert found["texts"] == {"train": 300, "validation": 60, "test": 400}
    features = found["features"]
    assert features["codes"]["accuracy"] == features["bag_of_words"]["accuracy"] == 1.0
    assert features["codes"]["agreement"] > 0.95
    assert (features["lsa"]["dimensions"], features["codes"]["dimensions"]) == (5, 5)

    noise = [generator.standard_normal((len(part.texts), 4)) for part in parts_of(data)]
    blind = dense_results(noise, data)
    share = np.bincount(data.train.classes).argmax()
    majority = float((data.test.classes == share).mean())
    assert features["majority"]["accuracy"] == pytest.approx(majority)
    assert blind["accuracy"] == pytest.approx(majority, abs=0.1)
    assert blind["agreement"] == pytest.approx(features["majority"]["agreement"], abs=0.05)


def test_the_standard_error_is_that_of_a_share() -> None:
    found = accuracy_of(np.array([True] * 80 + [False] * 20))
    assert found["accuracy"] == 0.8
    assert found["standard_error"] == pytest.approx(0.04)


def test_neighbours_are_the_nearest_by_cosine() -> None:
    """Compared with a search over all angles; lengths are drawn so that distance would differ."""
    generator = np.random.default_rng(0)
    angles, classes = generator.uniform(0, 2 * np.pi, 40), generator.integers(0, 2, 40)
    length = generator.uniform(0.1, 9.0, (40, 1))
    values = length * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    train, test = (values[:30], classes[:30]), (values[30:], classes[30:])
    agreeing = 0
    for angle, label in zip(angles[30:], classes[30:], strict=True):
        away = np.abs((angles[:30] - angle + np.pi) % (2 * np.pi) - np.pi)
        agreeing += int((classes[:30][np.argsort(away)[:7]] == label).sum())
    assert neighbour_agreement(train, test, neighbours=7) == pytest.approx(agreeing / 70)


def test_the_command_prints_a_table_or_json(
    run_folder: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(run_folder), "--labels", str(labels), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["texts"]["test"] == sum(report["labels"].values()) == 7
    assert {"run", "data", "test_source", "neighbours", "text_unit"} <= set(report)
    for name in ("codes", "lsa", "bag_of_words", "majority"):
        assert 0 <= report["features"][name]["accuracy"] <= 1
    assert main(["probe", str(run_folder), "--labels", str(labels), "--texts", "90"]) == 0
    out = capsys.readouterr().out
    assert "the texts that the run holds out" in out
    for heading in ("posterior means", "latent semantic analysis", "bag of words", "most frequent"):
        assert heading in out
    assert main(["probe", str(run_folder), "--texts", "-1"]) == 2
    assert main(["probe", str(run_folder), "--column", "x"]) == 2
    assert main(["probe", str(run_folder)]) == 2
    assert "--labels FILE" in capsys.readouterr().err
