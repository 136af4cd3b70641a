"""Files, folders and patterns are read alike, and what is no text is left out or refused."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import sqlite3
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kvae.configuration import Config
from kvae.serving.errors import DataError
from kvae.texts.files import DECOMPRESSORS, files_of, kind_of, pieces_of, read_file
from kvae.training.data.prepare import prepare

from .conftest import read_texts


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
    assert read_texts(str(folder), notes) == ["a1", "a2", "b1", "b2", "c1"]
    assert notes == [
        f"{folder}: 2 hidden files left out, such as log",
        f"{folder}: 1 files left out that hold an image, such as picture.png",
        f"{folder}: 1 blank lines skipped",
    ]
    assert read_texts(str(folder), mode="windows") == ["a1\na2\nb1\nb2\nc1\n"]


def test_a_pattern_is_the_files_it_matches(folder: Path) -> None:
    assert read_texts(f"{folder}/*.txt*") == ["a1", "a2", "b1", "b2"]
    assert read_texts(f"{folder}/**/*.xz") == ["c1"]
    with pytest.raises(DataError, match="no text file among 0 files"):
        read_texts(f"{folder}/*.md")


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "[a].txt").write_text("one\n")
    assert read_texts(str(tmp_path / "[a].txt")) == ["one"]


def test_a_pattern_is_remembered_by_its_full_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "d.txt").write_text("\n".join(map(str, range(100))))
    assert (
        prepare(Config().with_settings({"data.source": "*.txt"})).config.data.source
        == f"{folder}/*.txt"
    )


def test_labels_stand_beside_all_the_texts_of_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "d.txt").write_text("\n".join(map(str, range(100))))
    labels = tmp_path / "labels.txt"
    labels.write_text(
        "x\n" * 4 + "y\nz\n" * 51
    )  # two lines of c.xz, one of them blank, and a hundred of d.txt
    ready = prepare(
        Config().with_settings({"data.source": str(folder), "data.labels": str(labels)})
    )
    assert ready.train_attribute is not None
    found = dict(zip(ready.train_texts, ready.train_attribute, strict=True))
    values = ready.config.model.attributes
    assert {values[found[text]] for text in ("a1", "a2", "b1", "b2") if text in found} == {"x"}


def test_only_binary_files_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"\0" * 9)
    with pytest.raises(
        DataError, match="no text file among 1 files: 1 files left out that hold NUL bytes"
    ):
        files_of(str(tmp_path), [])


def in_pieces_of(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIECE", "HEAD"):
        monkeypatch.setattr(f"kvae.texts.files.{name}", size)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pieces_join_into_the_text_wherever_they_are_cut(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces_of(size, monkeypatch)
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
    in_pieces_of(size, monkeypatch)
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(str(tmp_path / "a.txt"))
    assert message in str(caught.value)


TEXT = "".join(f"name {number}\n" for number in range(50))
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 12345\n"
PAGE = (
    "\n<!DOCTYPE html>\n<!-- by hand -->\n"
    f"<html lang='en'><head><title>names</title></head>\n<body>{TEXT}</body></html>"
)


def made(write: Callable[[io.BytesIO], object]) -> bytes:
    """What a writer of files writes."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(name: str) -> bytes:
    def write(file: io.BytesIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, TEXT)

    return made(write)


def tarred() -> bytes:
    def write(file: io.BytesIO) -> None:
        with tarfile.open(fileobj=file, mode="w") as archive:
            member = tarfile.TarInfo("names.txt")
            member.size = len(TEXT)
            archive.addfile(member, io.BytesIO(TEXT.encode()))

    return made(write)


def database() -> bytes:
    connection = sqlite3.connect(":memory:")
    connection.execute("create table texts (text)")
    connection.commit()
    return connection.serialize()


NO_TEXTS: dict[str, tuple[bytes, str, str]] = {
    "texts.zip": (zipped("names.txt"), "a zip archive", "unpack it and give the folder"),
    "zip named.txt": (zipped("names.txt"), "a zip archive", "unpack it and give the folder"),
    "texts.docx": (zipped("[Content_Types].xml"), "an Office document", "save it as text"),
    "texts.odt": (zipped("mimetype"), "an OpenDocument file", "save it as text"),
    "texts.npz": (
        made(lambda file: np.savez(file, texts=np.zeros(3))),
        "numpy arrays",
        "write its texts to a text file",
    ),
    "texts.npy": (
        made(lambda file: np.save(file, np.zeros(3))),
        "numpy arrays",
        "write its texts to a text file",
    ),
    "texts.tar": (tarred(), "a tar archive", "tar -xf"),
    "texts.tar.gz": (gzip.compress(tarred()), "a tar archive", "tar -xf"),
    "texts.tgz": (gzip.compress(tarred()), "a tar archive", "tar -xf"),
    "texts.gz.gz": (
        gzip.compress(gzip.compress(TEXT.encode())),
        "a file that was compressed twice",
        "decompress it once",
    ),
    "texts.7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(range(200)), "a 7z archive", "unpack it"),
    "texts.lzma": (lzma.compress(TEXT.encode(), lzma.FORMAT_ALONE), "an lzma file", "unlzma"),
    "texts.parquet": (
        b"PAR1\x15\x04" + bytes(range(256)) + b"PAR1",
        "a Parquet table",
        "write its texts to a text file",
    ),
    "texts.arrow": (
        b"ARROW1\0\0" + bytes(range(256)),
        "an Arrow table",
        "write its texts to a text file",
    ),
    "texts.db": (database(), "an SQLite database", "write its texts to a text file"),
    "texts.pkl": (pickle.dumps([TEXT]), "a pickle", "write its texts to a text file"),
    "utf-16.txt": (TEXT.encode("utf-16"), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    "utf-16 without mark.txt": (TEXT.encode("utf-16-le"), "UTF-16", "iconv -f UTF-16LE -t UTF-8"),
    "utf-16, big.txt": (TEXT.encode("utf-16-be"), "UTF-16", "iconv -f UTF-16BE -t UTF-8"),
    "utf-16.txt.gz": (gzip.compress(TEXT.encode("utf-16")), "UTF-16", "iconv -f UTF-16 -t UTF-8"),
    "utf-32.txt": (TEXT.encode("utf-32"), "UTF-32", "iconv -f UTF-32 -t UTF-8"),
    "pointer.csv": (POINTER.encode(), "a Git LFS pointer", "git lfs pull"),
    "pointer.gz": (POINTER.encode(), "a Git LFS pointer", "git lfs pull"),
    "page.csv": (PAGE.encode(), "a web page", "get the file itself"),
    "page.gz": (PAGE.encode(), "a web page", "get the file itself"),
    "page in latin-1.txt": (
        PAGE.replace("name", "n\xe4me").encode("latin-1"),
        "a web page",
        "get the file itself",
    ),
    "denied.txt": (
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
        "error message of a download",
        "again",
    ),
    "texts.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n" + TEXT.encode(), "a PDF", "pdftotext"),
    "texts.rtf": (b"{\\rtf1\\ansi " + TEXT.encode() + b"}", "an RTF document", "save it as text"),
    "picture.jpg": (
        b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)),
        "an image",
        "give a text file",
    ),
    "random.bin": (
        bytes((97 * n * n + 31 * n) % 255 + 1 for n in range(4000)),
        "binary data",
        "give a text file",
    ),
}


def format_of(name: str) -> str:
    """`lines` for files that would be read as tables otherwise."""
    return "lines" if name.endswith((".parquet", ".arrow")) else "auto"


@pytest.mark.parametrize("name", NO_TEXTS)
def test_what_is_no_text_is_told_by_its_first_bytes_with_a_way_out_that_fits(
    tmp_path: Path, name: str
) -> None:
    content, kind, way_out = NO_TEXTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_texts(str(tmp_path / name), format=format_of(name))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: holds ")
    assert kind in message
    assert way_out in message
    assert not any(
        other in message for other in {"iconv", "tr -d", "tar -xf", "git"} if other not in way_out
    )


@pytest.mark.parametrize("name", NO_TEXTS)
def test_a_folder_leaves_it_out_and_says_what_it_is_and_the_way_out(
    tmp_path: Path, name: str
) -> None:
    content, kind, way_out = NO_TEXTS[name]
    for copy in (name, f"{name} again"):
        (tmp_path / copy).write_bytes(content)
    with pytest.raises(
        DataError, match="no text file among 2 files: 2 files left out that hold"
    ) as caught:
        read_texts(str(tmp_path), format=format_of(name))
    assert kind in str(caught.value)
    (tmp_path / "texts.txt").write_text(TEXT)
    notes: list[str] = []
    assert len(read_texts(str(tmp_path), notes, format=format_of(name))) == 50
    assert len(notes) == 1
    assert notes[0].startswith(f"{tmp_path}: 2 files left out that hold ")
    assert f"{kind}" in notes[0]
    assert f", such as {name}" in notes[0]
    assert way_out in notes[0] or way_out == "give a text file"


def test_what_is_no_text_is_refused_wherever_texts_or_labels_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, pointer = tmp_path / "texts.txt", tmp_path / "pointer.txt"
    texts.write_text(TEXT)
    pointer.write_text(POINTER)
    for storage in ("memory", "disk"):
        with pytest.raises(DataError, match="holds a Git LFS pointer"):
            prepare(Config().with_settings({"data.source": str(pointer), "data.storage": storage}))
    for setting in ("validation", "labels"):
        with pytest.raises(DataError, match=r"pointer\.txt: holds a Git LFS pointer"):
            prepare(
                Config().with_settings({"data.source": str(texts), f"data.{setting}": str(pointer)})
            )
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(zipped("names.txt"))))
    with pytest.raises(DataError, match="-: holds a zip archive"):
        read_texts("-")


@pytest.mark.parametrize(
    "first_line",
    [
        "version https://git-lfs.github.com/spec/v1 is what a Git LFS pointer begins with",
        "a web page begins with <!DOCTYPE html>, and then comes <head>",
        "<html> is a tag",
        "PAR1, ORC, ARROW1, GIF89a, OggS, MZ and BZh9 are first bytes",
        "ORC: a creature",
        "MZ: another",
        "ID3: a tree",
        "BZh9: a word",
        "PK: a defender",
        "ustar",
        "a separator \x1f and a bell \x07",
    ],
)
def test_a_text_that_mentions_such_bytes_is_a_text(tmp_path: Path, first_line: str) -> None:
    (tmp_path / "a.txt").write_text(f"{first_line}\n{TEXT}")
    assert read_texts(str(tmp_path / "a.txt")) == [first_line, *TEXT.split("\n")[:-1]]


def test_a_page_is_read_where_its_name_says_that_it_is_one(tmp_path: Path) -> None:
    for name in ("page.html", "page.HTM.gz"):
        (tmp_path / name).write_bytes(
            gzip.compress(PAGE.encode()) if name.endswith("gz") else PAGE.encode()
        )
        assert "<!DOCTYPE html>" in read_texts(str(tmp_path / name))


def test_many_comments_before_no_page_are_looked_at_quickly() -> None:
    assert kind_of(200 * b"<!-- a comment -->\n" + TEXT.encode(), "a.md") is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.xz", "a.bz2"])
def test_a_packed_file_is_unpacked_whatever_its_name(
    tmp_path: Path, pack: Callable[[bytes], bytes], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(pack(TEXT.encode()))
    assert "".join(pieces_of(str(tmp_path / name))) == TEXT
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pack(TEXT.encode()))))
    assert "".join(pieces_of("-")) == TEXT


def test_a_plain_file_is_read_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_text(TEXT)
    assert "".join(pieces_of(str(tmp_path / "a.gz"))) == TEXT


def test_every_packing_knows_its_empty_file(tmp_path: Path) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        (tmp_path / "empty").write_bytes(pack(b""))
        assert read_file(str(tmp_path / "empty")) == ""
    assert len(DECOMPRESSORS) == 4  # tests/test_kvae_texts_formats.py has the empty file of zstd


def test_a_pipe_is_read_once_and_unpacked(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(
        target=lambda: pipe.write_bytes(gzip.compress(TEXT.encode())), daemon=True
    ).start()
    ready = prepare(Config().with_settings({"data.source": str(pipe)}))
    assert len(ready.train_texts) + len(ready.validation_texts) == 50


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_damaged_file_does_not_stop_a_folder_and_is_noted(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "texts.txt").write_text(TEXT)
    noise = os.urandom(30_000).hex().encode()
    for name, packed in (
        ("a.gz", gzip.compress(noise)),
        ("b.bz2", bz2.compress(noise)),
        ("c.xz", lzma.compress(noise)),
    ):
        (folder / name).write_bytes(packed[:-100])  # its beginning unpacks
    (folder / "d.gz").write_bytes(gzip.compress(noise)[:14] + b"\xff" * 40)
    ready = prepare(Config().with_settings({"data.source": str(folder), "data.storage": storage}))
    assert len(ready.train) + len(ready.validation) == 50
    assert (
        f"{folder}: 4 files left out that cannot be decompressed to their end, such as a.gz; "
        f"get them again" in ready.notes
    )
    (folder / "texts.txt").unlink()
    with pytest.raises(
        DataError, match="no text file among 4 files: 4 files left out that cannot be decompressed"
    ):
        prepare(Config().with_settings({"data.source": str(folder), "data.storage": storage}))
    for name in ("a.gz", "b.bz2", "c.xz", "d.gz"):
        with pytest.raises(
            DataError,
            match=f"{name}: damaged or cut off, it cannot be decompressed to its end .*; "
            f"get it again",
        ):
            prepare(
                Config().with_settings({"data.source": str(folder / name), "data.storage": storage})
            )


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        (
            "gut\nsch\xf6n\n".encode("latin-1"),
            "convert the file from its encoding, as with iconv -f",
        ),
        ("caf\xe9".encode("latin-1"), "convert the file from its encoding"),
        (
            "gut\nsch\xf6n\n".encode() + b"n\xff\n",
            "the text before this byte is: remove such bytes, as with iconv -c",
        ),
        (
            "gut\nsch\xf6n\n\u2603".encode()[:-1],
            "the file ends within a character: it was cut off; get it again",
        ),
        (
            "gut\nsch\xf6n\nn\0\n".encode(),
            "line 3 has a NUL byte; if it is text, remove them, as with tr -d",
        ),
    ],
)
def test_advice_about_bytes_follows_what_stands_before_them(
    tmp_path: Path, content: bytes, advice: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(str(tmp_path / "a.txt"))
    assert advice in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"text\n"))
    (tmp_path / "a.gz").chmod(0)
    with pytest.raises(DataError, match=r"a\.gz: cannot be read: Permission denied"):
        read_file(str(tmp_path / "a.gz"))


@pytest.mark.parametrize("size", [8, 9, 8192])
def test_lines_that_end_with_a_carriage_return_alone_are_lines(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces_of(size, monkeypatch)
    (tmp_path / "mac.txt").write_bytes(TEXT.replace("\n", "\r").encode())
    assert read_file(str(tmp_path / "mac.txt")) == TEXT
    (tmp_path / "mac.txt").write_bytes(b"name 1\rname 2\rname \xff\r")
    with pytest.raises(DataError, match="line 3 is not UTF-8"):
        read_file(str(tmp_path / "mac.txt"))


def test_a_break_of_two_bytes_behind_a_long_first_line_is_one(tmp_path: Path) -> None:
    text = f"{8191 * 'x'}\r\none\rline\r\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read_file(str(tmp_path / "a.txt")) == text.replace("\r\n", "\n")
