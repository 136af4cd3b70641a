"""Open settings become numbers: the length, the alphabet and the attributes that a corpus needs.

Everything that the user should know about the training texts is noted or refused here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.texts.records import Records

from .held_out import note_blank
from .labels import with_attributes
from .lengths import (
    LONGEST_AUTOMATIC,
    check_lengths,
    most_tokens,
    note_too_long,
    with_automatic_length,
)
from .sources import Source
from .splits import Split, note_share
from .survey import HELD_OUT, TRAINING, Survey
from .tokenizers import alphabet_of_counts, note_unknown


@dataclass(frozen=True)
class Settled:
    """What follows from the first pass. `label_split` has the training texts that may show their
    label; None: all may."""

    config: Config
    alphabet: Alphabet
    label_split: Split | None = None


def settle(
    config: Config,
    counting: Alphabet,
    found: Survey,
    source: Source,
    validation: Records | None,
    notes: list[str],
) -> Settled:
    """Settle a corpus of texts from what the first pass `found`.

    `counting` is the alphabet that it counted with. `validation` are held-out texts from elsewhere;
    None: they are in the survey. Raises `ConfigError` or `DataError`.
    """
    note_blank(source, found.blank, found.texts(), notes)
    held = found.texts(HELD_OUT)
    if not found.texts(TRAINING) or (validation is None and not held):
        raise DataError(
            f"{source.name}: needs at least two different lines, one to train on and one "
            f"to hold out; give a longer file, or another file with --validation"
        )
    if validation is None:
        note_share(config, held, found.texts(), notes)
    config = with_length(config, counting, found, validation)
    check_training_lengths(config, counting, found, source, notes)
    config = with_attributes(config, found.labels if found.has_labels else None, notes)
    counts = found.counter.counts()
    alphabet = alphabet_of_counts(config, counting, counts)
    config = with_vocabulary_size(config, alphabet)
    unknown = unknown_units(alphabet, counts) + alphabet.unknown(found.held_out_records(()).texts)
    note_unknown(alphabet, unknown, notes)
    return Settled(config, alphabet, label_split_of(config, found))


def with_length(
    config: Config, alphabet: Alphabet, found: Survey, validation: Records | None
) -> Config:
    """The configuration with T set: the longest text and its end mark, rounded up to a multiple of
    the strides."""
    if config.model.length:
        return config
    counts = list(map(alphabet.count, validation.texts if validation else ()))
    over = found.longer(LONGEST_AUTOMATIC - 1) + sum(n >= LONGEST_AUTOMATIC for n in counts)
    return with_automatic_length(
        config,
        max([found.longest(), *counts]),
        over,
        found.texts() + len(counts),
        alphabet.rules.tokens,
    )


def check_training_lengths(
    config: Config, alphabet: Alphabet, found: Survey, source: Source, notes: list[str]
) -> None:
    """Check the lengths of the training texts against T. Raises `ConfigError` or `DataError`."""
    texts, tokens = found.texts(TRAINING), alphabet.rules.tokens
    if config.data.reading.is_fixed:
        right = found.lengths[TRAINING][config.model.length : config.model.length + 1].sum()
        check_lengths(config, source.name, texts - int(right), texts, tokens)
        return
    too_long = found.longer(most_tokens(config), TRAINING)
    if too_long:
        longest = found.longest(TRAINING)
        note_too_long(config, source.name, too_long, texts, longest, tokens, notes)


def label_split_of(config: Config, found: Survey) -> Split | None:
    """The split of the labelled training texts into those that may show their label and others."""
    share = config.data.labelled_fraction
    if share == 1 or not config.model.attributes:
        return None
    if not found.label_places or config.data.split == "texts":
        return Split(share, share if share else -1.0)
    return found.label_places.split(config.data.split)


def unknown_units(alphabet: Alphabet, counts: Counter[str]) -> Counter[str]:
    """The units among counted symbols that the alphabet lacks."""
    known = set(alphabet.symbols)
    return Counter({symbol: n for symbol, n in counts.items() if symbol not in known})


def with_vocabulary_size(config: Config, alphabet: Alphabet) -> Config:
    """The configuration with V set. Raises `ConfigError` if it has another number already."""
    if config.model.vocabulary_size not in (0, len(alphabet)):
        raise ConfigError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, the corpus has "
            f"{len(alphabet)} symbols with the special ones; leave it at 0, and limit the "
            f"alphabet with data.max_symbols"
        )
    return config.with_settings({"model.vocabulary_size": len(alphabet)})
