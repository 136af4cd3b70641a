"""Corpora: from the settings of a run to its rows of tokens, by two passes over the texts.

The first pass looks (`survey`), open settings become numbers (`settle`), the second pass writes
(`rows`). Columns lie in memory, or on disk in a store (`stores`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvae.configuration import Config, dotted_value
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import DataError
from kvae.texts.files import STANDARD_INPUT
from kvae.texts.records import Records

from ..messages import Say
from .columns import Columns, MemoryColumns, id_type
from .labels import check_visible
from .lengths import multiple_of_strides
from .named_corpora import CORPORA
from .preset_tokenizers import with_preset_tokenizer
from .rows import Rows, Stream, attribute_in, rows_in, write_rows
from .settle import Settled, settle
from .sources import CORPUS_LABELS, GIVEN, Source, cached_source, stream_pieces, validation_source
from .streams import note_capped, write_stream
from .survey import HELD_OUT, TRAINING, Survey, numbered, survey
from .tokenizers import counting_alphabet


@dataclass(frozen=True)
class Corpus:
    """A corpus that was read: its completed configuration, its alphabet, the training tokens and
    their attributes, and the held-out texts. Of a stream these are one text, its end."""

    config: Config
    alphabet: Alphabet
    train: Rows | Stream
    attribute: np.ndarray | None
    held_out: Records
    notes: list[str]


def corpus_in_memory(
    config: Config, source: Source, validation: Records | None, say: Say
) -> Corpus:
    """The corpus of a source, in memory. `validation` are held-out texts from elsewhere."""
    columns, notes = MemoryColumns(), list[str]()
    settled, held_out = write_corpus(
        config, cached_source(source), validation, columns, None, notes, say
    )
    return corpus_in(settled, columns, held_out, notes)


def corpus_in(settled: Settled, columns: Columns, held_out: Records, notes: list[str]) -> Corpus:
    """The corpus that `write_corpus` wrote to columns."""
    config, alphabet = settled.config, settled.alphabet
    train = (
        Stream(columns.column("tokens", id_type(alphabet)))
        if config.data.reading.is_stream
        else rows_in(config, alphabet, columns)
    )
    return Corpus(config, alphabet, train, attribute_in(config, columns), held_out, notes)


def write_corpus(
    config: Config,
    source: Source,
    validation: Records | None,
    columns: Columns,
    most_held_out: int | None,
    notes: list[str],
    say: Say,
) -> tuple[Settled, Records]:
    """Read a source and write its tokens to columns; returns what was settled, and the held-out
    texts.

    At most `most_held_out` texts or windows are held out. Raises `ConfigError` or `DataError`.
    """
    if config.data.reading.is_stream:
        found_notes: list[str] = []
        settled, text = write_stream(
            config, source.name, lambda: stream_pieces(source), columns, most_held_out, found_notes
        )
        notes += [*source.notes, *found_notes]
        return settled, Records([text])
    is_split = validation is None
    counting, found = surveyed(config, source, columns, is_split, most_held_out, say)
    notes += source.notes
    settled = settle(config, counting, found, source, validation, notes)
    if most_held_out:
        note_capped(most_held_out, found.texts(HELD_OUT), "lines", notes)
    write_rows(settled.config, settled.alphabet, source, columns, settled.label_split, say)
    attribute = attribute_in(settled.config, columns)
    if attribute is not None:
        check_visible(settled.config, attribute, found.labels.total() - found.labels[""], notes)
    return settled, found.held_out_records(settled.config.model.attributes)


def surveyed(
    config: Config,
    source: Source,
    columns: Columns,
    is_split: bool,
    most_held_out: int | None,
    say: Say,
) -> tuple[Alphabet, Survey]:
    """The alphabet that texts are counted with, and what the first pass over them found."""
    counting = counting_alphabet(
        config, lambda: training_lines(config, source, columns, is_split, say)
    )
    return counting, survey(config, source, counting, columns, is_split, most_held_out, say)


def training_lines(
    config: Config, source: Source, columns: Columns, is_split: bool, say: Say
) -> Iterator[str]:
    """Yield the lines of the training texts."""
    if not len(columns.column("kinds", np.uint8)):
        survey(config, source, Alphabet(()), columns, is_split, None, say)
    for records in training_records(source, columns, say):
        for text in records.texts:
            yield from text.split("\n")


def training_records(source: Source, columns: Columns, say: Say) -> Iterator[Records]:
    """Yield the training texts that a survey has found, in blocks."""
    kinds = columns.column("kinds", np.uint8)
    for number, records in numbered(source, say):
        yield records.where((kinds.read(number, len(records.texts)) == TRAINING).tolist())


def with_resolved_data(config: Config) -> Config:
    """The configuration with absolute paths, the tokenizer of a preset that it starts from, and the
    settings of a named corpus.

    With absolute paths a run can be evaluated from any folder. A setting of the corpus replaces a
    default value only. Raises `DataError` for standard input, which `with_kept_input` replaces.
    """
    names = ("source", "validation", "labels", "validation_labels", "vocabulary")
    sources = {f"data.{name}": getattr(config.data, name) for name in names}
    if STANDARD_INPUT in sources.values():
        raise DataError(
            "only the texts to train on can come from standard input, which is read once; save the "
            "other to a file and give that"
        )
    config = config.with_settings(
        {key: str(Path(name).absolute()) for key, name in sources.items() if is_path(name)}
    )
    config = with_preset_tokenizer(config)
    if config.data.source not in CORPORA:
        return config
    corpus_settings = CORPORA[config.data.source].settings
    defaults = {
        key: value
        for key, value in corpus_settings.items()
        if dotted_value(config, key) == dotted_value(Config(), key)
    }
    tokenizer = defaults.get("model.tokenizer", config.model.tokenizer)
    if tokenizer != corpus_settings.get("model.tokenizer", "char"):
        # They belong to another tokenizer.
        defaults = {
            key: value
            for key, value in defaults.items()
            if key not in ("model.length", "model.token_pattern")
        }
    config = config.with_settings(defaults)
    if "model.length" in defaults and config.data.reading.has_end:
        config = config.with_settings(
            {"model.length": multiple_of_strides(config, config.model.length)}
        )
    return config


def is_path(name: str | None) -> bool:
    """Whether a source is a path, and not the name of a corpus, given texts or None."""
    return name is not None and name not in CORPORA and name not in (CORPUS_LABELS, GIVEN)


def holds_lines_out(config: Config) -> bool:
    """Whether the held-out texts are lines of the training corpus."""
    return not config.data.reading.is_stream and validation_source(config) is None


def entropy_of(config: Config) -> float | None:
    """Entropy of the evaluated corpus in nats per text; None if it is unknown or the bound is not
    on -log p(x)."""
    corpus = CORPORA.get(config.data.source)
    is_unconditional = (
        config.data.validation is None
        and not config.model.attributes
        and not config.data.reading.is_stream
    )
    return corpus.entropy if corpus and is_unconditional else None
