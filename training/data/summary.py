"""What a corpus is: counts, lengths, symbols, labels, repeated texts, and some of the texts as a
model will see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import filterfalse
from typing import Any

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.texts.records import is_blank
from kvae.token_settings import check_tokens

from ..messages import Say
from .blocks import KINDS, PIECES
from .columns import MemoryColumns
from .corpora import surveyed, with_resolved_data
from .held_out import note_blank, texts_of
from .labels import check_labels
from .lengths import most_tokens
from .settle import unknown_units, with_length
from .sources import Source, cached_source, training_source, validation_source
from .splits import text_hashes
from .standard_input import with_kept_input
from .stores import is_on_disk
from .survey import HELD_OUT, TRAINING, Survey
from .tokenizers import alphabet_of_counts

QUANTILES = {"shortest": 0.0, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "longest": 1.0}
"""Quantiles of the lengths, by their names in a summary."""

BINS = 12
"""Number of bars in the histogram of the lengths."""


def summary(config: Config, examples: int, say: Say) -> dict[str, Any]:
    """What the corpus of a configuration is, for JSON.

    Lengths are in tokens, without the end mark. `examples` texts at equal distances are shown as
    the model will see them. A stream is shown as its lines. Raises `ConfigError` or `DataError`.
    """
    config = with_resolved_data(with_kept_input(config, say)).with_settings(
        {"data.too_long": "cut"}
    )
    if config.data.reading.is_stream:
        config = config.with_settings({"data.mode": "lines"})
    check_labels(config.data)
    check_tokens(config)
    source, other, columns = training_source(config), validation_source(config), MemoryColumns()
    source = source if is_on_disk(config) else cached_source(source)
    validation, is_split = texts_of(config, other) if other else None, other is None
    counting, found = surveyed(config, source, columns, is_split, 1, say)
    notes = list(source.notes)
    note_blank(source, found.blank, found.texts(), notes)
    config = with_length(config, counting, found, validation)
    alphabet = alphabet_of_counts(config, counting, found.counter.counts())
    held = len(validation.texts) if validation else found.texts(HELD_OUT)
    texts = list(evenly_spaced(source, found.texts(), examples))
    return {
        "source": source.name,
        "texts": found.texts(),
        "blank": found.blank,
        "different": different_texts(config, source),
        "held_out": held,
        "tokens": alphabet.rules.tokens,
        "lengths": quantiles(found),
        "histogram": histogram(found),
        "model_length": config.model.length,
        "too_long": found.longer(most_tokens(config)),
        **symbols(config, alphabet, found),
        "labels": dict(found.labels.most_common(20)) if found.has_labels else None,
        "examples": [as_seen(alphabet, text, most_tokens(config)) for text in texts],
        "notes": notes,
    }


def different_texts(config: Config, source: Source) -> int:
    """The number of different texts, by their hashes."""
    hashes = [
        text_hashes(filterfalse(is_blank, records.texts), config.data.split_seed)
        for records in source.read()
    ]
    return len(np.unique(np.concatenate(hashes)))


def all_lengths(found: Survey) -> np.ndarray:
    """The number of texts by their number of tokens."""
    longest = found.longest()
    return sum(
        (
            np.pad(found.lengths[kind], (0, longest + 1 - len(found.lengths[kind])))
            for kind in (TRAINING, HELD_OUT)
        ),
        np.zeros(longest + 1, np.int64),
    )


def quantiles(found: Survey) -> dict[str, int]:
    """The lengths at `QUANTILES`."""
    totals = np.cumsum(all_lengths(found))
    places = {name: max(1, share * totals[-1]) for name, share in QUANTILES.items()}
    return {name: int(np.searchsorted(totals, place)) for name, place in places.items()}


def histogram(found: Survey) -> list[tuple[int, int, int]]:
    """Shortest and longest length of each bar, and its number of texts."""
    counts, width = all_lengths(found), -(-(found.longest() + 1) // BINS)
    starts = range(0, len(counts), width)
    return [
        (start, start + width - 1, int(counts[start : start + width].sum())) for start in starts
    ]


def symbols(config: Config, alphabet: Alphabet, found: Survey) -> dict[str, Any]:
    """How many symbols the training texts have, how many of them the alphabet has, and the share of
    those outside it.

    Of pieces only the units outside the alphabet are counted, so `kinds` is None for them.
    """
    counts = found.counter.counts()
    unknown = unknown_units(alphabet, counts)
    if KINDS[alphabet.tokenizer] is PIECES:
        lengths = found.lengths[TRAINING]
        tokens = int(lengths @ np.minimum(np.arange(len(lengths)), most_tokens(config)))
        kinds, frequent = None, Counter[str]()
    else:
        tokens, kinds, frequent = counts.total(), len(counts), counts
    return {
        "kinds": kinds,
        "symbols": len(alphabet.symbols),
        "unknown_share": unknown.total() / max(1, tokens),
        "most_frequent": [symbol for symbol, _ in frequent.most_common(20)],
    }


def evenly_spaced(source: Source, texts: int, count: int) -> Iterator[str]:
    """Yield `count` of the texts at equal distances."""
    chosen = set(np.linspace(0, texts - 1, min(count, texts)).astype(np.int64).tolist())
    number = 0
    for records in source.read():
        for text in filterfalse(is_blank, records.texts):
            if number in chosen:
                yield text
            number += 1


def as_seen(alphabet: Alphabet, text: str, most: int) -> str:
    """A text as the model will see it: cut, and with the mark for unknown symbols."""
    return alphabet.decode(np.array([alphabet.ids(alphabet.cut(text, most))], np.int32))[0]
