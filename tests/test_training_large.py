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
from kvae.texts import files
from kvae.training.data import large, rules, store, text_blocks
from kvae.training.data.named_corpora import unicode_names
from kvae.training.data.pipeline import training_stream
from kvae.training.data.prepare import held_out, prepare
from kvae.training.data.store import Column, ColumnWriter

NAMES = unicode_names()


@pytest.fixture(autouse=True)
def small_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is done in pieces is done in many."""
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "PIECE", 1000)
    monkeypatch.setattr(store, "SHARD", 512)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files of names.

    The second has marks of two bytes and two blank lines. The third is one line without its end.
    """
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
    changed = {key.replace("__", "."): value for key, value in settings.items()}
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
}


@pytest.mark.parametrize("case", CASES)
def test_disk_and_memory_hold_the_same_corpus_in_the_same_order(folder: Path, case: str) -> None:
    memory = prepare(config(folder, **CASES[case], data__storage="memory"))
    disk = prepare(config(folder, **CASES[case], data__storage="disk"))
    assert disk.alphabet == memory.alphabet
    assert disk.config.model == memory.config.model
    assert len(disk.train) == len(memory.train)
    assert list(disk.validation_texts) == list(memory.validation_texts)
    np.testing.assert_array_equal(disk.validation, memory.validation)
    for ours, theirs in islice(
        zip(training_stream(disk, 3), training_stream(memory, 3), strict=True), 70
    ):
        np.testing.assert_array_equal(ours, theirs)
    again = held_out(disk.config, disk.alphabet)
    np.testing.assert_array_equal(again.rows, memory.validation)
    if case == "lines":
        assert list(disk.train_texts) == [
            memory.alphabet.decode(row[None])[0] for row in memory.train
        ]
    if "windows" not in case:
        wanted = [note for note in memory.notes if "outside the alphabet" not in note]
        assert sorted(note for note in disk.notes if "outside the alphabet" not in note) == sorted(
            wanted
        )


def test_a_store_is_made_once_and_found_by_the_finished_configuration(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(config(folder, data__storage="disk"))
    monkeypatch.setattr(large, "lines_store", None)
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
        assert sorted(disk.notes) == sorted(
            note for note in memory.notes if "outside the alphabet" not in note
        )


def test_lines_are_counted_again_only_where_the_split_is_not_that_of_different_texts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[large.Split | None] = []
    survey = large.survey

    def counted(config: Config, files: list[str], split: large.Split | None, folder: Path) -> Any:
        passes.append(split)
        return survey(config, files, split, folder)

    monkeypatch.setattr(large, "survey", counted)
    prepare(config(folder, data__storage="disk"))
    assert passes == [large.Split(0.05, 0.05)]
    (tmp_path / "log.txt").write_text("\n".join(repeated()))
    prepare(config(tmp_path / "log.txt", data__storage="disk"))
    assert len(passes) == 3


def test_of_many_held_out_lines_those_kept_have_their_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the held-out lines are copies of the text that is first by its hash."""
    monkeypatch.setattr(large, "MOST_HELD_OUT", 400)
    names = sorted(NAMES[:1000], key=lambda name: large.text_hash(name, 0))
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
    monkeypatch.setattr(large, "MOST_HELD_OUT", 7)
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
    assert isinstance(prepare(config(folder)).train, np.ndarray)
    monkeypatch.setattr(large, limit, value)
    assert not isinstance(prepare(config(folder)).train, np.ndarray)


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
        monkeypatch.setattr(large, "MEMORY_LIMIT", limits[0])
        monkeypatch.setattr(large, "MEMORY_LINES", limits[1])
        assert large.is_large(config(tmp_path / "a"), ()) == is_on_disk


def test_a_packed_file_of_short_lines_takes_the_memory_of_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "CODE_POINTS", 256)
    monkeypatch.setattr(store, "SHARD", 2**20)
    monkeypatch.setattr(files, "PIECE", 10_000)
    monkeypatch.setattr(rules, "CELLS", 2**10)  # whose counts take the same 32 MB for every file
    (tmp_path / "a.gz").write_bytes(
        gzip.compress("".join(f"{n * n % 97:02}\n" for n in range(100_000)).encode())
    )
    most = {}
    for lines in (100_000, 99_000):
        monkeypatch.setattr(large, "MEMORY_LINES", lines)
        tracemalloc.start()
        prepare(config(tmp_path / "a.gz"))
        most[lines] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most[99_000] < most[100_000] / 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data__source": "sines"}, "a named corpus"),
        ({"data__mode": "fixed"}, "data.mode=fixed"),
        ({"model__tokenizer": "wordpiece"}, "wordpieces"),
        ({"data__labels": "labels.txt"}, "labels"),
    ],
)
def test_what_needs_memory_is_refused_on_disk(
    folder: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"data.storage is 'disk', but {reason}"):
        prepare(config(folder, data__storage="disk", **settings))


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
    monkeypatch.setattr(text_blocks, "LONGEST_LINE", 5000)
    (tmp_path / "a.txt").write_text("short\n" + "x" * 9000)
    with pytest.raises(DataError, match="a line has over 5,000 characters"):
        prepare(config(tmp_path / "a.txt", data__storage="disk"))


def test_a_column_reads_across_its_shards(tmp_path: Path) -> None:
    numbers = np.arange(1000, dtype=np.int64) ** 2
    writer = ColumnWriter(tmp_path, "n", np.int64)
    for part in np.split(numbers, [1, 7, 500, 999]):
        writer.append(part)
    column = Column(tmp_path, "n", np.int64)
    assert len(list(tmp_path.iterdir())) == 16
    assert len(column) == 1000
    for start, count in ((0, 1000), (63, 2), (999, 1), (5, 0), (60, 300)):
        np.testing.assert_array_equal(column.read(start, count), numbers[start : start + count])
