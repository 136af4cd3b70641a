"""Corpora larger than memory: read twice in blocks, held out and cut as in memory, and kept as ids on disk.

The result lies in the data folder, under a name that follows from the files and the settings, and is used again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.writing import beside, sole_writer, whole, write_text

from .downloads import data_folder
from .files import STANDARD_INPUT, Damaged, files_of, pieces_of, raw_pieces, whole_files
from .rules import (
    LONGEST_AUTOMATIC,
    SPLITS,
    WINDOW,
    Split,
    cells_in_all,
    cells_of,
    end_of_learning,
    multiple_of_strides,
    next_gap,
    note_share,
    note_too_long,
    place_of,
    places_of,
    with_length_for,
)
from .store import Column, ColumnWriter, StoredRows, StoredStream, id_type
from .text_blocks import BLOCKS, COUNTERS, ENCODERS, units_of
from .tokenizers import alphabet_of_counts, check_symbols, note_unknown

MEMORY_LIMIT = 2**28
"""Bytes of text, unpacked, beyond which a corpus is kept there."""

MEMORY_LINES = 2**23
"""Lines beyond which it is kept there too: in memory each takes about 130 bytes more than its text."""

MOST_HELD_OUT = 20_000
"""Held-out texts or windows that are kept, in memory."""

LONGEST_LINE = 2**24
"""Characters of a line, which is the least that must fit into memory."""

ABOUT, ALIAS = "store.json", ".alias"
"""What is not tokens, in a store; and the ending of a file that holds the name of another store."""

BLANK, LEARNED, HELD_OUT = range(3)


@dataclass(frozen=True)
class Large:
    """A corpus on disk: what `prepare` needs of it. `held_out` are texts, or in `windows` mode one stream."""

    config: Config
    alphabet: Alphabet
    train: StoredRows | StoredStream
    held_out: list[str]
    notes: list[str]


def is_large(config: Config, named: Iterable[str]) -> bool:
    """Whether a corpus is to be kept on disk: `data.storage`, or by the size of its files."""
    data = config.data
    reasons = {
        "a named corpus is read into memory": data.source in named,
        "standard input cannot be read twice": data.source == STANDARD_INPUT,
        "labels are read into memory": data.labels is not None,
        "data.mode=fixed is read into memory": data.mode == "fixed",
        "wordpieces are learned in memory": config.model.tokenizer == "wordpiece",
    }
    against = [reason for reason, holds in reasons.items() if holds]
    if data.storage == "disk" and against:
        raise ConfigError(f"data.storage is 'disk', but {against[0]}; use 'memory'")
    if against or data.storage != "auto":
        return data.storage == "disk"
    return exceeds_memory(files_of(data.source, [], named))


def exceeds_memory(files: list[str]) -> bool:
    """Whether files hold more text than is read into memory: counted while they are unpacked, up to what is too much."""
    if sum(map(os.path.getsize, files)) > MEMORY_LIMIT:
        return True
    size = lines = 0
    for file in filter(os.path.isfile, files):  # a pipe can be read once only
        with contextlib.suppress(Damaged):  # reading says so
            for raw in raw_pieces(file):
                size += len(raw)
                lines += max(raw.count(b"\n"), raw.count(b"\r"))
                if size > MEMORY_LIMIT or lines > MEMORY_LINES:
                    return True
    return False


def large(config: Config) -> Large:
    """The corpus that `config` names, from the data folder; written there first where it is not yet."""
    check_symbols(config)
    wanted = data_folder() / "stores" / key(config)
    if not (found := stored(wanted)):
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(beside(wanted), wanted, wait=True) as alone:
            found = stored(wanted) or written(config, wanted, alone)
    return opened(config, found)


def stored(wanted: Path) -> Path | None:
    """The finished store of that name, or the one whose name stands in its alias; None where there is none yet."""
    alias = wanted.with_suffix(ALIAS)
    names = [wanted.name, *([alias.read_text(encoding="utf-8")] if alias.is_file() else [])]
    return next(
        (wanted.with_name(name) for name in names if (wanted.with_name(name) / ABOUT).is_file()),
        None,
    )


def written(config: Config, wanted: Path, alone: bool) -> Path:
    """Write a store and let the configuration that its settings complete find it too; `alone` as in `kvae.writing.whole`."""
    with whole(wanted, alone) as partial:
        partial.mkdir()
        completed = (stream_store if config.data.mode == "windows" else lines_store)(
            config, partial
        )
        if key(config) != wanted.name:
            raise DataError(
                f"{config.data.source}: changed while it was read; start again when it is complete"
            )
    other = wanted.with_name(key(completed))
    if other != wanted:
        write_text(other.with_suffix(ALIAS), wanted.name)
    return wanted


def key(config: Config) -> str:
    """A name that changes with the files and with every setting that the stored tokens follow from."""
    model, data = config.model, config.data
    files = [
        (file, os.path.getsize(file), os.stat(file).st_mtime_ns)
        for file in files_of(data.source, [])
    ]
    shape = [model.length or -multiple_of_strides(config, 1), model.tokenizer]
    rules = [data.mode, data.too_long, data.max_symbols, data.min_count, data.validation is None]
    split: list[Any] = [data.validation_fraction, data.split_seed]
    if data.split != "texts" and data.mode == "lines" and data.validation is None:
        split.append(data.split)
    return hashlib.sha256(json.dumps([files, shape, rules, split]).encode()).hexdigest()[:24]


def opened(config: Config, folder: Path) -> Large:
    """What a finished store holds."""
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    alphabet = Alphabet.from_dict(about["vocabulary"])
    tokens = Column(folder, "tokens", id_type(alphabet))
    config = config.with_settings({"model.length": about["length"]})
    train = (
        StoredStream(tokens)
        if config.data.mode == "windows"
        else StoredRows(tokens, Column(folder, "starts", np.int64), config.model.length)
    )
    return Large(config, alphabet, train, about["held_out"], about["notes"])


def finish(
    folder: Path,
    config: Config,
    alphabet: Alphabet,
    counts: Counter[str],
    held_out: list[str],
    notes: list[str],
) -> None:
    """Write what is not tokens; with this a store is complete."""
    known = set(alphabet.symbols)
    note_unknown(
        alphabet, Counter({symbol: n for symbol, n in counts.items() if symbol not in known}), notes
    )
    about = {
        "length": config.model.length,
        "vocabulary": alphabet.to_dict(),
        "held_out": held_out,
        "notes": notes,
    }
    (folder / ABOUT).write_text(json.dumps(about), encoding="utf-8")


# Lines


@dataclass
class Tally:
    """What a pass over the lines has found."""

    blank: int = 0
    learned: int = 0
    long: int = 0
    longest: int = 0
    over: int = 0
    lines: int = 0
    lowest: float = 1.0
    cells: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Lines in each cell of the places, where there is a split."""
    held_out: list[tuple[float, int, str]] = field(default_factory=list)

    def split(self, config: Config) -> Split:
        """How a corpus of these lines is split."""
        cells = np.flatnonzero(self.cells)
        return SPLITS[config.data.split](
            config.data.validation_fraction, self.lowest, cells, self.cells[cells]
        )


def lines_store(config: Config, folder: Path) -> Config:
    """Write a corpus of lines into a folder: which lines are held out and what symbols there are, then the tokens."""
    notes: list[str] = []
    files = whole_files(config.data.source, notes)
    fraction = config.data.validation_fraction
    split = Split(fraction, fraction) if config.data.validation is None else None
    tally, counts = survey(config, files, split, folder)
    if (
        split and tally.lines and tally.split(config) != split
    ):  # known only when all lines are counted
        tally, counts = survey(config, files, tally.split(config), folder)
    if tally.blank:
        notes.append(f"{config.data.source}: {tally.blank:,} blank lines skipped")
    if not tally.lines:
        raise DataError(f"{config.data.source}: has no text; give a file with one text a line")
    if not tally.learned or (split and not tally.held_out):
        raise DataError(
            f"{config.data.source}: needs at least two different lines, one to train on and one to hold out; "
            f"give a longer file, or one more with --validation"
        )
    tokens = Alphabet((), config.model.tokenizer).rules.tokens
    if not config.model.length:
        config = with_length_for(config, tally.longest, tally.over, tally.lines, tokens)
    if tally.long:
        note_too_long(
            config, config.data.source, tally.long, tally.learned, tally.longest, tokens, notes
        )
    if split:
        note_share(config, tally.lines - tally.learned, tally.lines, notes)
    kept = sorted(tally.held_out)[:MOST_HELD_OUT]
    note_capped(len(kept), tally.lines - tally.learned, "lines", notes)
    alphabet = alphabet_of_counts(config, counts)
    write_lines(config, alphabet, files, folder)
    texts = [text for _, _, text in sorted(kept, key=lambda item: item[1])]
    finish(folder, config, alphabet, counts, texts, notes)
    return config


KEPT_FIRST: dict[str, Callable[[float, int, int], float]] = {
    "lines": lambda place, number, seed: place_of(str(number), seed, b"kept"),
    "texts": lambda place, number, seed: place,
}
"""By `data.split`: from the place of a held-out line, its number and the seed, how early it is kept where not all are."""


def survey(
    config: Config, files: list[str], split: Split | None, folder: Path
) -> tuple[Tally, Counter[str]]:
    """The first pass: what each line is for, into the column `kinds`; how many lines each cell has; and the symbols of those
    to learn from, as they will be cut or dropped."""
    for file in folder.iterdir():
        file.unlink()
    kinds, tally, counting = (
        ColumnWriter(folder, "kinds", np.uint8),
        Tally(),
        COUNTERS[config.model.tokenizer](),
    )
    room, data = room_of(config), config.data
    if split:
        tally.cells = np.zeros(cells_in_all(split.fraction), np.int64)
    for text in blocks_of_lines(files):
        block = BLOCKS[config.model.tokenizer](text, config.model.tokenizer)
        lines = text.split("\n")[:-1]
        kind = np.array(
            [BLANK if not line or line.isspace() else LEARNED for line in lines], np.uint8
        )
        if split:
            numbers = np.flatnonzero(kind)
            places = places_of((lines[number] for number in numbers.tolist()), data.split_seed)
            tally.lowest = min(tally.lowest, places.min(initial=1.0))
            cells, found = np.unique(cells_of(places, split.fraction), return_counts=True)
            tally.cells[cells] += found
            held = split.chosen(places)
            kind[numbers[held]] = HELD_OUT
            for number, place in zip(numbers[held].tolist(), places[held].tolist(), strict=True):
                line = tally.lines + tally.blank + number
                tally.held_out.append(
                    (KEPT_FIRST[data.split](place, line, data.split_seed), line, lines[number])
                )
            if len(tally.held_out) > 2 * MOST_HELD_OUT:
                tally.held_out = sorted(tally.held_out)[:MOST_HELD_OUT]
        counting.add(block.chosen(block.limits(kind == LEARNED, room, data.too_long)))
        filled = block.lengths[kind != BLANK]
        tally.blank += len(lines) - len(filled)
        tally.lines += len(filled)
        tally.learned += int((kind == LEARNED).sum())
        tally.longest = max(tally.longest, int(filled.max(initial=0)))
        tally.over += int((filled >= LONGEST_AUTOMATIC).sum())
        tally.long += int((block.lengths[kind == LEARNED] > room).sum())
        kinds.append(kind)
    return tally, counting.counts()


def room_of(config: Config) -> int:
    """Tokens that a line may have. Where the length is open it follows the longest line, up to the automatic one, and then
    no line is longer than this, or it is just this."""
    return (config.model.length or multiple_of_strides(config, LONGEST_AUTOMATIC)) - 1


def write_lines(config: Config, alphabet: Alphabet, files: list[str], folder: Path) -> None:
    """The second pass: the ids of the lines to learn from, one after the other, and where each starts."""
    kinds = Column(folder, "kinds", np.uint8)
    tokens = ColumnWriter(folder, "tokens", id_type(alphabet))
    starts = ColumnWriter(folder, "starts", np.int64)
    number, place, room = 0, 0, room_of(config)
    starts.append(np.zeros(1))
    ids_of = ENCODERS[alphabet.tokenizer](alphabet)
    for text in blocks_of_lines(files):
        block = BLOCKS[alphabet.tokenizer](text, alphabet.tokenizer)
        learned = kinds.read(number, len(block.lengths)) == LEARNED
        limits = block.limits(learned, room, config.data.too_long)
        if config.data.too_long == "drop":
            learned &= block.lengths <= room
        tokens.append(ids_of(block.chosen(limits)))
        ends = place + np.cumsum(limits[learned])
        starts.append(ends)
        number, place = number + len(learned), int(ends[-1]) if len(ends) else place


def blocks_of_lines(files: Iterable[str]) -> Iterator[str]:
    """The text of files in blocks of whole lines, each line ended by a line break."""
    for file in files:
        rest: list[str] = []
        for piece in pieces_of(file):
            end = piece.rfind("\n") + 1
            if end:
                yield "".join((*rest, piece[:end]))
                rest = []
            rest.append(piece[end:])
            if sum(map(len, rest)) > LONGEST_LINE:
                raise DataError(
                    f"{file}: a line has over {LONGEST_LINE:,} characters; is it a stream? Then use --set data.mode=windows"
                )
        if last := "".join(rest):
            yield last + "\n"


# Streams


def stream_store(config: Config, folder: Path) -> Config:
    """Write a stream into a folder: how long it is, what symbols its beginning has, then its tokens; its end is held out."""
    notes: list[str] = []
    files = whole_files(config.data.source, notes)
    config = config.with_settings({"model.length": config.model.length or WINDOW})
    tokenizer, length = config.model.tokenizer, config.model.length
    characters = sum(map(len, pieces_of_stream(files)))
    cut = characters if config.data.validation else end_of_learning(config, characters)
    counting, counter = COUNTERS[tokenizer](), Alphabet((), tokenizer)
    held, held_count = [], 0
    for learned, text in parts_of_stream(files, cut, tokenizer):
        if learned:
            counting.add(units_of(text, tokenizer))
        else:
            if held_count < MOST_HELD_OUT * length:
                held.append(text)
            held_count += counter.count(text)
    counts = counting.counts()
    alphabet = alphabet_of_counts(config, counts)
    tokens = ColumnWriter(folder, "tokens", id_type(alphabet))
    ids_of = ENCODERS[tokenizer](alphabet)
    for learned, text in parts_of_stream(files, cut, tokenizer):
        if learned:
            tokens.append(ids_of(units_of(text, tokenizer)))
    if tokens.size // tokens.kind.itemsize < length:
        raise DataError(
            f"{config.data.source}: {tokens.size // tokens.kind.itemsize} {counter.rules.tokens} to train on or to hold out, "
            f"fewer than one window of {length}; give a longer file or a smaller model.length"
        )
    note_capped(min(held_count // length, MOST_HELD_OUT), held_count // length, "windows", notes)
    finish(folder, config, alphabet, counts, ["".join(held)], notes)
    return config


def note_capped(kept: int, found: int, what: str, notes: list[str]) -> None:
    """Say how much of what is held out is kept."""
    if kept < found:
        notes.append(
            f"{kept:,} of {found:,} held-out {what} are kept to validate on, the others are not used"
        )


def pieces_of_stream(files: Iterable[str]) -> Iterator[str]:
    """The text of files as one stream: a line break between two files and none at the end."""
    begun = False
    for file in files:
        ending, opened = "", False
        for piece in filter(None, pieces_of(file)):
            if begun and not opened:
                yield "\n"
            begun = opened = True
            piece = ending + piece
            ending = "\n" if piece.endswith("\n") else ""
            yield piece.removesuffix(ending)


def parts_of_stream(files: Iterable[str], cut: int, tokenizer: str) -> Iterator[tuple[bool, str]]:
    """A stream piece by piece with whether it is learned from: up to `cut`, and of words to the next gap behind it."""
    place, past = 0, False
    for piece in (
        whole_words(pieces_of_stream(files)) if tokenizer == "word" else pieces_of_stream(files)
    ):
        end = len(piece)
        if past:
            end = 0
        elif place + len(piece) > cut:
            end = next_gap(piece, cut - place) if tokenizer == "word" else cut - place
            past = end < len(piece)
            cut = max(cut, place + end)
        place += len(piece)
        for learned, text in ((True, piece[:end]), (False, piece[end:])):
            if text:
                yield learned, text


def whole_words(pieces: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that end at a blank or a line break."""
    rest = ""
    for piece in pieces:
        piece = rest + piece
        end = max(piece.rfind(" "), piece.rfind("\n")) + 1
        rest = piece[end:]
        if len(rest) > LONGEST_LINE:
            raise DataError(
                f"model.tokenizer is 'word', but a word has over {LONGEST_LINE:,} characters: is it a text of words? "
                f"Use --tokenizer char"
            )
        if end:
            yield piece[:end]
    if rest:
        yield rest
