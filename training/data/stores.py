"""Stores: corpora on disk, so that memory does not grow with them.

A store is a folder in the data folder. Its name is a hash of the files and the settings, so that
later runs find and reuse it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from kvae.configuration import Config
from kvae.runs import CONFIG
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import DataError
from kvae.texts.files import DamagedFile, files_of, raw_pieces
from kvae.texts.formats import readable_kinds
from kvae.texts.records import Columns, Records
from kvae.writing import (
    PathInUse,
    atomic_write,
    leftovers_in,
    lock_path,
    remove,
    sole_writer,
    write_text,
)

from ..messages import Say
from .columns import DiskColumns
from .corpora import Corpus, corpus_in, is_path, write_corpus
from .downloads import data_folder
from .labels import check_hidden, with_attributes
from .lengths import multiple_of_strides
from .named_corpora import CORPORA
from .settle import Settled, with_vocabulary_size
from .sources import Source, columns_of

MEMORY_LIMIT = 2**28
"""Bytes of text, after decompression, above which a corpus is stored on disk."""

MEMORY_LINES = 2**23
"""Lines above which it is stored on disk too."""

MOST_HELD_OUT = 20_000
"""Largest number of held-out texts or windows of a corpus on disk. They are kept in memory."""

STORE_INFO, ALIAS = "store.json", ".alias"
"""The file of a store with everything except tokens, and the ending of a file that contains the
name of another store."""

USERS = "runs.txt"
"""The file of a store that names the run folders that have used it, one in each line."""

LAYOUT = 2
"""Number of the layout of a store. A store of another layout is not found and written again."""


def is_on_disk(config: Config) -> bool:
    """Whether a corpus is stored on disk: as `data.storage` says, or else by the size of its
    files."""
    if config.data.storage != "auto":
        return config.data.storage == "disk"
    source, readable = config.data.source, readable_kinds(columns_of(config))
    return is_path(source) and exceeds_memory(files_of(source, [], CORPORA, readable))


def exceeds_memory(files: list[str]) -> bool:
    """Whether files have more than `MEMORY_LIMIT` bytes or `MEMORY_LINES` lines after
    decompression."""
    if sum(map(os.path.getsize, files)) > MEMORY_LIMIT:
        return True
    size = lines = 0
    for file in filter(os.path.isfile, files):  # a pipe can be read once only
        with contextlib.suppress(DamagedFile, DataError):  # reading raises it again
            for raw in raw_pieces(file):
                size += len(raw)
                lines += max(raw.count(b"\n"), raw.count(b"\r"))
                if size > MEMORY_LIMIT or lines > MEMORY_LINES:
                    return True
    return False


def stored_corpus(config: Config, source: Source, validation: Records | None, say: Say) -> Corpus:
    """The corpus of a configuration, from its store in the data folder. Writes the store first if
    there is none. `validation` are held-out texts from elsewhere."""
    target = stores_folder() / store_name(config)
    if not (store := find_store(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished()
        with sole_writer(lock_path(target), target, wait=True) as exclusive:
            store = find_store(target) or write_store(
                config, source, validation, target, exclusive, say
            )
    return open_store(config, store)


def stores_folder() -> Path:
    """The folder of all stores."""
    return data_folder() / "stores"


def find_store(target: Path) -> Path | None:
    """The complete store at `target`, or the one that its alias names; None if there is none."""
    alias = target.with_suffix(ALIAS)
    names = [target.name, *([alias.read_text(encoding="utf-8")] if alias.is_file() else [])]
    stores = map(target.with_name, names)
    return next((store for store in stores if (store / STORE_INFO).is_file()), None)


def write_store(
    config: Config,
    source: Source,
    validation: Records | None,
    target: Path,
    exclusive: bool,
    say: Say,
) -> Path:
    """Write a store at `target`; `exclusive` as in `kvae.writing.atomic_write`. Raises `DataError`
    if a file has changed.

    An alias makes the store available to the completed configuration, whose length is set.
    """
    notes: list[str] = []
    with atomic_write(target, exclusive) as partial:
        partial.mkdir()
        settled, held_out = write_corpus(
            config, source, validation, DiskColumns(partial), MOST_HELD_OUT, notes, say
        )
        info = {
            "source": config.data.source,
            "settings": {
                "model.length": settled.config.model.length,
                "model.vocabulary_size": settled.config.model.vocabulary_size,
                "model.attributes": list(settled.config.model.attributes),
            },
            "vocabulary": settled.alphabet.to_dict(),
            "held_out": held_out.texts,
            "held_out_labels": held_out.labels,
            "notes": notes,
        }
        (partial / STORE_INFO).write_text(json.dumps(info), encoding="utf-8")
        if store_name(config) != target.name:
            raise DataError(
                f"{config.data.source}: changed while it was read; start again when it is complete"
            )
    other = target.with_name(store_name(settled.config))
    if other != target:
        alias = other.with_suffix(ALIAS)
        with sole_writer(lock_path(alias), alias, wait=True) as exclusive:
            write_text(alias, target.name, exclusive)
    return target


def store_name(config: Config) -> str:
    """A hash of the files and of every setting that the stored tokens depend on."""
    model, data, columns = config.model, config.data, columns_of(config)
    validation = (
        [] if model.length or data.validation is None else about_files(data.validation, columns)
    )
    parts = [
        LAYOUT,
        about_files(data.source, columns),
        validation,
        about_files(data.labels, Columns(format="lines")) if data.labels else [],
        about_files(data.vocabulary, Columns(format="lines")) if data.vocabulary else [],
        [model.length or -multiple_of_strides(config, 1), model.tokenizer],
        [model.token_pattern],
        [data.mode, data.too_long, data.max_symbols, data.min_count, data.validation is None],
        [data.format, data.column, data.label_column, data.labelled_fraction],
        [data.validation_fraction, data.split_seed, data.split],
        *([["fold_case"]] if data.fold_case else []),  # other stores keep their names
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def about_files(source: str, columns: Columns) -> list[tuple[str, int, int]] | str:
    """Path, size and time of change of the files of a source; the name of a corpus."""
    if not is_path(source):
        return source
    return [
        (file, os.path.getsize(file), os.stat(file).st_mtime_ns)
        for file in files_of(source, [], readable=readable_kinds(columns))
    ]


def open_store(config: Config, folder: Path) -> Corpus:
    """The corpus in a complete store. Raises `ConfigError` for settings of the model that do not
    fit it, as writing the store would."""
    info = json.loads((folder / STORE_INFO).read_text(encoding="utf-8"))
    alphabet = Alphabet.from_dict(info["vocabulary"])
    config = with_vocabulary_size(config, alphabet)
    if not info["settings"]["model.attributes"]:
        config = with_attributes(config, None, [])
    settled = Settled(config.with_settings(info["settings"]), alphabet)
    held_out = Records(info["held_out"], info["held_out_labels"])
    corpus = corpus_in(settled, DiskColumns(folder), held_out, info["notes"])
    if corpus.attribute is not None:
        check_hidden(config, corpus.attribute)
    return corpus


def remember_user(config: Config, run_folder: Path) -> None:
    """Note in the store of a configuration, if there is one, that a run uses it."""
    store = find_store(stores_folder() / store_name(config))
    if store and str(run_folder.absolute()) not in users_of(store):
        with contextlib.suppress(OSError), (store / USERS).open("a", encoding="utf-8") as file:
            file.write(f"{run_folder.absolute()}\n")


def users_of(store: Path) -> list[str]:
    """The run folders that have used a store."""
    file = store / USERS
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def stores() -> list[dict[str, Any]]:
    """All stores in the data folder: path, size, source, and the runs that still exist and use it.

    What a killed process left is among them, without a source.
    """
    folder = stores_folder()
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [about_store(path) for path in paths if path.is_dir()]


def about_store(path: Path) -> dict[str, Any]:
    """The entry of a folder in `stores`."""
    source = None
    if (path / STORE_INFO).is_file():
        with contextlib.suppress(ValueError, OSError):
            source = json.loads((path / STORE_INFO).read_text(encoding="utf-8")).get("source", "?")
    return {
        "path": str(path),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "source": source,
        "runs": [run for run in users_of(path) if (Path(run) / CONFIG).is_file()],
    }


def clean_stores() -> list[dict[str, Any]]:
    """Remove the stores that no existing run uses, and what killed processes left; returns them.

    A store that another process is writing stays.
    """
    removed = [store for store in stores() if not store["runs"] and removes(Path(store["path"]))]
    for alias in stores_folder().glob(f"[!.]*{ALIAS}"):
        if not (alias.with_name(alias.read_text(encoding="utf-8")) / STORE_INFO).is_file():
            alias.unlink()
    remove_unfinished()  # an alias that a killed process did not finish
    return removed


def removes(store: Path) -> bool:
    """Remove a store, or the unfinished one of a killed process; False if another process writes
    it, or may write it on a disk without locks."""
    target = store.with_name(store.name.rpartition("-")[2])
    try:
        with sole_writer(lock_path(target), target) as has_locks:
            if not has_locks and store != target:
                return False
            remove(store)
    except PathInUse:
        return False
    return True


def remove_unfinished() -> None:
    """Remove the unfinished stores that killed processes left."""
    for path in leftovers_in(stores_folder()):
        removes(path)
