"""Files, folders and patterns are read alike, and what is no text is left out or refused."""

import gzip
import lzma
from pathlib import Path

import pytest

from kvae.configuration import Config
from kvae.serving.errors import DataError
from kvae.training.corpora import prepare, read_texts
from kvae.training.files import files_of, pieces_of, read_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "books"
    (root / "more").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / "b.txt").write_text("b1\nb2")
    (root / "a.txt.gz").write_bytes(gzip.compress(b"a1\r\na2\r\n"))
    (root / "more" / "c.xz").write_bytes(lzma.compress("\ufeffc1\n\n".encode()))
    (root / "empty.txt").write_text("")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\0\0\0")
    (root / ".hidden").write_text("no")
    (root / ".git" / "log").write_text("no")
    return root


def test_a_folder_is_all_its_text_files_in_order(folder: Path) -> None:
    notes: list[str] = []
    assert read_texts(str(folder), "lines", notes) == ["a1", "a2", "b1", "b2", "c1"]
    assert notes == [
        f"{folder}: 2 hidden files left out, such as log",
        f"{folder}: 1 binary files left out, such as picture.png",
        f"{folder}: 1 blank lines skipped",
    ]
    assert read_texts(str(folder), "windows", []) == ["a1\na2\nb1\nb2\nc1\n"]


def test_a_pattern_is_the_files_it_matches(folder: Path) -> None:
    assert read_texts(f"{folder}/*.txt*", "lines", []) == ["a1", "a2", "b1", "b2"]
    assert read_texts(f"{folder}/**/*.xz", "lines", []) == ["c1"]
    with pytest.raises(DataError, match="no text file among 0 files"):
        read_texts(f"{folder}/*.md", "lines", [])


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "[a].txt").write_text("one\n")
    assert read_texts(str(tmp_path / "[a].txt"), "lines", []) == ["one"]


def test_a_pattern_is_remembered_by_its_full_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "d.txt").write_text("\n".join(map(str, range(100))))
    assert prepare(Config().with_settings({"data.source": "*.txt"})).config.data.source == f"{folder}/*.txt"


def test_labels_stand_beside_all_the_texts_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "d.txt").write_text("\n".join(map(str, range(100))))
    labels = tmp_path / "labels.txt"
    labels.write_text("x\n" * 4 + "y\nz\n" * 51)  # two lines of c.xz, one of them blank, and a hundred of d.txt
    ready = prepare(Config().with_settings({"data.source": str(folder), "data.labels": str(labels)}))
    assert ready.train_attribute is not None
    found = dict(zip(ready.train_texts, ready.train_attribute, strict=True))
    values = ready.config.model.attributes
    assert {values[found[text]] for text in ("a1", "a2", "b1", "b2") if text in found} == {"x"}


def test_only_binary_files_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\0" * 9)
    with pytest.raises(DataError, match="no text file among 1 files"):
        files_of(str(tmp_path), [])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_join_into_the_text_wherever_they_are_cut(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvae.training.files.PIECE", size)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffä🙂\r\nb\r\r\nc\r".encode())
    assert read_file(str(path)) == "ä🙂\nb\r\nc\r"
    assert max(map(len, pieces_of(str(path)))) <= size + 1


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\xf6d", "line 3 is not UTF-8 (byte 0xf6)"),
        (b"a\nb\n\n\0", "line 4 has a NUL byte"),
        (b"a\n\xe2\x82", "line 2"),
    ],
)
def test_the_line_of_what_is_wrong_is_right_wherever_pieces_are_cut(
    tmp_path: Path, size: int, content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvae.training.files.PIECE", size)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(str(tmp_path / "a.txt"))
    assert message in str(caught.value)
