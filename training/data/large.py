"""Corpora larger than memory: read twice in blocks and stored as ids on disk, with the split and
the cuts of a corpus in memory.

A store is a folder in the data folder. Its name is a hash of the files and the settings, so that
later runs find and reuse it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.texts.files import STANDARD_INPUT, DamagedFile, files_of, intact_files, raw_pieces
from kvae.writing import atomic_write, lock_path, sole_writer, write_text

from .downloads import data_folder
from .rules import (
    LONGEST_AUTOMATIC,
    SPLITS,
    WINDOW_LENGTH,
    Split,
    cell_count,
    cells_of,
    multiple_of_strides,
    note_share,
    note_too_long,
    text_hash,
    text_hashes,
    training_end,
    with_automatic_length,
)
from .store import Column, ColumnWriter, StoredRows, StoredStream, id_type
from .text_blocks import (
    BLOCKS,
    COUNTERS,
    ENCODERS,
    blocks_of_lines,
    parts_of_stream,
    pieces_of_stream,
    units_of,
)
from .tokenizers import alphabet_of_counts, check_symbols, note_unknown

MEMORY_LIMIT = 2**28
"""Bytes of text, after decompression, above which a corpus is stored on disk."""

MEMORY_LINES = 2**23
"""Lines above which it is stored on disk too. In memory a line takes about 130 bytes more than its
text."""

MOST_HELD_OUT = 20_000
"""Largest number of held-out texts or windows. They are kept in memory."""

STORE_INFO, ALIAS = "store.json", ".alias"
"""The file of a store with everything except tokens, and the ending of a file that contains the
name of another store."""

BLANK, TRAINING, HELD_OUT = range(3)
"""Kinds of lines, in the column `kinds` of a store."""


@dataclass(frozen=True)
class LargeCorpus:
    """A corpus on disk, for `prepare`. `held_out` are the held-out texts; in `windows` mode one
    text, the end of the stream."""

    config: Config
    alphabet: Alphabet
    train: StoredRows | StoredStream
    held_out: list[str]
    notes: list[str]


def is_large(config: Config, named: Iterable[str]) -> bool:
    """Whether a corpus is stored on disk: as `data.storage` says, or else by the size of its files.

    `named` are the names of corpora. Raises `ConfigError` if `data.storage` is `disk` and the
    corpus cannot be on disk.
    """
    data = config.data
    reasons = {
        "a named corpus is read into memory": data.source in named,
        "standard input cannot be read twice": data.source == STANDARD_INPUT,
        "labels are read into memory": data.labels is not None,
        "data.mode=fixed is read into memory": data.mode == "fixed",
        "wordpieces are learned in memory": config.model.tokenizer == "wordpiece",
    }
    obstacles = [reason for reason, holds in reasons.items() if holds]
    if data.storage == "disk" and obstacles:
        raise ConfigError(f"data.storage is 'disk', but {obstacles[0]}; use 'memory'")
    if obstacles or data.storage != "auto":
        return data.storage == "disk"
    return exceeds_memory(files_of(data.source, [], named))


def exceeds_memory(files: list[str]) -> bool:
    """Whether files have more than `MEMORY_LIMIT` bytes or `MEMORY_LINES` lines after
    decompression."""
    if sum(map(os.path.getsize, files)) > MEMORY_LIMIT:
        return True
    size = lines = 0
    for file in filter(os.path.isfile, files):  # a pipe can be read once only
        with contextlib.suppress(DamagedFile):  # reading raises it again
            for raw in raw_pieces(file):
                size += len(raw)
                lines += max(raw.count(b"\n"), raw.count(b"\r"))
                if size > MEMORY_LIMIT or lines > MEMORY_LINES:
                    return True
    return False


def large_corpus(config: Config) -> LargeCorpus:
    """The corpus of a configuration, from its store in the data folder. Writes the store first if
    there is none."""
    check_symbols(config)
    target = data_folder() / "stores" / store_name(config)
    if not (store := find_store(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(lock_path(target), target, wait=True) as exclusive:
            store = find_store(target) or write_store(config, target, exclusive)
    return open_store(config, store)


def find_store(target: Path) -> Path | None:
    """The complete store at `target`, or the one that its alias names; None if there is none."""
    alias = target.with_suffix(ALIAS)
    names = [target.name, *([alias.read_text(encoding="utf-8")] if alias.is_file() else [])]
    stores = map(target.with_name, names)
    return next((store for store in stores if (store / STORE_INFO).is_file()), None)


def write_store(config: Config, target: Path, exclusive: bool) -> Path:
    """Write a store at `target`; `exclusive` as in `kvae.writing.atomic_write`. Raises `DataError`
    if a file has changed.

    An alias makes the store available to the completed configuration, whose length is set.
    """
    write_tokens = stream_store if config.data.mode == "windows" else lines_store
    with atomic_write(target, exclusive) as partial:
        partial.mkdir()
        completed_config = write_tokens(config, partial)
        if store_name(config) != target.name:
            raise DataError(
                f"{config.data.source}: changed while it was read; start again when it is complete"
            )
    other = target.with_name(store_name(completed_config))
    if other != target:
        write_text(other.with_suffix(ALIAS), target.name)
    return target


def store_name(config: Config) -> str:
    """A hash of the files and of every setting that the stored tokens depend on."""
    model, data = config.model, config.data
    files = [
        (file, os.path.getsize(file), os.stat(file).st_mtime_ns)
        for file in files_of(data.source, [])
    ]
    shape = [model.length or -multiple_of_strides(config, 1), model.tokenizer]
    rules = [data.mode, data.too_long, data.max_symbols, data.min_count, data.validation is None]
    split: list[float | str] = [data.validation_fraction, data.split_seed]
    if data.split != "texts" and data.mode == "lines" and data.validation is None:
        split.append(data.split)
    return hashlib.sha256(json.dumps([files, shape, rules, split]).encode()).hexdigest()[:24]


def open_store(config: Config, folder: Path) -> LargeCorpus:
    """The corpus in a complete store."""
    info = json.loads((folder / STORE_INFO).read_text(encoding="utf-8"))
    alphabet = Alphabet.from_dict(info["vocabulary"])
    tokens = Column(folder, "tokens", id_type(alphabet))
    config = config.with_settings({"model.length": info["length"]})
    train = (
        StoredStream(tokens)
        if config.data.mode == "windows"
        else StoredRows(tokens, Column(folder, "starts", np.int64), config.model.length)
    )
    return LargeCorpus(config, alphabet, train, info["held_out"], info["notes"])


def write_store_info(
    folder: Path,
    config: Config,
    alphabet: Alphabet,
    counts: Counter[str],
    held_out: list[str],
    notes: list[str],
) -> None:
    """Write the file with everything except tokens. This completes a store."""
    known = set(alphabet.symbols)
    unknown = Counter({symbol: n for symbol, n in counts.items() if symbol not in known})
    note_unknown(alphabet, unknown, notes)
    info = {
        "length": config.model.length,
        "vocabulary": alphabet.to_dict(),
        "held_out": held_out,
        "notes": notes,
    }
    (folder / STORE_INFO).write_text(json.dumps(info), encoding="utf-8")


# Lines


@dataclass
class Tally:
    """Counts of lines from the first pass; `lines` and what follows it do not count blank lines."""

    blank: int = 0
    lines: int = 0
    training: int = 0
    too_long: int = 0
    """Training lines with more tokens than `most_tokens`."""
    longest: int = 0
    """Tokens of the longest line."""
    over_automatic: int = 0
    """Lines of at least `LONGEST_AUTOMATIC` tokens."""
    lowest: float = 1.0
    """The lowest place of a text in the split."""
    cells: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Lines in each cell of the places, if there is a split."""
    held_out: list[tuple[float, int, str]] = field(default_factory=list)
    """Held-out lines: the key that decides which are kept, the line number, and the text."""

    def split(self, config: Config) -> Split:
        """The split of the corpus by these counts."""
        cells = np.flatnonzero(self.cells)
        return SPLITS[config.data.split](
            config.data.validation_fraction, self.lowest, cells, self.cells[cells]
        )


def lines_store(config: Config, folder: Path) -> Config:
    """Write a corpus of lines into a folder and return the completed configuration.

    The first pass decides which lines are held out and counts the symbols. The second pass writes
    the tokens. Raises `DataError`.
    """
    notes: list[str] = []
    files = intact_files(config.data.source, notes)
    fraction = config.data.validation_fraction
    split = Split(fraction, fraction) if config.data.validation is None else None
    tally, counts = survey(config, files, split, folder)
    # The split depends on the counts of all lines. The first pass assumes the usual one.
    if split and tally.lines and tally.split(config) != split:
        tally, counts = survey(config, files, tally.split(config), folder)
    if tally.blank:
        notes.append(f"{config.data.source}: {tally.blank:,} blank lines skipped")
    if not tally.lines:
        raise DataError(f"{config.data.source}: has no text; give a file with one text per line")
    if not tally.training or (split and not tally.held_out):
        raise DataError(
            f"{config.data.source}: needs at least two different lines, one to train on and one "
            f"to hold out; give a longer file, or another file with --validation"
        )
    tokens = Alphabet((), config.model.tokenizer).rules.tokens
    if not config.model.length:
        config = with_automatic_length(
            config, tally.longest, tally.over_automatic, tally.lines, tokens
        )
    if tally.too_long:
        note_too_long(
            config, config.data.source, tally.too_long, tally.training, tally.longest, tokens, notes
        )
    if split:
        note_share(config, tally.lines - tally.training, tally.lines, notes)
    kept = sorted(tally.held_out)[:MOST_HELD_OUT]
    note_capped(len(kept), tally.lines - tally.training, "lines", notes)
    alphabet = alphabet_of_counts(config, counts)
    write_lines(config, alphabet, files, folder)
    texts = [text for _, _, text in sorted(kept, key=lambda item: item[1])]
    write_store_info(folder, config, alphabet, counts, texts, notes)
    return config


KEEPING_ORDER: dict[str, Callable[[float, int, int], float]] = {
    "lines": lambda place, number, seed: text_hash(str(number), seed, b"kept"),
    "texts": lambda place, number, seed: place,
}
"""By `data.split`: the sort key of a held-out line, from its place, its number and the seed. The
first `MOST_HELD_OUT` are kept."""


def survey(
    config: Config, files: list[str], split: Split | None, folder: Path
) -> tuple[Tally, Counter[str]]:
    """The first pass: counts of the lines, and of the symbols in the training lines after cutting
    or dropping.

    Writes the kind of each line (`BLANK`, `TRAINING`, `HELD_OUT`) to the column `kinds`.
    """
    for file in folder.iterdir():
        file.unlink()
    most, data = most_tokens(config), config.data
    kinds, tally = ColumnWriter(folder, "kinds", np.uint8), Tally()
    counter = COUNTERS[config.model.tokenizer]()
    if split:
        tally.cells = np.zeros(cell_count(split.fraction), np.int64)
    for text in blocks_of_lines(files):
        block = BLOCKS[config.model.tokenizer](text, config.model.tokenizer)
        lines = text.split("\n")[:-1]
        kind = np.array(
            [BLANK if not line or line.isspace() else TRAINING for line in lines], np.uint8
        )
        if split:
            numbers = np.flatnonzero(kind)
            places = text_hashes((lines[number] for number in numbers.tolist()), data.split_seed)
            tally.lowest = min(tally.lowest, places.min(initial=1.0))
            cells, counts = np.unique(cells_of(places, split.fraction), return_counts=True)
            tally.cells[cells] += counts
            is_held_out = split.contains(places)
            kind[numbers[is_held_out]] = HELD_OUT
            held_out = zip(numbers[is_held_out].tolist(), places[is_held_out].tolist(), strict=True)
            for number, place in held_out:
                line = tally.lines + tally.blank + number
                key = KEEPING_ORDER[data.split](place, line, data.split_seed)
                tally.held_out.append((key, line, lines[number]))
            if len(tally.held_out) > 2 * MOST_HELD_OUT:
                tally.held_out = sorted(tally.held_out)[:MOST_HELD_OUT]
        counter.add(block.first_tokens(block.limits(kind == TRAINING, most, data.too_long)))
        lengths = block.lengths[kind != BLANK]
        tally.blank += len(lines) - len(lengths)
        tally.lines += len(lengths)
        tally.training += int((kind == TRAINING).sum())
        tally.longest = max(tally.longest, int(lengths.max(initial=0)))
        tally.over_automatic += int((lengths >= LONGEST_AUTOMATIC).sum())
        tally.too_long += int((block.lengths[kind == TRAINING] > most).sum())
        kinds.append(kind)
    return tally, counter.counts()


def most_tokens(config: Config) -> int:
    """The most tokens that a line may have: T - 1. If T is not set, it will not exceed the T
    assumed here: either no line is longer, or T is this one."""
    return (config.model.length or multiple_of_strides(config, LONGEST_AUTOMATIC)) - 1


def write_lines(config: Config, alphabet: Alphabet, files: list[str], folder: Path) -> None:
    """The second pass: write the ids of the training lines to the column `tokens` and their offsets
    to `starts`."""
    kinds = Column(folder, "kinds", np.uint8)
    tokens = ColumnWriter(folder, "tokens", id_type(alphabet))
    starts = ColumnWriter(folder, "starts", np.int64)
    number, offset, most = 0, 0, most_tokens(config)
    starts.append(np.zeros(1))
    ids_of = ENCODERS[alphabet.tokenizer](alphabet)
    for text in blocks_of_lines(files):
        block = BLOCKS[alphabet.tokenizer](text, alphabet.tokenizer)
        is_training = kinds.read(number, len(block.lengths)) == TRAINING
        limits = block.limits(is_training, most, config.data.too_long)
        if config.data.too_long == "drop":
            is_training &= block.lengths <= most
        tokens.append(ids_of(block.first_tokens(limits)))
        ends = offset + np.cumsum(limits[is_training])
        starts.append(ends)
        number += len(is_training)
        offset = int(ends[-1]) if len(ends) else offset


# Streams


def stream_store(config: Config, folder: Path) -> Config:
    """Write a stream into a folder and return the completed configuration. The end of the stream is
    held out.

    Reads the files three times: for the length, the symbols of the training part, and its tokens.
    Raises `DataError`.
    """
    notes: list[str] = []
    files = intact_files(config.data.source, notes)
    config = config.with_settings({"model.length": config.model.length or WINDOW_LENGTH})
    tokenizer, length = config.model.tokenizer, config.model.length
    characters = sum(map(len, pieces_of_stream(files)))
    cut = characters if config.data.validation else training_end(config, characters)
    counter, empty_alphabet = COUNTERS[tokenizer](), Alphabet((), tokenizer)
    held_out, held_out_count = [], 0
    for is_training, text in parts_of_stream(files, cut, tokenizer):
        if is_training:
            counter.add(units_of(text, tokenizer))
        else:
            if held_out_count < MOST_HELD_OUT * length:
                held_out.append(text)
            held_out_count += empty_alphabet.count(text)
    counts = counter.counts()
    alphabet = alphabet_of_counts(config, counts)
    tokens = ColumnWriter(folder, "tokens", id_type(alphabet))
    ids_of = ENCODERS[tokenizer](alphabet)
    for is_training, text in parts_of_stream(files, cut, tokenizer):
        if is_training:
            tokens.append(ids_of(units_of(text, tokenizer)))
    count = tokens.size // tokens.kind.itemsize
    if count < length:
        raise DataError(
            f"{config.data.source}: {count} {empty_alphabet.rules.tokens} "
            f"to train on or to hold out, fewer than one window of {length}; give a longer file "
            f"or a smaller model.length"
        )
    windows = held_out_count // length
    note_capped(min(windows, MOST_HELD_OUT), windows, "windows", notes)
    write_store_info(folder, config, alphabet, counts, ["".join(held_out)], notes)
    return config


def note_capped(kept: int, total: int, what: str, notes: list[str]) -> None:
    """Report how many of the held-out lines or windows are kept, if not all are."""
    if kept < total:
        notes.append(
            f"{kept:,} of {total:,} held-out {what} are kept for validation, the others are not "
            f"used"
        )
