"""Named corpora come from a folder of the user or from their address: whole and checked, or not."""

import gzip
import hashlib
import json
import lzma
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from kvae.cli import main
from kvae.presets import preset
from kvae.serving.errors import DataError
from kvae.training.data import named_corpora
from kvae.training.data.downloads import COLLECTIONS, Collection, get
from kvae.training.data.prepare import prepare

from .conftest import ids_of

TEXTS = {
    f"ptb.{part}.txt": "".join(f" the {part} sentence {n} \n" for n in range(90))
    for part in ("train", "valid", "test")
}


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if "short" not in self.path:
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        return self.wfile.write(b"the beginning") and None


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that has the files."""
    (tmp_path / "served").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "served" / name).write_text(text)
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "served"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, and a collection with the sums of the texts above."""
    monkeypatch.setenv("KVAE_DATA", str(tmp_path / "data"))
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in TEXTS.items()}
    monkeypatch.setitem(COLLECTIONS, "ptb", Collection(sums, "for tests", "http://127.0.0.1:9/"))
    return tmp_path / "data"


def ignore(sentence: str) -> None: ...


def test_a_download_is_checked_and_then_read_as_a_corpus(address: str, data_folder: Path) -> None:
    files = get("ptb", None, ignore, address)
    assert [file.read_text() for file in files] == list(TEXTS.values())
    assert sorted(file.name for file in data_folder.iterdir()) == sorted(TEXTS)
    ready = prepare(preset("hybrid-lstm").with_settings({"data.source": "ptb-word"}))
    assert (ready.config.model.tokenizer, ready.config.model.length) == ("word", 84)
    assert (len(ready.train), len(ready.validation)) == (90, 90)
    assert ready.alphabet.decode(ids_of(ready.train)[:1]) == ["the train sentence 0"]
    assert "valid" in ready.validation_texts[0]
    ready = prepare(preset("hybrid-lstm").with_settings({"data.source": "ptb-char"}))
    assert (ready.config.data.mode, ready.config.model.length) == ("windows", 60)
    (text,) = ready.alphabet.decode(ids_of(ready.train)[None])
    assert text[:40] == TEXTS["ptb.train.txt"][:40]
    held = "".join(
        symbol if symbol in ready.alphabet.symbols else "\ufffd"
        for symbol in TEXTS["ptb.valid.txt"]
    )
    assert "".join(ready.alphabet.decode(ready.validation))[:90] == held[:90]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/", "cannot be downloaded"),
        ("short/", "too early"),
        ("other/", "its sha256 is .* try again, or get the files elsewhere and use --from FOLDER"),
        ("portal/", "answered with a web page instead of the file; get the files elsewhere"),
    ],
)
def test_a_download_that_fails_leaves_nothing(
    address: str, data_folder: Path, tmp_path: Path, path: str, message: str
) -> None:
    for folder, text in (
        ("other", "another text\n"),
        ("portal", "<html><head><title>Log in</title></head></html>"),
    ):
        (tmp_path / "served" / folder).mkdir()
        (tmp_path / "served" / folder / "ptb.train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        get("ptb", None, ignore, address + path)
    assert list(data_folder.iterdir()) == []


def test_the_users_own_files_are_copied_unpacked(
    tmp_path: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for name, text in TEXTS.items():
        (mine / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    assert main(["data", "get", "ptb", "--from", str(mine), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["files"] == [str(data_folder / name) for name in TEXTS]
    assert "terms of ptb: for tests" in captured.err
    assert main(["data", "list", "--json"]) == 0
    lacking = {
        item["name"]: item["missing"] for item in json.loads(capsys.readouterr().out)["corpora"]
    }
    assert lacking["ptb-char"] == lacking["ptb-word"] == lacking["sines"] == []
    assert lacking["tweets"] == ["tweets.train.txt", "tweets.valid.txt"]
    (mine / "ptb.valid.txt.xz").unlink()
    assert main(["data", "get", "ptb", "--from", str(mine)]) == 4
    assert "has no ptb.valid.txt, plain, .gz, .bz2, .xz or .zst" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ptb.train.txt", b"another text\n", r"its sha256 is .*--data {path}\)"),
        ("ptb.train.txt", b"PK\3\4" + bytes(30), "{path}: holds a zip archive"),
        (
            "ptb.train.txt.gz",
            gzip.compress(b"text\n" * 99, mtime=0)[:-9],
            "{path}: damaged or cut off",
        ),
    ],
)
def test_files_of_the_users_that_do_not_fit_are_told_by_their_path(
    tmp_path: Path, data_folder: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message.format(path=tmp_path / name)):
        get("ptb", str(tmp_path), ignore)
    assert list(data_folder.iterdir()) == []


def test_packed_files_in_the_data_folder_are_found(data_folder: Path) -> None:
    data_folder.mkdir()
    for name, text in TEXTS.items():
        (data_folder / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    assert (
        len(prepare(preset("hybrid-lstm").with_settings({"data.source": "ptb-word"})).train) == 90
    )


@pytest.mark.parametrize(
    ("corpus", "ways"),
    [
        ("ptb-char", ["`kvae data get ptb`", "--from FOLDER"]),
        ("tweets", ["`kvae data get tweets --from FOLDER`"]),
    ],
)
def test_a_corpus_that_is_not_there_says_how_to_get_it(corpus: str, ways: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        prepare(preset("hybrid-lstm").with_settings({"data.source": corpus}))
    assert all(way in str(caught.value) for way in [*ways, "KVAE_DATA"])


def test_tweets_have_no_address() -> None:
    with pytest.raises(DataError, match="no public download"):
        get("tweets", None, ignore)


METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: package\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}
MEMBERS = {"train": b"SMILES\nCCO\nC\n", "test": b"SMILES\nCC\n"}


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with two files of a collection, and the collection."""
    path = tmp_path / "package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(f"package/{name}.csv.gz", gzip.compress(content))
        for name, text in METADATA.items():
            archive.writestr(f"package-1.0.dist-info/{name}", text)
    sums = {f"moses.{name}.csv": hashlib.sha256(text).hexdigest() for name, text in MEMBERS.items()}
    members = {f"moses.{name}.csv": f"package/{name}.csv.gz" for name in MEMBERS}
    collection = Collection(sums, "for tests", package="package==1.0", members=members)
    monkeypatch.setitem(COLLECTIONS, "moses", collection)
    return path


def test_files_of_a_package_come_out_of_its_wheel_or_its_unpacked_folder(
    wheel: Path, data_folder: Path, tmp_path: Path
) -> None:
    for source in (wheel, tmp_path / "unpacked"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tmp_path / "unpacked")
        files = get("moses", str(source), ignore)
        assert [file.read_bytes() for file in files] == list(MEMBERS.values())
        for file in files:
            file.unlink()
    assert list(data_folder.iterdir()) == []


def test_the_wheel_is_downloaded_by_pip_and_not_installed(
    wheel: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    files = get("moses", None, ignore)
    assert [file.read_bytes() for file in files] == list(MEMBERS.values())
    wheel.unlink()
    with pytest.raises(DataError, match=r"pip cannot download it .* use --from WHEEL"):
        get("moses", None, ignore)


def test_a_wheel_of_something_else_or_a_damaged_one_is_told(
    wheel: Path, data_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.whl"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("other/file", "text")
    with pytest.raises(DataError, match=r"has no package/train\.csv\.gz; it is not the wheel"):
        get("moses", str(other), ignore)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("package/train.csv.gz", gzip.compress(b"text" * 999)[:-9])
    with pytest.raises(DataError, match="damaged or cut off"):
        get("moses", str(other), ignore)
    assert list(data_folder.iterdir()) == []


def test_molecules_are_a_corpus_of_smiles_tokens(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_folder.mkdir()
    for part in ("train", "test"):
        lines = [f"C{'C' * (n % 9)}[nH]Br%12" for n in range(99)]
        (data_folder / f"moses.{part}.csv").write_text("\n".join(["SMILES", *lines]))
    monkeypatch.setattr(named_corpora, "HELD_OUT_MOLECULES", 9)
    ready = prepare(preset("hybrid-moses-small"))
    assert (len(ready.train), len(ready.validation)) == (99, 9)
    assert sorted(ready.alphabet.symbols) == ["%12", "Br", "C", "[nH]"]
    characters = prepare(
        preset("hybrid-lstm").with_settings({"data.source": "moses", "model.tokenizer": "byte"})
    )
    assert characters.config.model.token_pattern == ""


def test_a_corpus_that_kvae_writes_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--data", "moses-selfies", "--out", "run", "--steps", "1"]) == 4
    assert "write it with `kvae data get moses-selfies`" in capsys.readouterr().err
    assert main(["data", "get", "moses-selfies", "--from", "folder"]) == 2
    assert "is made from the corpus moses; leave it out" in capsys.readouterr().err
