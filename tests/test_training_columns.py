"""Columns and rows: in memory and on disk they hold and give the same numbers."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvae.serving.alphabet import END, PAD, Alphabet
from kvae.training.data import columns
from kvae.training.data.batches import reader
from kvae.training.data.columns import (
    Column,
    DiskColumn,
    DiskColumns,
    MemoryColumn,
    MemoryColumns,
    id_type,
)
from kvae.training.data.rows import PART, Rows, Stream, Texts

LENGTH = 7


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """No size of a number divides a shard, so that numbers lie in two shards too."""
    monkeypatch.setattr(columns, "SHARD", 10 + 3)


@pytest.fixture(params=["memory", "disk"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryColumns | DiskColumns:
    return MemoryColumns() if request.param == "memory" else DiskColumns(tmp_path)


def agree(column: Column, numbers: np.ndarray, starts: list[int], counts: list[int]) -> None:
    """Check all that a column gives against its numbers."""
    assert len(column) == len(numbers)
    parts = [numbers[start : start + n] for start, n in zip(starts, counts, strict=True)]
    for start, count, part in zip(starts, counts, parts, strict=True):
        found = column.read(start, count)
        assert found.dtype == numbers.dtype
        np.testing.assert_array_equal(found, part)
    found = column.read_parts(np.array(starts, np.int64), np.array(counts, np.int64))
    assert found.dtype == numbers.dtype
    np.testing.assert_array_equal(found, np.concatenate([numbers[:0], *parts]))


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["uint8", "uint16", "int64"]))
def test_a_column_on_disk_gives_what_one_in_memory_gives(data: st.DataObject, kind: str) -> None:
    appends = st.lists(st.lists(st.integers(0, 255), max_size=30), max_size=5)
    with tempfile.TemporaryDirectory() as folder:
        memory, disk = MemoryColumn(kind), DiskColumn(Path(folder), "n", kind)
        numbers = np.zeros(0, kind)
        for more in data.draw(appends):
            for column in (memory, disk):
                column.append(np.array(more))
            numbers = np.concatenate([numbers, np.array(more, kind)])
            place = st.integers(0, len(numbers))
            bounds = [sorted(pair) for pair in data.draw(st.lists(st.tuples(place, place)))]
            starts, counts = [a for a, _ in bounds], [b - a for a, b in bounds]
            agree(memory, numbers, starts, counts)
            agree(disk, numbers, starts, counts)
        agree(DiskColumn(Path(folder), "n", kind), numbers, [0], [len(numbers)])


def test_parts_across_shards_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "SHARD", 512)
    numbers = np.arange(1000, dtype=np.int64) ** 2
    writer = DiskColumn(tmp_path, "n", np.int64)
    for part in np.split(numbers, [1, 7, 500, 999]):
        writer.append(part)
    assert sorted(path.stat().st_size for path in tmp_path.iterdir()) == [320, *[512] * 15]
    for column in (writer, DiskColumn(tmp_path, "n", np.int64)):
        agree(column, numbers, [0, 63, 999, 5, 60, 0], [1000, 2, 1, 0, 300, 64])


def test_a_shard_that_became_shorter_is_refused_with_its_folder(tmp_path: Path) -> None:
    column = DiskColumn(tmp_path, "n", np.uint8)
    column.append(np.arange(30))
    os.truncate(tmp_path / "n-00001", 5)
    np.testing.assert_array_equal(column.read(0, 18), np.arange(18))
    with pytest.raises(OSError, match=f"{tmp_path}: shard 1 of n is shorter than it was"):
        column.read(10, 9)
    with pytest.raises(OSError, match="remove the folder"):
        column.read_parts(np.array([0, 20]), np.array([3, 3]))


def test_a_column_has_its_name_and_type_until_it_is_removed(
    made: MemoryColumns | DiskColumns,
) -> None:
    made.column("kinds", np.uint8).append(np.array([3, 1, 2]))
    made.column("kinds-too", np.uint8).append(np.array([9] * 20))
    assert len(made.column("tokens", np.uint8)) == 0
    np.testing.assert_array_equal(made.column("kinds", np.uint8).read(0, 3), [3, 1, 2])
    made.remove("kinds")
    made.remove("never made")
    assert len(made.column("kinds", np.uint8)) == 0
    assert len(made.column("kinds-too", np.uint8)) == 20


def texts(seed: int = 0) -> list[list[int]]:
    """Ids of twenty texts of 0 to LENGTH - 1 tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(4, 300, generator.integers(0, LENGTH)).tolist() for _ in range(20)]


def rows_in(made: MemoryColumns | DiskColumns, has_end: bool) -> tuple[Rows, np.ndarray]:
    """Rows, and the array that they should be.

    A number that belongs to no text stands between the texts, as a line break does in a store.
    """
    ids = texts()
    if not has_end:
        ids = [[*text, *range(10, 10 + LENGTH - len(text))] for text in ids]
    tokens, parts = made.column("tokens", np.uint16), made.column("parts", PART)
    wanted, start = np.full((len(ids), LENGTH), PAD, np.int32), 0
    for number, text in enumerate(ids):
        tokens.append(np.array([*text, 299]))
        parts.append(np.array([(start, len(text))], PART))
        start += len(text) + 1
        row = [*text, END][:LENGTH]
        wanted[number, : len(row)] = row
    rows = Rows(made.column("tokens", np.uint16), made.column("parts", PART), LENGTH, has_end)
    return rows, wanted


@pytest.mark.parametrize("has_end", [True, False])
def test_rows_are_text_end_and_padding_wherever_they_lie(
    made: MemoryColumns | DiskColumns, has_end: bool
) -> None:
    rows, wanted = rows_in(made, has_end)
    assert len(rows) == len(wanted)
    np.testing.assert_array_equal(rows.lengths(), (wanted != PAD).sum(axis=1))
    for indices in (np.arange(20), np.array([19, 3, 3, 0]), np.zeros(0, np.int64)):
        found = rows.take(indices)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, wanted[indices])


@pytest.mark.parametrize("has_end", [True, False])
def test_training_reads_the_same_rows(made: MemoryColumns | DiskColumns, has_end: bool) -> None:
    rows, wanted = rows_in(made, has_end)
    indices = np.array([19, 3, 3, 0, 7, 18])
    found = reader(rows, LENGTH)(indices)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted[indices])


def test_windows_of_a_stream_are_the_same_wherever_it_lies(
    made: MemoryColumns | DiskColumns,
) -> None:
    ids = np.random.default_rng(1).integers(0, 300, 100).astype(np.uint16)
    made.column("tokens", np.uint16).append(ids)
    stream = Stream(made.column("tokens", np.uint16))
    starts = np.array([0, 93, 40, 41])
    positions = starts[:, None] + np.arange(7)
    assert len(stream) == 100
    np.testing.assert_array_equal(stream.take(starts, 7), ids[positions])
    found = reader(stream, 7)(starts)
    np.testing.assert_array_equal(found, ids[positions])
    assert found.dtype == np.int32


def test_an_array_becomes_rows() -> None:
    _, wanted = rows_in(MemoryColumns(), has_end=True)
    rows = Rows.of(wanted)
    np.testing.assert_array_equal(rows.take(np.arange(20)), wanted)
    np.testing.assert_array_equal(rows.lengths(), (wanted != PAD).sum(axis=1))


def test_texts_are_decoded_one_by_one() -> None:
    alphabet = Alphabet(("a", "b"))
    lines = ["ab", "", "bb", "aab"]
    found = Texts(Rows.of(alphabet.encode(lines, LENGTH)), alphabet)
    assert list(found) == lines
    assert (found[-1], found[1:3], len(found)) == ("aab", ["", "bb"], 4)
    with pytest.raises(IndexError):
        found[4]


@pytest.mark.parametrize(
    ("symbols", "kind"), [(252, np.uint8), (253, np.uint16), (70_000, np.uint32)]
)
def test_ids_take_the_smallest_type_that_holds_them(symbols: int, kind: type) -> None:
    alphabet = Alphabet(tuple(map(str, range(symbols))), "word")
    assert id_type(alphabet) == kind
