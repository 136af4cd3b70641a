"""The folder of a bulk command: its request, its Parquet files, and the texts that wait for them.

A file has the rows of consecutive texts and appears complete or not at all. `_request.json` has
everything that the rows depend on, except the texts; each file has the sha256 of its texts. Names
with an underscore are left out by readers of a folder of Parquet files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvae.serving.errors import ConfigError, DataError, first_line
from kvae.texts.records import Records
from kvae.writing import atomic_write, has_content, leftovers_in, write_text

REQUEST = "_request.json"
WAITING = "_texts"
"""Folder of the texts of the files that are still to be written, each as a Parquet file."""

METADATA = b"kvae"
"""Key in the metadata of a Parquet file, for JSON with `bundle_sha256` and `texts_sha256`."""

SHARD_SIZE = 10_000
"""Texts in a shard, unless another number is given."""

DEFAULTS: Mapping[str, Callable[[], int]] = {
    "shard_size": lambda: SHARD_SIZE,
    "seed": lambda: secrets.randbits(32),
}
"""Values of a request that may be left open. A folder with files keeps those that it began with."""


@dataclass(frozen=True)
class Shard:
    """A file to write, as a worker of Dask receives it."""

    number: int
    first: int
    """The first row of the seed, or the number of the first text, from 1."""
    count: int
    bundle: str
    folder: str
    request: Mapping[str, Any]
    texts_sha256: str | None = None
    """The hash of its texts; None for texts that are sampled."""

    @property
    def file(self) -> Path:
        """The Parquet file that it becomes."""
        return Path(self.folder) / f"part-{self.number:06d}.parquet"

    @property
    def texts(self) -> Path:
        """The Parquet file of its texts."""
        return Path(self.folder) / WAITING / self.file.name


@contextlib.contextmanager
def request_folder(folder: Path, wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Context in which the files of a request are written to `folder`, which this process has
    claimed. Yields the request with its open values.

    Raises `ConfigError` if the folder has files of another request, or has other content.
    """
    known = known_request(folder)
    tidy(folder)
    request = {
        name: known.get(name, DEFAULTS[name]()) if value is None and name in DEFAULTS else value
        for name, value in wanted.items()
    }
    if known:
        check_same_request(folder, known, request)
    try:
        write_text(folder / REQUEST, json.dumps(request, indent=1) + "\n")
        yield request
    finally:
        tidy(folder)
        if not numbers_in(folder):
            (folder / REQUEST).unlink(missing_ok=True)


def known_request(folder: Path) -> dict[str, Any]:
    """The request of the files in a folder; empty if it has none. Raises `ConfigError` for a folder
    that is not of a bulk command, and `DataError` for a damaged request."""
    record = folder / REQUEST
    if not record.is_file():
        if has_content(folder):
            raise ConfigError(f"{folder} has other files; give a new or an empty folder to --out")
        return {}
    if not numbers_in(folder):
        return {}
    try:
        known = json.loads(record.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{record}: damaged, it is not JSON ({first_line(error)}); give another folder to --out"
        ) from error
    return dict(known)


def check_same_request(folder: Path, known: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Raise `ConfigError` with the first value in which two requests differ."""
    for name, before, now in differences(known, request):
        where = "give another folder to --out"
        if name == "bundle_sha256":
            raise ConfigError(
                f"{folder} has files of another bundle; {where}, or go on with the bundle whose "
                f"manifest has the sha256 {before}"
            )
        raise ConfigError(
            f"{folder} has files with {name} {before!r}, this command asks for {now!r}; {where}, "
            f"or go on with {before!r}"
        )


def differences(one: Any, other: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of each place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from differences(one.get(key), other.get(key), key)
    elif one != other:
        yield name, one, other


def tidy(folder: Path) -> None:
    """Remove what no file needs: waiting texts, and parts of files that a killed process left."""
    shutil.rmtree(folder / WAITING, ignore_errors=True)
    for file in leftovers_in(folder):
        file.unlink(missing_ok=True)


def numbers_in(folder: Path) -> set[int]:
    """The numbers of the files that are there."""
    found = (re.fullmatch(r"part-(\d{6,})\.parquet", path.name) for path in folder.iterdir())
    return {int(match[1]) for match in found if match}


# --- shards ---------------------------------------------------------------------------------------


def sample_shards(bundle: Path, folder: Path, request: dict[str, Any]) -> list[Shard]:
    """The shards of texts that are sampled: consecutive rows of a seed."""
    n, size, first_row = (request[name] for name in ("n", "shard_size", "first_row"))
    return [
        Shard(number, first_row + start, min(size, n - start), str(bundle), str(folder), request)
        for number, start in enumerate(range(0, n, size))
    ]


def text_shards(
    bundle: Path, folder: Path, request: dict[str, Any], blocks: Iterable[Records]
) -> list[Shard]:
    """The shards of texts that are read. The texts of those that are not there wait in `WAITING`.

    All texts are read before any is computed, so that a damaged row costs no work. Raises
    `ConfigError` if a file that is there has other texts.
    """
    (folder / WAITING).mkdir()
    there, size = numbers_in(folder), request["shard_size"]
    shards = []
    for number, records in enumerate(in_blocks_of(size, blocks)):
        digest = hashlib.sha256(json.dumps([records.texts, records.ids]).encode()).hexdigest()
        shard = Shard(
            number,
            number * size + 1,
            len(records.texts),
            str(bundle),
            str(folder),
            request,
            digest,
        )
        if number in there:
            check_same_texts(shard)
        else:
            write_table(shard.texts, text_columns(records), {})
        shards.append(shard)
    if there - set(range(len(shards))):
        raise ConfigError(
            f"{folder} has {max(there) + 1:,} files, the texts now make {len(shards):,}; give "
            f"another folder to --out, or go on with the texts of before"
        )
    return shards


def in_blocks_of(size: int, blocks: Iterable[Records]) -> Iterator[Records]:
    """Yield the same records in blocks of `size` texts; the last one may have fewer. An identifier
    that is missing is empty."""
    texts: list[str] = []
    ids: list[str] = []
    for records in blocks:
        texts += records.texts
        ids += records.ids or [""] * len(records.texts)
        whole = len(texts) - len(texts) % size
        for start in range(0, whole, size):
            yield Records(texts[start : start + size], ids=ids[start : start + size])
        texts, ids = texts[whole:], ids[whole:]
    if texts:
        yield Records(texts, ids=ids)


def check_same_texts(shard: Shard) -> None:
    """Raise `ConfigError` if the file of a shard has other texts, and `DataError` if it cannot be
    read."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        metadata = pa.parquet.read_schema(shard.file).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{shard.file}: cannot be read ({first_line(error)}); move it elsewhere, then the same "
            f"command writes it again"
        ) from error
    known = json.loads(metadata.get(METADATA, b"{}"))
    if known.get("texts_sha256") != shard.texts_sha256:
        raise ConfigError(
            f"{shard.file.name} in {shard.folder} has other texts or identifiers than the input, "
            f"texts {shard.first:,} to {shard.first + shard.count - 1:,}; give another folder to "
            f"--out, or go on with the texts of before"
        )


def text_columns(records: Records) -> dict[str, Any]:
    """Texts and their identifiers as columns; an empty identifier is null."""
    import pyarrow as pa

    ids = [name or None for name in records.ids or ()]
    return {"id": pa.array(ids, pa.string()), "text": pa.array(records.texts, pa.string())}


def write_table(file: Path, columns: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write columns as a Parquet file with the metadata `about`, complete or not at all."""
    import pyarrow as pa
    import pyarrow.parquet

    table = pa.table(dict(columns)).replace_schema_metadata({METADATA: json.dumps(about)})
    with atomic_write(file) as partial:
        pa.parquet.write_table(table, partial, compression="zstd")
