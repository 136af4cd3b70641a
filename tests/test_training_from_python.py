"""Texts and runs from Python: whatever holds texts can be given, and a run can be trained on it."""

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import kvae.training
from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.errors import ConfigError, DataError
from kvae.training import evaluate_run, fit_run, prepare, training_batches, validation_batches
from kvae.training.data.given import given_source
from kvae.training.identity import fingerprint

TEXTS = ["".join(random.Random(n).choices("abcdé ", k=3 + n % 9)) + "x" for n in range(90)]
LABELS = ["ab"[n % 2] for n in range(90)]


class Table:
    """As a table of pandas, Polars or Hugging Face `datasets` answers."""

    def __init__(self, **columns: list[Any]) -> None:
        self.content = columns
        self.columns = list(columns)

    def __getitem__(self, name: str) -> list[Any]:
        return self.content[name]


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> np.ndarray:
        return np.array(TEXTS[10 * index : 10 * index + 10])


def tf_dataset(*parts: list[str]) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(parts if len(parts) > 1 else parts[0])


def pandas_frame() -> Any:
    return pytest.importorskip("pandas").DataFrame({"n": range(90), "text": TEXTS, "label": LABELS})


def polars_frame() -> Any:
    return pytest.importorskip("polars").DataFrame({"n": range(90), "text": TEXTS, "label": LABELS})


GIVEN: dict[str, Any] = {
    "list": lambda: TEXTS,
    "iterator": lambda: iter(TEXTS),
    "array": lambda: np.array(TEXTS),
    "objects": lambda: np.array(TEXTS, object),
    "table": lambda: Table(n=list(range(90)), text=TEXTS),
    "tf.data": lambda: tf_dataset(TEXTS),
    "tf.data in batches": lambda: tf_dataset(TEXTS).batch(7),
    "tf.data of dictionaries": lambda: tf_dataset(TEXTS).map(lambda text: {"text": text}),
    "PyDataset": Batches,
    "Arrow": lambda: pytest.importorskip("pyarrow").table({"n": list(range(90)), "text": TEXTS}),
    "pandas": lambda: pandas_frame()["text"],
    "polars": lambda: polars_frame()["text"],
}


def texts_in(source: Any) -> list[str]:
    return [text for records in source.read() for text in records.texts]


@pytest.mark.parametrize("name", GIVEN)
def test_whatever_holds_texts_can_be_given(name: str) -> None:
    column = "text" if name == "tf.data of dictionaries" else ""
    assert texts_in(given_source(GIVEN[name](), column=column)) == TEXTS


@pytest.mark.parametrize(
    "make", [pandas_frame, polars_frame, lambda: Table(text=TEXTS, label=LABELS)]
)
def test_a_table_has_columns_of_texts_and_labels(make: Any) -> None:
    records = list(given_source(make(), label_column="label").read())
    assert [label for block in records for label in block.labels or ()] == LABELS
    with pytest.raises(ConfigError, match=r"columns of texts: .*text.*label.*data\.column"):
        given_source(make())
    with pytest.raises(ConfigError, match=r"no column 'texts'.*'text'"):
        given_source(make(), column="texts")


def test_pairs_of_a_dataset_are_texts_and_labels() -> None:
    source = given_source(tf_dataset(TEXTS, LABELS), label_column="1")
    assert [label for block in source.read() for label in block.labels or ()] == LABELS


def test_an_iterator_of_dictionaries_has_texts_and_labels() -> None:
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    source = given_source(iter(rows), column="text", label_column="label")
    assert [label for block in source.read() for label in block.labels or ()] == LABELS


def test_a_lazy_table_is_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match="collect"):
        given_source(polars_frame().lazy())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", None], "text 1 is None"),
        ([b"\xff"], "text 0 is not UTF-8"),
        (["a\ud800"], "surrogate"),
        (["a", 3], "text 1 is 3, not a text"),
    ],
)
def test_a_value_that_is_no_text_is_named(texts: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        texts_in(given_source(texts))


@pytest.mark.parametrize("texts", ["a file", 3, {"text": TEXTS}])
def test_something_else_is_refused(texts: Any) -> None:
    with pytest.raises(ConfigError, match="texts must be a list of texts"):
        given_source(texts)


@pytest.mark.parametrize("labels", [LABELS[:80], [*LABELS, "a"]])
def test_each_text_has_one_label(labels: list[str]) -> None:
    with pytest.raises(DataError, match="labels"):
        list(given_source(TEXTS, labels).read())


def config(**settings: Any) -> Config:
    small = {"training.batch_size": 8, "training.steps": 2, "training.steps_per_epoch": 1}
    return preset("cnn-small").with_settings({"data.mode": "lines", **small, **settings})


def test_given_texts_are_prepared_as_those_of_a_file(tmp_path: Path) -> None:
    file, labels = tmp_path / "texts.txt", tmp_path / "labels.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    labels.write_text("\n".join(LABELS) + "\n")
    in_file = prepare(config(**{"data.source": str(file), "data.labels": str(labels)}))
    given = prepare(config(), texts=iter(TEXTS), labels=iter(LABELS))
    assert fingerprint(given) == fingerprint(in_file)
    assert list(given.train_texts) == list(in_file.train_texts)
    with pytest.raises(ConfigError, match="kept in memory"):
        prepare(config(**{"data.storage": "disk"}), texts=TEXTS)


def test_a_run_is_trained_resumed_and_measured_from_python(tmp_path: Path) -> None:
    said: list[str] = []
    prepared = prepare(config(), texts=TEXTS)
    run = fit_run(prepared, tmp_path / "run", said.append)
    assert fit_run(prepared, tmp_path / "run", said.append, resumes=True).path == run.path
    assert "the run was finished already" in said
    report = evaluate_run(run, texts=TEXTS[:20], importance_samples=2)
    assert report["texts"] == 20
    assert report["importance_weighted_nll"] <= report["elbo"] + 1
    with pytest.raises(DataError, match="texts=, or name a file"):
        evaluate_run(run)
    batch = next(iter(training_batches(prepared)))
    assert tuple(batch.shape) == (8, prepared.config.model.length)
    assert next(iter(validation_batches(prepared))).shape[0] == len(prepared.validation)


def test_the_names_of_the_package_are_imported_on_first_use() -> None:
    assert set(kvae.training.__all__) <= set(dir(kvae.training))
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        kvae.training.__getattr__("fit")
