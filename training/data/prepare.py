"""The data of a run: for training, for evaluation, and the training texts themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError
from kvae.texts.records import Records
from kvae.token_settings import check_tokens

from ..messages import Say, quiet
from .columns import MemoryColumns
from .corpora import Corpus, corpus_in_memory, training_records, with_resolved_data
from .given import given_source
from .held_out import note_blank, note_low_variety, texts_and_rows, texts_of
from .labels import check_labels, held_out_attributes
from .rows import Rows, Stream, Texts
from .sources import (
    GIVEN,
    Source,
    as_read,
    cached_source,
    source_of,
    stream_pieces,
    training_source,
    validation_source,
)
from .splits import note_share
from .standard_input import with_kept_input
from .stores import is_on_disk, stored_corpus
from .streams import parts, training_end
from .survey import HELD_OUT, survey
from .tokenizers import note_unknown


@dataclass(frozen=True)
class Prepared:
    """A corpus that is ready for training: the completed configuration, the alphabet, and the
    tokens.

    `train` has the rows of tokens (N, T); in `windows` mode it is the stream itself, (tokens,). It
    lies in memory or on disk. `validation` are rows (N, T) of the smallest integer type.
    `train_texts` are decoded one by one, and empty for a stream. The attributes (N,) are indices
    into `config.model.attributes`, -1 where a label is unknown; None without labels. `notes` are
    messages for the user: what was skipped, cut, dropped or unknown.
    """

    config: Config
    alphabet: Alphabet
    train: Rows | Stream
    validation: np.ndarray
    train_texts: Sequence[str]
    validation_texts: Sequence[str]
    notes: tuple[str, ...]
    train_attribute: np.ndarray | None = None
    validation_attribute: np.ndarray | None = None


@dataclass(frozen=True)
class HeldOut:
    """Held-out data for an evaluation: tokens (N, T), texts, notes for the user, attribute indices
    (N,) or None."""

    rows: np.ndarray
    texts: list[str]
    notes: tuple[str, ...]
    attribute: np.ndarray | None


def prepare(config: Config, say: Say = quiet, texts: Any = None, labels: Any = None) -> Prepared:
    """Read, split and encode the corpus of `config.data`, or the given `texts`. Chooses length,
    alphabet and attributes if they are not set.

    `texts` are a list, an iterator, an array, a series, a table or a dataset, and `labels` one for
    each text, as `given.given_source` says. `say` is called with the progress of long work. Raises
    `ConfigError` or `DataError`.
    """
    source = None
    if texts is not None:
        source = read_given(config, texts, labels)
        config = of_given_texts(config, labels)
    config = with_resolved_data(with_kept_input(config, say))
    corpus, validation, name = read_corpus(config, say, source)
    notes, alphabet = list(corpus.notes), corpus.alphabet
    if validation is not None:
        note_unknown(alphabet, alphabet.unknown(validation.texts), notes, name)
    held = of_records(corpus.config, alphabet, validation or corpus.held_out, name, notes)
    train_texts = Texts(corpus.train, alphabet) if isinstance(corpus.train, Rows) else ()
    return Prepared(
        corpus.config,
        alphabet,
        corpus.train,
        held.rows,
        train_texts,
        held.texts,
        held.notes,
        corpus.attribute,
        held.attribute,
    )


def read_given(config: Config, texts: Any, labels: Any = None) -> Source:
    """The source of given texts, in the columns and the case that the settings say."""
    data = config.data
    return as_read(config, given_source(texts, labels, data.column, data.label_column))


def of_given_texts(config: Config, labels: Any) -> Config:
    """The configuration of a run on given texts, with labels or without (None)."""
    if config.data.storage == "disk":
        raise ConfigError("given texts are kept in memory; for data.storage=disk name a file")
    given = None if labels is None else GIVEN
    return config.with_settings({"data.source": GIVEN, "data.labels": given})


def read_corpus(
    config: Config, say: Say, given: Source | None
) -> tuple[Corpus, Records | None, str]:
    """The corpus of a configuration or of given texts, its held-out texts if they come from
    elsewhere, and the name of their source."""
    check_labels(config.data)
    check_tokens(config)
    source, other = given or training_source(config), validation_source(config)
    validation = texts_of(config, other) if other else None
    read = stored_corpus if is_on_disk(config) else corpus_in_memory
    corpus = read(config, source, validation, say)
    if other:
        corpus.notes.extend(note for note in other.notes if note not in corpus.notes)
    return corpus, validation, other.name if other else source.name


def of_records(
    config: Config, alphabet: Alphabet, records: Records, name: str, notes: list[str]
) -> HeldOut:
    """Held-out data from the texts of the source `name`. Texts that are too long are cut or
    dropped."""
    records, rows = texts_and_rows(config, alphabet, records, name, notes)
    attribute = held_out_attributes(config, records.labels, len(rows), notes)
    given = None if name == config.data.source else name
    note_low_variety(config, rows, given, notes)
    return HeldOut(rows, records.texts, tuple(notes), attribute)


def held_out(
    config: Config,
    alphabet: Alphabet,
    file: str | None = None,
    labels: Any = None,
    texts: Any = None,
) -> HeldOut:
    """The held-out split of a run's corpus, all texts of `file` with the labels in the file
    `labels`, or given `texts` with given `labels`."""
    if texts is not None:
        source = read_given(config, texts, labels)
        records, name, notes = texts_of(config, source), source.name, source.notes
    elif file is None:
        records, name, notes = held_out_records(config)
    else:
        source = source_of(config, file, labels, config.data.label_column)
        records, name, notes = texts_of(config, source), file, source.notes
    note_unknown(alphabet, alphabet.unknown(records.texts), notes)
    return of_records(config, alphabet, records, name, notes)


def held_out_records(config: Config) -> tuple[Records, str, list[str]]:
    """The held-out texts of a run's corpus, the name of their source, and notes."""
    source = validation_source(config)
    if source:
        return texts_of(config, source), source.name, source.notes
    source = training_source(config)
    if is_on_disk(config):
        corpus = stored_corpus(config, source, None, quiet)
        return corpus.held_out, source.name, corpus.notes
    if config.data.reading.is_stream:
        return Records([stream_part(config, is_training=False)]), source.name, source.notes
    found = survey(config, source, Alphabet(()), MemoryColumns(), True, None, quiet)
    note_blank(source, found.blank, found.texts(), source.notes)
    note_share(config, found.texts(HELD_OUT), found.texts(), source.notes)
    return found.held_out_records(config.model.attributes), source.name, source.notes


def stream_part(config: Config, is_training: bool) -> str:
    """The training part of a stream, or its end."""
    text = "".join(stream_pieces(training_source(config)))
    cut = len(text) if config.data.validation else training_end(config, len(text))
    each = parts([text], cut, config.model.tokenizer)
    return "".join(part for belongs, part in each if belongs == is_training)


def training_texts(config: Config, alphabet: Alphabet) -> list[str]:
    """The training texts of a run, read again; of a stream, its consecutive windows.

    Raises `DataError` if they are too many for memory.
    """
    if is_on_disk(config):
        raise DataError(
            f"{config.data.source}: the training texts are on disk, too many to compare with"
        )
    if config.data.reading.is_stream:
        texts = [stream_part(config, is_training=True)]
    else:
        source, columns = cached_source(training_source(config)), MemoryColumns()
        survey(config, source, Alphabet(()), columns, not validation_source(config), None, quiet)
        blocks = training_records(source, columns, quiet)
        texts = [text for records in blocks for text in records.texts]
    notes: list[str] = []  # training has reported them
    return texts_and_rows(config, alphabet, Records(texts), config.data.source, notes)[0].texts
