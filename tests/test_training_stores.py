"""A corpus on disk is the corpus in memory: the same split, alphabet, notes and batches."""

import bz2
import gzip
import lzma
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.presets import preset
from kvae.serving.errors import ConfigError, DataError
from kvae.texts import files, lines, records
from kvae.training.data import blocks, columns, sources, splits, stores, survey
from kvae.training.data.columns import MemoryColumn
from kvae.training.data.named_corpora import unicode_names
from kvae.training.data.pipeline import training_stream
from kvae.training.data.prepare import Prepared, held_out, prepare
from kvae.training.data.splits import Split

from .conftest import ids_of

NAMES = unicode_names()


@pytest.fixture(autouse=True)
def small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done in pieces is done in many."""
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "PIECE", 1000)
    monkeypatch.setattr(records, "BLOCK", 1000)
    monkeypatch.setattr(sources, "BLOCK", 100)
    monkeypatch.setattr(columns, "SHARD", 512)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of names, and files beside them: a label for each line, and lines of one length.

    The second has marks of two bytes and two blank lines. The third is one line without its end.
    """
    labels = ["" if number % 7 == 0 else "abc"[number * number % 3] for number in range(603)]
    (tmp_path / "labels").write_text("\n".join(labels) + "\n")
    (tmp_path / "digits").write_text("".join(f"{n**3 % 10**8:08}\n" for n in range(120)))
    path = tmp_path / "texts"
    path.mkdir()
    (path / "a.txt").write_text("\n".join(NAMES[400:700]) + "\n")
    marked = "\r\n".join(
        name.replace("A", "Å") + " 🙂" * (len(name) % 3) for name in NAMES[2000:2300]
    )
    (path / "b.txt").write_bytes(f"\n{marked}\n \u2003\n".encode())
    (path / "c.txt").write_text("the last  one")
    return path


def config(source: Path, **settings: Any) -> Config:
    changed = {key.replace("__", ".", 1): value for key, value in settings.items()}
    return preset("hybrid-lstm").with_settings(
        {"data.source": str(source), "training.batch_size": 16, **changed}
    )


CASES: dict[str, dict[str, Any]] = {
    "lines": {},
    "cut": {"model__length": 24, "data__too_long": "cut", "data__max_symbols": 30},
    "dropped": {"model__length": 24, "data__too_long": "drop"},
    "bytes": {"model__tokenizer": "byte", "model__length": 20, "data__too_long": "cut"},
    "words": {
        "model__tokenizer": "word",
        "model__length": 4,
        "data__too_long": "cut",
        "data__min_count": 3,
    },
    "hardly any held out": {"data__validation_fraction": 0.0001},
    "length buckets": {
        "model__encoder": "gru",
        "model__expander": "repeat",
        "objective__count_padding": False,
        "training__length_buckets": True,
    },
    "windows": {"data__mode": "windows", "data__max_symbols": 20},
    "windows of bytes": {"data__mode": "windows", "model__tokenizer": "byte", "model__length": 32},
    "windows of words": {"data__mode": "windows", "model__tokenizer": "word", "model__length": 8},
    "wordpieces": {
        "model__tokenizer": "wordpiece",
        "data__max_symbols": 100,
        "model__length": 12,
        "data__too_long": "cut",
    },
    "labels": {"data__labels": "labels", "objective__semi_supervised": True},
    "half the labels": {
        "data__labels": "labels",
        "data__labelled_fraction": 0.5,
        "objective__semi_supervised": True,
    },
    "fixed": {"data__source": "digits", "data__mode": "fixed"},
    "a named corpus": {"data__source": "sines", "data__labels": "corpus"},
    "held-out texts of a named corpus": {"data__validation": "sines"},
}


def in_folder(folder: Path, case: str, storage: str) -> Prepared:
    """A case, with the files that it names."""
    settings = {
        key: str(folder.parent / value) if value in ("labels", "digits") else value
        for key, value in CASES[case].items()
    }
    return prepare(config(folder, **settings, data__storage=storage))


def parts_of(batch: Any) -> list[Any]:
    return list(batch.values()) if isinstance(batch, dict) else [batch]


@pytest.mark.usefixtures("few_sines")
@pytest.mark.parametrize("case", CASES)
def test_disk_and_memory_hold_the_same_corpus_in_the_same_order(folder: Path, case: str) -> None:
    memory, disk = (in_folder(folder, case, storage) for storage in ("memory", "disk"))
    assert isinstance(memory.train.tokens, MemoryColumn)
    assert not isinstance(disk.train.tokens, MemoryColumn)
    assert disk.alphabet == memory.alphabet
    assert disk.config.model == memory.config.model
    np.testing.assert_array_equal(ids_of(disk.train), ids_of(memory.train))
    assert list(disk.train_texts) == list(memory.train_texts)
    assert list(disk.validation_texts) == list(memory.validation_texts)
    np.testing.assert_array_equal(disk.validation, memory.validation)
    for name in ("train_attribute", "validation_attribute"):
        np.testing.assert_array_equal(getattr(disk, name), getattr(memory, name))
    assert (disk.train_attribute is None) == (not disk.config.model.attributes)
    for ours, theirs in islice(
        zip(training_stream(disk, 3), training_stream(memory, 3), strict=True), 70
    ):
        for our_part, their_part in zip(parts_of(ours), parts_of(theirs), strict=True):
            np.testing.assert_array_equal(our_part, their_part)
    again = held_out(disk.config, disk.alphabet)
    np.testing.assert_array_equal(again.rows, memory.validation)
    np.testing.assert_array_equal(again.attribute, memory.validation_attribute)
    assert disk.notes == memory.notes


def test_a_store_is_made_once_and_found_by_the_finished_configuration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config(folder, data__storage="disk"))
    monkeypatch.setattr(stores, "write_corpus", None)
    np.testing.assert_array_equal(
        prepare(config(folder, data__storage="disk")).validation, first.validation
    )
    np.testing.assert_array_equal(prepare(first.config).validation, first.validation)
    monkeypatch.undo()
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    (folder / "c.txt").write_text("another end")
    assert "another end" in [
        *prepare(first.config).train_texts,
        *prepare(first.config).validation_texts,
    ]


def repeated() -> list[str]:
    """A log: one line in two is the same, the others occur once to thirty times."""
    others = [name for place, name in enumerate(NAMES[3000:3060]) for _ in range(1 + place // 2)]
    return np.random.default_rng(0).permutation([*others, *[NAMES[0]] * len(others)]).tolist()


@pytest.mark.parametrize("split", ["lines", "texts"])
def test_disk_and_memory_split_repeated_lines_alike(tmp_path: Path, split: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text("\n".join(repeated()))
    for seed in range(4):
        settings = {"data__split": split, "data__split_seed": seed}
        memory = prepare(config(path, **settings, data__storage="memory"))
        disk = prepare(config(path, **settings, data__storage="disk"))
        assert list(disk.validation_texts) == list(memory.validation_texts)
        assert list(disk.train_texts) == list(memory.train_texts)
        assert disk.alphabet == memory.alphabet
        assert disk.notes == memory.notes


def test_lines_are_counted_again_only_where_the_split_is_not_that_of_different_texts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[Split | None] = []
    look = survey.look

    def counted(*arguments: Any) -> survey.Survey:
        passes.extend(each for each in arguments if isinstance(each, Split))
        return look(*arguments)

    monkeypatch.setattr(survey, "look", counted)
    (tmp_path / "log.txt").write_text("\n".join(repeated()))
    for storage in ("memory", "disk"):
        passes.clear()
        prepare(config(folder, data__storage=storage))
        assert passes == [Split(0.05, 0.05)]
        prepare(config(tmp_path / "log.txt", data__storage=storage))
        assert len(passes) == 3


def test_of_many_held_out_lines_those_kept_have_their_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the held-out lines are copies of the text that is first by its hash."""
    monkeypatch.setattr(stores, "MOST_HELD_OUT", 400)
    hashes = splits.text_hashes(NAMES[:1000], 0)
    names = [NAMES[place] for place in hashes.argsort()]
    path = tmp_path / "log.txt"
    path.write_text("\n".join(names[:1] * 1000 + names[1:] + names[900:] * 200))
    settings = {"data__storage": "disk", "data__validation_fraction": 0.09}
    kept = list(prepare(config(path, **settings)).validation_texts)
    assert len(kept) == 400
    assert 0.4 < kept.count(names[0]) / 400 < 0.99
    assert len(set(kept)) > 20
    assert set(prepare(config(path, **settings, data__split="texts")).validation_texts) == {
        names[0]
    }


def test_held_out_texts_are_capped_and_that_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(config(folder, data__storage="disk", data__validation_fraction=0.3))
    monkeypatch.setattr(stores, "MOST_HELD_OUT", 7)
    capped = prepare(config(folder, data__storage="disk", data__validation_fraction=0.31))
    assert len(capped.validation) == 7
    assert set(capped.validation_texts) <= set(whole.validation_texts)
    assert any(note.startswith("7 of ") for note in capped.notes)
    windows = prepare(
        config(folder, data__storage="disk", data__mode="windows", data__validation_fraction=0.3)
    )
    assert any(note.startswith("7 of ") for note in windows.notes)


@pytest.mark.parametrize(("limit", "value"), [("MEMORY_LIMIT", 100), ("MEMORY_LINES", 500)])
def test_size_and_lines_decide_where_nothing_is_said(
    folder: Path, limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(prepare(config(folder)).train.tokens, MemoryColumn)
    monkeypatch.setattr(stores, limit, value)
    assert not isinstance(prepare(config(folder)).train.tokens, MemoryColumn)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_file_counts_what_it_unpacks_to(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(f"{number % 7}{ending}" for number in range(20_000)).encode()
    packed = pack(text)
    assert len(text) > 100 * len(packed)  # four times the packed size would be a wrong guess
    (tmp_path / "a").write_bytes(packed)
    for limits, is_on_disk in (
        ((len(text), 20_100), False),
        ((len(text) - 1, 20_100), True),
        ((len(text), 19_900), True),
    ):
        monkeypatch.setattr(stores, "MEMORY_LIMIT", limits[0])
        monkeypatch.setattr(stores, "MEMORY_LINES", limits[1])
        assert stores.is_on_disk(config(tmp_path / "a")) == is_on_disk


def test_a_packed_file_of_short_lines_takes_the_memory_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "CODE_POINTS", 256)
    monkeypatch.setattr(stores, "MOST_HELD_OUT", 100)
    monkeypatch.setattr(columns, "SHARD", 2**20)
    monkeypatch.setattr(files, "PIECE", 10_000)
    monkeypatch.setattr(records, "BLOCK", 10_000)
    # The counts of the hashes take the same 32 MB for every file, and those that wait 8 MB.
    monkeypatch.setattr(splits, "CELLS", 2**10)
    monkeypatch.setattr(splits, "CELLS_WAITING", 2**10)
    (tmp_path / "a.gz").write_bytes(
        gzip.compress("".join(f"{n * n % 97:02}\n" for n in range(100_000)).encode())
    )
    most = {}
    for limit in (100_000, 99_000):
        monkeypatch.setattr(stores, "MEMORY_LINES", limit)
        tracemalloc.start()
        prepare(config(tmp_path / "a.gz"))
        most[limit] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most[99_000] < most[100_000] / 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model.vocabulary_size": 5}, "model.vocabulary_size is 5"),
        ({"model.attributes": ["a", "b"]}, "model.attributes follows from the labels"),
        ({"data.labels": "labels", "objective.semi_supervised": False}, "have no label"),
    ],
)
def test_a_store_that_is_there_hides_no_setting_that_does_not_fit(
    folder: Path, settings: dict[str, Any], message: str
) -> None:
    good = config(folder, data__storage="disk")
    if labels := settings.get("data.labels"):
        settings = settings | {"data.labels": str(folder.parent / labels)}
        good = good.with_settings({**settings, "objective.semi_supervised": True})
    prepare(good)
    for storage in ("memory", "disk"):
        with pytest.raises(ConfigError, match=message):
            prepare(good.with_settings({**settings, "data.storage": storage}))


@pytest.mark.parametrize("storage", ["memory", "disk"])
@pytest.mark.parametrize("mode", ["lines", "windows"])
def test_tables_of_a_folder_are_read_wherever_the_corpus_lies(
    tmp_path: Path, storage: str, mode: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "tables").mkdir()
    for part, names in (("a", NAMES[:100]), ("b", NAMES[100:200])):
        table = pyarrow.table({"text": names})
        parquet.write_table(table, tmp_path / "tables" / f"{part}.parquet")
    settings = {"data__mode": mode, "data__storage": storage}
    ready = prepare(config(tmp_path / "tables", **settings))
    if mode == "lines":
        assert sorted([*ready.train_texts, *ready.validation_texts]) == sorted(NAMES[:200])
    else:
        text = "\n".join(NAMES[:200])
        assert ready.alphabet.decode(ids_of(ready.train)[None])[0] == text[: len(ready.train)]


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (b"\n \n", {}, "has no text"),
        (b"one line\n", {}, "at least two different lines"),
        (b"same\nsame\n", {}, "at least two different lines"),
        (b"good\nb\xf6se\n", {}, "line 2 is not UTF-8"),
        (b"a b\n" * 9, {"data__mode": "windows"}, "fewer than one window of 64"),
        (b"short\n" * 9 + b"x" * 400, {}, "the longest of 10 lines has 400 characters"),
        (
            b"a\nb\nc\nd\n" + b"x" * 400,
            {"model__length": 16},
            "lines are longer than the model's 15 characters",
        ),
    ],
)
def test_bad_files_are_refused_as_in_memory_and_leave_nothing(
    tmp_path: Path, content: bytes, settings: dict[str, Any], message: str
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    for storage in ("memory", "disk"):
        with pytest.raises(DataError, match=message):
            prepare(config(path, data__storage=storage, **settings))
    assert list((tmp_path / "data" / "stores").iterdir()) == []


def test_a_line_that_does_not_fit_into_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST_TEXT", 5000)
    (tmp_path / "a.txt").write_text("short\n" + "x" * 9000)
    with pytest.raises(DataError, match="a line has over 5,000 characters"):
        prepare(config(tmp_path / "a.txt", data__storage="disk"))
