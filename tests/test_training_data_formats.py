"""The same texts give the same run, the same measures and the same scores in every format."""

import contextlib
import csv
import gzip
import io
import json
import lzma
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvae.cli import main
from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.errors import DataError
from kvae.training.data import tensorflow_pipeline
from kvae.training.data.columns import MemoryColumn
from kvae.training.data.prepare import Prepared, held_out, prepare
from kvae.training.identity import fingerprint

from .conftest import SMALL_SETTINGS, SYLLABLES, ids_of, made_once

TEXTS = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
LABELS = ["first" if text < "M" else "second" for text in TEXTS]


def as_lines(texts: list[str], labels: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()


def as_csv(texts: list[str], labels: list[str], delimiter: str = ",") -> bytes:
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter)
    writer.writerows([("n", "label", "text"), *zip(range(len(texts)), labels, texts, strict=True)])
    return written.getvalue().encode()


def as_jsonl(texts: list[str], labels: list[str]) -> bytes:
    objects = ({"label": b, "text": a} for a, b in zip(texts, labels, strict=True))
    return "".join(f"{json.dumps(each)}\n" for each in objects).encode()


def as_parquet(texts: list[str], labels: list[str]) -> bytes:
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(pa.table({"label": labels, "text": texts}), sink)
    return bytes(sink.getvalue())


def as_arrow(texts: list[str], labels: list[str]) -> bytes:
    content, sink = pa.table({"label": labels, "text": texts}), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, content.schema) as opened:
        opened.write_table(content)
    return bytes(sink.getvalue())


def as_fasta(texts: list[str], labels: list[str]) -> bytes:
    return "".join(f">{n}\n{text[:4]}\n{text[4:]}\n" for n, text in enumerate(texts)).encode()


class Form(NamedTuple):
    """How a format is written, and whether it has columns."""

    write: Callable[[list[str], list[str]], bytes] | None
    has_columns: bool = False


FORMS: dict[str, Form] = {
    "names.txt": Form(as_lines),
    "names.txt.gz": Form(lambda *parts: gzip.compress(as_lines(*parts))),
    "names.csv": Form(as_csv, True),
    "names.csv.gz": Form(lambda *parts: gzip.compress(as_csv(*parts)), True),
    "names.tsv": Form(lambda *parts: as_csv(*parts, delimiter="\t"), True),
    "names.jsonl": Form(as_jsonl, True),
    "names.jsonl.xz": Form(lambda *parts: lzma.compress(as_jsonl(*parts)), True),
    "names.parquet": Form(as_parquet, True),
    "names.parquet.gz": Form(lambda *parts: gzip.compress(as_parquet(*parts)), True),
    "names.arrow": Form(as_arrow, True),
    "names.fasta": Form(as_fasta),
    "names.fasta.gz": Form(lambda *parts: gzip.compress(as_fasta(*parts))),
    "files": Form(None),
}
"""By the name of the file; `files` is a folder with a text in each file."""


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all formats, and `labels.txt` with one label a line."""

    def write(folder: Path) -> None:
        (folder / "files").mkdir(parents=True)
        for name, form in FORMS.items():
            if form.write:
                (folder / name).write_bytes(form.write(TEXTS, LABELS))
        for number, text in enumerate(TEXTS):
            (folder / "files" / f"{number:03}.txt").write_text(f"{text}\n")
        (folder / "labels.txt").write_bytes(as_lines(LABELS, LABELS))

    return made_once(tmp_path_factory, "forms", write)


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def config(forms: Path, name: str, labelled: bool, **changed: Any) -> Config:
    """A small run on a format, with labels of a column or of the file of labels."""
    data: dict[str, Any] = {"data.source": str(forms / name)}
    if name == "files":
        data["data.mode"] = "files"
    if FORMS[name].has_columns:
        data["data.column"] = "text"
    if labelled and FORMS[name].has_columns:
        data["data.label_column"] = "label"
    elif labelled:
        data["data.labels"] = str(forms / "labels.txt")
    few = {"training.steps": 1, "training.steps_per_epoch": 1}
    return preset("hybrid-lstm").with_settings({**SMALL_SETTINGS, **few, **data, **changed})


def agree(found: Prepared, expected: Prepared) -> None:
    """Check that two preparations are of the same texts and labels in the same order."""
    np.testing.assert_array_equal(ids_of(found.train), ids_of(expected.train))
    assert list(found.train_texts) == list(expected.train_texts)
    assert list(found.validation_texts) == list(expected.validation_texts)
    assert found.alphabet == expected.alphabet
    assert found.config.model == expected.config.model
    for name in ("validation", "train_attribute", "validation_attribute"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert fingerprint(found) == fingerprint(expected)


@pytest.fixture(scope="module")
def from_lines(forms: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Prepared]:
    """The lines, prepared with labels and without."""
    return {
        labelled: prepare(config(forms, "names.txt", labelled, **{"data.storage": "memory"}))
        for labelled in (False, True)
    }


def report_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def trains(forms: Path, name: str, storage: str, expected: Prepared) -> None:
    """A run is prepared from a format as from lines, and its held-out texts are found again."""
    labelled = expected.train_attribute is not None
    found = prepare(config(forms, name, labelled, **{"data.storage": storage}))
    assert isinstance(found.train.tokens, MemoryColumn) == (storage == "memory")
    agree(found, expected)
    again = held_out(found.config, found.alphabet)
    np.testing.assert_array_equal(again.rows, found.validation)
    np.testing.assert_array_equal(again.attribute, found.validation_attribute)


def arguments_of(forms: Path, name: str, labelled: bool) -> list[object]:
    """A format and its columns as arguments of a command."""
    arguments: list[object] = ["--column=text"] if FORMS[name].has_columns else []
    if name == "files":
        arguments.append("--format=text")
    if labelled and FORMS[name].has_columns:
        arguments.append("--label-column=label")
    elif labelled:
        arguments.append(f"--labels={forms / 'labels.txt'}")
    return [forms / name, *arguments]


def what_is_measured(
    model: None, rows: np.ndarray, attribute: np.ndarray | None, **others: Any
) -> dict[str, Any]:
    """Stands for `evaluation.evaluate`: what it would measure."""
    labels = None if attribute is None else attribute.tolist()
    return {"rows": rows.tolist(), "labels": labels, "characters": others["characters"]}


def evaluates(
    forms: Path, name: str, prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command measures the texts and labels of a format. Reports are of other tests."""
    labelled = prepared.train_attribute is not None
    arguments = arguments_of(forms, name, labelled)
    found = report_of(capsys, "evaluate", "a run", "--data", *arguments)
    expected = prepared.alphabet.encode(TEXTS, prepared.config.model.length)
    assert found["rows"] == expected.tolist()
    assert found["labels"] == ([int(label != "first") for label in LABELS] if labelled else None)
    assert found["characters"] == sum(len(text) + 1 for text in TEXTS)


def scored(
    forms: Path, name: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    """The scores of a format, without identifiers."""
    report = report_of(capsys, "score", bundle, *arguments_of(forms, name, labelled=False))
    return [{key: entry[key] for key in entry if key != "id"} for entry in report["scores"]]


def cases() -> Iterator[tuple[str, str, bool, str]]:
    """Formats, commands, whether there are labels, and where the corpus lies. The bundle has no
    labels, and only training writes a store."""
    for name in FORMS:
        for labelled in (False, True):
            for storage in ("memory", "disk"):
                yield name, "train", labelled, storage
            yield name, "evaluate", labelled, "memory"
        yield name, "score", False, "memory"


@pytest.mark.parametrize(("name", "command", "labelled", "storage"), list(cases()))
def test_a_format_gives_what_lines_give(
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    forms: Path,
    from_lines: dict[bool, Prepared],
    name: str,
    command: str,
    labelled: bool,
    storage: str,
) -> None:
    prepared = from_lines[labelled]
    if command == "train":
        trains(forms, name, storage, prepared)
    elif command == "score":
        bundle = request.getfixturevalue("bundle_folder")
        expected = scored(forms, "names.txt", bundle, capsys)
        assert len(expected) == len(TEXTS)
        assert scored(forms, name, bundle, capsys) == expected
    else:
        run = SimpleNamespace(config=prepared.config, alphabet=prepared.alphabet, model=None)
        monkeypatch.setattr("kvae.commands.evaluate.open_run", lambda folder: run)
        monkeypatch.setattr("kvae.commands.evaluate.evaluation_table", str)
        monkeypatch.setattr("kvae.training.evaluation.evaluate", what_is_measured)
        monkeypatch.setattr("kvae.training.generation.text_report", lambda *parts: {})
        evaluates(forms, name, prepared, capsys)


@pytest.mark.slow
def test_a_run_is_measured_on_a_table_as_on_lines(
    capsys: pytest.CaptureFixture[str], forms: Path, run_folder: Path
) -> None:
    found, expected = (
        report_of(
            capsys,
            "evaluate",
            run_folder,
            "--data",
            *arguments_of(forms, name, labelled=False),
            "--texts=5",
            "--samples=5",
        )
        for name in ("names.csv", "names.txt")
    )
    assert found.pop("data") != expected.pop("data")
    assert found == expected
    assert found["texts"] == len(TEXTS)


NO_TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r")
LINES = st.lists(
    st.text(NO_TEXT, min_size=1, max_size=12).filter(str.strip), min_size=4, max_size=30
)


@pytest.mark.parametrize("tokenizer", ["char", "byte", "word"])
@given(texts=LINES)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_texts_are_the_same_rows_in_every_format_and_place(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: str, texts: list[str]
) -> None:
    texts = [*texts, *(f"one more {n}" for n in range(9))]
    folder, labels = tmp_path_factory.mktemp("any"), [""] * len(texts)
    found: dict[tuple[str, str], Prepared] = {}
    writers = {"txt": as_lines, "csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}
    for ending, write in writers.items():
        path = folder / f"texts.{ending}"
        path.write_bytes(write(texts, labels))
        for storage in ("memory", "disk"):
            data = {
                "data.source": str(path),
                "data.column": "" if ending == "txt" else "text",
                "data.storage": storage,
                "data.validation_fraction": 0.3,
                "data.max_symbols": 0 if tokenizer == "byte" else 5000,
                "model.tokenizer": tokenizer,
                "model.length": 0,
            }
            found[ending, storage] = prepare(
                preset("hybrid-lstm").with_settings({**SMALL_SETTINGS, **data})
            )
    expected = found["txt", "memory"]
    seen = [*expected.train_texts, *expected.validation_texts]
    assert len(seen) == len(texts)
    assert tokenizer == "word" or sorted(seen) == sorted(texts)
    for prepared in found.values():
        agree(prepared, expected)


DURING_A_PREPARATION = """
import sys, time
from kvae.configuration import Config
from kvae.training.data import corpora, prepare

def stop(*arguments):
    print("written", flush=True)
    time.sleep(600)

corpora.attribute_in = stop
prepare.prepare(Config().with_settings({"data.source": sys.argv[1], "data.storage": "disk"}))
"""
"""A process that writes the tokens of a store and then does not go on."""


@pytest.mark.slow
def test_what_a_killed_preparation_left_is_removed_by_the_next_one_of_any_store(
    forms: Path, data_folder: Path
) -> None:
    command = [sys.executable, "-c", DURING_A_PREPARATION, str(forms / "names.txt")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "written\n"
            left = list((data_folder / "stores").iterdir())
            assert any(path.name.startswith(".partial-") for path in left)
            prepare(config(forms, "names.jsonl", False, **{"data.storage": "disk"}))
            assert all(path.exists() for path in left)  # its process lives
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    prepare(config(forms, "names.csv", False, **{"data.storage": "disk"}))
    assert not any(path.exists() for path in left)


WITH_AN_ITERATOR = """
import atexit, sys, time

@atexit.register  # runs after the functions that are registered later
def at_the_end():
    print(tensorflow_pipeline.READING.running, flush=True)

from kvae.presets import preset
from kvae.training import prepare
from kvae.training.data import batches, pipeline, tensorflow_pipeline
from kvae.training.data.rows import Rows

take = Rows.take

def slow(rows, indices):
    time.sleep(0.2)
    return take(rows, indices)

Rows.take = slow
batches.MOST_TOGETHER = 1
settings = {"data.source": sys.argv[1], "data.storage": "disk", "training.batch_size": 8}
prepared = prepare(preset("hybrid-lstm").with_settings(settings))
stream = iter(pipeline.training_stream(prepared))
print(next(stream).shape[0], flush=True)
"""
"""A process that ends while threads read the next batches."""


@pytest.mark.slow
def test_a_process_ends_while_a_corpus_on_disk_is_read(forms: Path) -> None:
    command = [sys.executable, "-c", WITH_AN_ITERATOR, str(forms / "names.txt")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert ended.stdout == "8\n0\n"


def test_a_process_that_ends_waits_for_its_readers_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading = tensorflow_pipeline.Reading()
    stack = contextlib.ExitStack()
    stack.enter_context(reading)
    Timer(0.2, stack.close).start()
    reading.wait()
    assert reading.running == 0
    monkeypatch.setattr(tensorflow_pipeline, "LONGEST_WAIT", 0.1)
    with reading:
        started = time.monotonic()
        reading.wait()
        assert 0.1 <= time.monotonic() - started < 5


def test_a_file_of_two_formats_names_the_one_that_it_is_read_as(forms: Path) -> None:
    with pytest.raises(DataError, match=r"row 1 is no JSON.*--format lines"):
        prepare(config(forms, "names.txt", False, **{"data.format": "jsonl"}))
