"""The first pass over a corpus: which texts are held out, how long the texts are, which symbols and
labels they have."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.texts.records import Records, is_blank

from ..messages import Say
from .blocks import KINDS, TokenCounter
from .columns import Columns
from .lengths import most_tokens
from .sources import Source
from .splits import Places, Split, text_hashes

BLANK, TRAINING, HELD_OUT = range(3)
"""Kinds of texts, in the column `kinds`."""

PROGRESS_SECONDS = 10.0
"""Seconds between two messages about the progress of a pass."""


@dataclass
class Survey:
    """What the first pass counted. Only `blank` counts blank texts."""

    counter: TokenCounter
    """Symbols of the training texts, after they were cut or dropped."""
    blank: int = 0
    lengths: dict[int, np.ndarray] = field(
        default_factory=lambda: {kind: np.zeros(1, np.int64) for kind in (TRAINING, HELD_OUT)}
    )
    """For each kind: the number of texts by their number of tokens."""
    labels: Counter[str] = field(default_factory=Counter)
    """Labels of the training texts that were not dropped; empty where unknown."""
    has_labels: bool = False
    places: Places | None = None
    """Places of all texts in the split, if there is one."""
    label_places: Places | None = None
    """Places of the labelled training texts among those that may show their label."""
    held_out: list[tuple[float, int, str, str]] = field(default_factory=list)
    """Held-out texts: the key that decides which are kept, their number, the text, its label."""

    def texts(self, *kinds: int) -> int:
        """The number of texts of the kinds, by default of both."""
        return sum(int(self.lengths[kind].sum()) for kind in kinds or (TRAINING, HELD_OUT))

    def longer(self, most: int, *kinds: int) -> int:
        """The number of texts with more than `most` tokens."""
        return sum(
            int(self.lengths[kind][most + 1 :].sum()) for kind in kinds or (TRAINING, HELD_OUT)
        )

    def longest(self, *kinds: int) -> int:
        """The number of tokens of the longest text."""
        return max(len(self.lengths[kind]) for kind in kinds or (TRAINING, HELD_OUT)) - 1

    def held_out_records(self, known: Container[str]) -> Records:
        """The held-out texts in the order of the corpus. A label that is not `known` is unknown."""
        kept = sorted(self.held_out, key=lambda item: item[1])
        labels = [label if label in known else "" for _, _, _, label in kept]
        return Records([text for _, _, text, _ in kept], labels if self.has_labels else None)


KEEPING_ORDER: dict[str, Callable[[np.ndarray, list[int], int], np.ndarray]] = {
    "lines": lambda places, numbers, seed: text_hashes(map(str, numbers), seed, b"kept"),
    "texts": lambda places, numbers, seed: places,
}
"""By `data.split`: the sort keys of held-out texts, from their places, their numbers and the seed.
The first ones are kept."""


def survey(
    config: Config,
    source: Source,
    alphabet: Alphabet,
    columns: Columns,
    is_split: bool,
    most_held_out: int | None,
    say: Say,
) -> Survey:
    """Look at all texts, and write the kind of each to the column `kinds`.

    `alphabet` splits a text into as many tokens as the final alphabet will. At most `most_held_out`
    held-out texts are kept. With `is_split` a part of the texts is held out. The split depends on
    the counts of all texts: the pass assumes the usual one, and is repeated if that was wrong.
    """
    data = config.data
    split = Split.usual(data.validation_fraction) if is_split else None
    found = look(config, source, alphabet, columns, split, most_held_out, say)
    if found.places and found.texts():
        right = found.places.split(data.split)
        if right != split:
            found = look(config, source, alphabet, columns, right, most_held_out, say)
    return found


def look(
    config: Config,
    source: Source,
    alphabet: Alphabet,
    columns: Columns,
    split: Split | None,
    most_held_out: int | None,
    say: Say,
) -> Survey:
    """`survey` with a split, or None if no text is held out."""
    columns.remove("kinds")
    kinds, data = columns.column("kinds", np.uint8), config.data
    make_block, make_counter, _ = KINDS[alphabet.tokenizer]
    found = Survey(make_counter())
    if split:
        found.places = Places(split.fraction)
    if data.has_labels and 0 < data.labelled_fraction < 1:
        found.label_places = Places(data.labelled_fraction)
    for number, records in numbered(source, say):
        blank = np.fromiter(map(is_blank, records.texts), bool, len(records.texts))
        kind = np.where(blank, BLANK, TRAINING).astype(np.uint8)
        if split and found.places:
            hold_out(config, found, records, kind, split, number, most_held_out)
        kinds.append(kind)
        block = make_block(records.texts, alphabet)
        limits = used_tokens(config, block.lengths, block.cut, kind == TRAINING)
        block.count(limits, found.counter)
        for each in found.lengths:
            add_lengths(found.lengths, each, block.lengths[kind == each])
        found.blank += int((kind == BLANK).sum())
        if records.labels is not None:
            used = is_used(config, block.lengths, kind == TRAINING)
            count_labels(config, found, records.where(used.tolist()))
    if most_held_out:
        found.held_out = sorted(found.held_out)[:most_held_out]
    return found


def numbered(source: Source, say: Say) -> Iterator[tuple[int, Records]]:
    """Yield the blocks of a source with the number of texts before each; say how far it is."""
    number, said_at = 0, time.monotonic()
    for records in source.read():
        yield number, records
        number += len(records.texts)
        if time.monotonic() > said_at + PROGRESS_SECONDS:
            said_at = time.monotonic()
            say(f"{number:,} texts read")


def hold_out(
    config: Config,
    found: Survey,
    records: Records,
    kind: np.ndarray,
    split: Split,
    first: int,
    most_held_out: int | None,
) -> None:
    """Mark the held-out texts in `kind` and keep them; count the places of all texts."""
    data = config.data
    assert found.places
    numbers = np.flatnonzero(kind)
    places = text_hashes([records.texts[number] for number in numbers.tolist()], data.split_seed)
    found.places.add(places)
    is_held_out = split.contains(places)
    kind[numbers[is_held_out]] = HELD_OUT
    held, lines = numbers[is_held_out].tolist(), (first + numbers[is_held_out]).tolist()
    keys = KEEPING_ORDER[data.split](places[is_held_out], lines, data.split_seed)
    texts = [records.texts[number] for number in held]
    labels = [records.labels[number] for number in held] if records.labels else [""] * len(held)
    found.held_out += zip(keys.tolist(), lines, texts, labels, strict=True)
    if most_held_out and len(found.held_out) > 2 * most_held_out:
        found.held_out = sorted(found.held_out)[:most_held_out]


def add_lengths(lengths: dict[int, np.ndarray], kind: int, new: np.ndarray) -> None:
    """Count the numbers of tokens of more texts."""
    if len(new):
        counts = np.bincount(new, minlength=len(lengths[kind]))
        counts[: len(lengths[kind])] += lengths[kind]
        lengths[kind] = counts


def count_labels(config: Config, found: Survey, used: Records) -> None:
    """Count the labels of training texts, and the places of those that are labelled."""
    found.has_labels = True
    assert used.labels is not None
    found.labels.update(used.labels)
    if found.label_places:
        labelled = [text for text, label in zip(used.texts, used.labels, strict=True) if label]
        found.label_places.add(text_hashes(labelled, config.data.split_seed, b"label"))


def is_used(config: Config, lengths: np.ndarray, is_training: np.ndarray) -> np.ndarray:
    """Which texts the model learns from, (N,) bool: all for training, without those to drop."""
    if config.data.too_long != "drop" or not config.data.reading.has_end:
        return is_training
    used: np.ndarray = is_training & (lengths <= most_tokens(config))
    return used


def used_tokens(
    config: Config,
    lengths: np.ndarray,
    cut: Callable[[int], np.ndarray],
    is_training: np.ndarray,
) -> np.ndarray:
    """How many tokens of each text the model learns from, (N,): none of those that are not
    used."""
    limits = cut(most_tokens(config)) if config.data.reading.has_end else lengths
    used: np.ndarray = np.where(is_used(config, lengths, is_training), limits, 0)
    return used
