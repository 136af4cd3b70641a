"""Corpora: where texts come from, how they are split, and how they become arrays of tokens.

A corpus is a name (`unicode-names`), a file, a folder of files or a pattern: one text a line or one stream.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kvae.configuration import Config, DataConfig, dotted_value
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError

from .files import STANDARD_INPUT, files_of, whole_files
from .labels import (
    CORPUS_LABELS,
    Lines,
    attribute_ids,
    check_labels,
    note_guessed,
    seen_labels,
    with_attributes,
    without_new_labels,
)
from .large import Large, is_large, large
from .named_corpora import CORPORA, lines_of
from .rules import (
    LONGEST_AUTOMATIC,
    WINDOW,
    check_fixed,
    end_of_learning,
    multiple_of_strides,
    next_gap,
    note_alike,
    note_share,
    note_too_long,
    places_of,
    split_of,
    with_length_for,
)
from .store import StoredRows, StoredStream, StoredTexts, id_type
from .tokenizers import alphabet_of, counting_alphabet, note_unknown


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training: the completed configuration, the alphabet, and tokens of the smallest integer type.

    `train` and `validation` are rows of tokens (N, T); in `windows` mode `train` is the stream itself, (tokens,). `train` may
    lie on disk, `train_texts` are then decoded one by one, and are empty for a stream.
    Their attributes (N,) are indices into `config.model.attributes`, -1 where a label is missing, or None without labels.
    `notes` are sentences for the user: what was skipped, cut, dropped or unknown.
    """

    config: Config
    alphabet: Alphabet
    train: np.ndarray | StoredRows | StoredStream
    validation: np.ndarray
    train_texts: Sequence[str]
    validation_texts: Sequence[str]
    notes: tuple[str, ...]
    train_attribute: np.ndarray | None = None
    validation_attribute: np.ndarray | None = None


def prepare(config: Config) -> Prepared:
    """Read, split and encode what `config.data` names, choosing length, alphabet and attributes where they are open."""
    notes: list[str] = []
    config = settled(config)
    if is_large(config, CORPORA):
        return prepare_large(config)
    train, validation = split_texts(config, notes)
    alphabet = counting_alphabet(config, train.texts)
    if config.data.mode == "windows":
        config = config.with_settings({"model.length": config.model.length or WINDOW})
    else:
        config = with_length(config, alphabet, [*train.texts, *validation.texts])
        train = fitting(config, alphabet, train, config.data.source, notes)
        validation = fitting(
            config, alphabet, validation, config.data.validation or config.data.source, notes
        )
    config = with_attributes(config, train, notes)
    alphabet = alphabet_of(config, alphabet, train.texts)
    config = with_vocabulary_size(config, alphabet)
    note_unknown(alphabet, alphabet.unknown([*train.texts, *validation.texts]), notes)
    rows = (
        stream_of(config, alphabet, train, config.data.source)
        if config.data.mode == "windows"
        else encoded(config, alphabet, train.texts)
    )
    validation, validation_rows = with_rows(
        config, alphabet, validation, config.data.validation or config.data.source
    )
    attribute, validation_attribute = (
        seen_labels(config, train, notes),
        attribute_ids(config, validation),
    )
    note_guessed(validation_attribute, notes)
    note_alike(config, validation_rows, config.data.validation, notes)
    return Prepared(
        config,
        alphabet,
        rows,
        validation_rows,
        train.texts,
        validation.texts,
        tuple(notes),
        attribute,
        validation_attribute,
    )


def prepare_large(config: Config) -> Prepared:
    """As `prepare`, with the tokens to learn from on disk."""
    check_labels(config.data)
    stored = large(config)
    config = with_vocabulary_size(stored.config, stored.alphabet)
    notes = list(stored.notes)
    validation, rows = held_out_rows(
        config, stored.alphabet, held_out_lines(config, stored, notes), notes
    )
    note_alike(config, rows, config.data.validation, notes)
    texts: Sequence[str] = (
        StoredTexts(stored.train, stored.alphabet) if isinstance(stored.train, StoredRows) else ()
    )
    return Prepared(
        config, stored.alphabet, stored.train, rows, texts, validation.texts, tuple(notes)
    )


def held_out_lines(config: Config, stored: Large, notes: list[str]) -> Lines:
    """What is held out of a corpus on disk, or the validation file."""
    if config.data.validation is None:
        return Lines(stored.held_out)
    return read_lines(config.data.validation, None, config.data.mode, notes)


def held_out_rows(
    config: Config, alphabet: Alphabet, lines: Lines, notes: list[str], source: str | None = None
) -> tuple[Lines, np.ndarray]:
    """Texts to evaluate on and their rows (N, T), cut or dropped where they are too long."""
    source = source or config.data.validation or config.data.source
    if config.data.mode != "windows":
        lines = fitting(config, alphabet, lines, source, notes)
    return with_rows(config, alphabet, lines, source)


def with_vocabulary_size(config: Config, alphabet: Alphabet) -> Config:
    """The configuration with V set; `ConfigError` where it says another number."""
    if config.model.vocabulary_size not in (0, len(alphabet)):
        raise ConfigError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, the corpus has {len(alphabet)} symbols with the special "
            f"ones; leave it at 0, and limit the alphabet with data.max_symbols"
        )
    return config.with_settings({"model.vocabulary_size": len(alphabet)})


def settled(config: Config) -> Config:
    """The configuration with files by their full paths, so that a run can be evaluated from any folder, and with the
    settings that suit a named corpus where the model's length is still open."""
    names = ("source", "validation", "labels", "validation_labels")
    sources = {f"data.{name}": getattr(config.data, name) for name in names}
    if STANDARD_INPUT in sources.values():
        raise DataError(
            "standard input cannot be read again when the run is evaluated; save it to a file and give that"
        )
    config = config.with_settings(
        {key: str(Path(name).absolute()) for key, name in sources.items() if is_file(name)}
    )
    if config.data.source not in CORPORA:
        return config
    wanted = CORPORA[config.data.source].settings
    untouched = {
        key: value
        for key, value in wanted.items()
        if dotted_value(config, key) == dotted_value(Config(), key)
    }
    if {"model.tokenizer": config.model.tokenizer, **untouched}["model.tokenizer"] != wanted.get(
        "model.tokenizer", "char"
    ):
        untouched.pop("model.length", None)  # a length in other tokens
    config = config.with_settings(untouched)
    if "model.length" in untouched and config.data.mode == "lines":
        config = config.with_settings(
            {"model.length": multiple_of_strides(config, config.model.length)}
        )
    return config


def entropy_of(config: Config) -> float | None:
    """Nats a text of the corpus that a run is evaluated on, where they are known and its bound is on -log p(x)."""
    corpus = CORPORA.get(config.data.source)
    bare = (
        config.data.validation is None
        and not config.model.attributes
        and config.data.mode != "windows"
    )
    return corpus.entropy if corpus and bare else None


def is_file(name: str | None) -> bool:
    """Whether a source is a path rather than a corpus or nothing."""
    return name is not None and name not in CORPORA and name != CORPUS_LABELS


@dataclass(frozen=True)
class HeldOut:
    """What a trained model is evaluated on: tokens (N, T), texts, notes for the user, attributes (N,) or None."""

    rows: np.ndarray
    texts: list[str]
    notes: tuple[str, ...]
    attribute: np.ndarray | None


def held_out(
    config: Config, alphabet: Alphabet, file: str | None = None, labels: str | None = None
) -> HeldOut:
    """The held-out split of a run's corpus, or all of `file` with the labels of another file."""
    notes: list[str] = []
    if file is not None:
        lines = read_lines(file, labels, config.data.mode, notes)
    elif is_large(config, CORPORA):
        lines = held_out_lines(config, large(config), notes)
    else:
        lines = split_texts(config, notes)[1]
    note_unknown(alphabet, alphabet.unknown(lines.texts), notes)
    lines, rows = held_out_rows(config, alphabet, lines, notes, file)
    attribute = attribute_ids(config, lines)
    note_guessed(attribute, notes)
    note_alike(config, rows, file or config.data.validation, notes)
    return HeldOut(rows, lines.texts, tuple(notes), attribute)


def learned_texts(config: Config, alphabet: Alphabet) -> list[str]:
    """The texts that a run learned from, read again; of a stream, its neighbouring windows. Raises `DataError` where they
    are too many for memory."""
    if is_large(config, CORPORA):
        raise DataError(
            f"{config.data.source}: the texts to learn from are on disk, too many to compare with"
        )
    notes: list[str] = []  # training said them
    lines = split_texts(config, notes)[0]
    return held_out_rows(config, alphabet, lines, notes, config.data.source)[0].texts


def split_texts(config: Config, notes: list[str]) -> tuple[Lines, Lines]:
    """Texts to learn from and texts held out. A stream is one text, and its end is held out."""
    data = config.data
    check_labels(data)
    lines = read_lines(data.source, data.labels, data.mode, notes)
    if data.validation is not None:
        own = CORPUS_LABELS if data.labels and data.validation in CORPORA else None
        return lines, read_lines(data.validation, data.validation_labels or own, data.mode, notes)
    corpus = CORPORA.get(data.source)
    if corpus and corpus.held_out:
        texts = ["\n".join(corpus.held_out())] if data.mode == "windows" else corpus.held_out()
        return lines, Lines(
            texts, [corpus.label(text) for text in texts] if data.labels and corpus.label else None
        )
    if data.mode == "windows":
        learned, held = parts_of_stream(lines.texts[0], config)
        return Lines([learned]), Lines([held])
    train, validation = hold_out(lines, data)
    validation = without_new_labels(validation, train)
    note_share(config, len(validation.texts), len(lines.texts), notes)
    if not train.texts or not validation.texts:
        raise DataError(
            f"{data.source}: needs at least two different lines, one to train on and one to hold out; "
            f"give a longer file, or one more with --validation"
        )
    return train, validation


def holds_lines_out(config: Config) -> bool:
    """Whether the held-out texts are lines of the corpus itself."""
    corpus = CORPORA.get(config.data.source)
    return (
        config.data.validation is None
        and config.data.mode != "windows"
        and not (corpus and corpus.held_out)
    )


def parts_of_stream(stream: str, config: Config) -> tuple[str, str]:
    """What of a stream is to be learned from, and its end, which is held out; words are not cut in two."""
    cut = end_of_learning(config, len(stream))
    if config.model.tokenizer in ("word", "wordpiece"):
        cut = next_gap(stream, cut)
    return stream[:cut], stream[cut:]


def hold_out(lines: Lines, data: DataConfig) -> tuple[Lines, Lines]:
    """Split by a hash of the text, at least one text held out: equal texts fall on the same side, so none leaks."""
    places = places_of(lines.texts, data.split_seed)
    held = split_of(data.split, data.validation_fraction, places).chosen(places)
    return lines.where((~held).tolist()), lines.where(held.tolist())


def read_lines(source: str, labels: str | None, mode: str, notes: list[str]) -> Lines:
    """The texts of a source and, from a file or the corpus, their labels."""
    if labels is None:
        return Lines(read_texts(source, mode, notes))
    if mode == "windows":
        raise ConfigError("data.labels: windows of a stream have no labels; use data.mode=lines")
    if labels == CORPUS_LABELS:
        label = CORPORA[source].label if source in CORPORA else None
        if label is None:
            raise ConfigError(
                f"data.labels is {labels!r}, but {source} has no labels of its own; give a file"
            )
        texts = read_texts(source, mode, notes)
        return Lines(texts, [label(text) for text in texts])
    lines = lines_from(source, notes)
    given = [label.strip() for file in files_of(labels, notes) for label in lines_of(file)]
    if len(given) != len(lines):
        raise DataError(
            f"{labels}: {len(given):,} labels for the {len(lines):,} lines of {source}; "
            f"give one a line, an empty one where a label is missing"
        )
    return without_blanks(Lines(lines, given), source, notes)


def without_blanks(lines: Lines, source: str, notes: list[str]) -> Lines:
    """The lines that hold text; `DataError` where none does."""
    keep = [bool(text.strip()) for text in lines.texts]
    if not all(keep):
        notes.append(f"{source}: {keep.count(False):,} blank lines skipped")
    if not any(keep):
        raise DataError(f"{source}: has no text; give a file with one text a line")
    return lines.where(keep)


def lines_from(source: str, notes: list[str]) -> list[str]:
    """The lines of a named corpus, or of every file that a source names, one after the other."""
    if source in CORPORA:
        return CORPORA[source].texts()
    return [line for file in whole_files(source, notes, CORPORA) for line in lines_of(file)]


def read_texts(source: str, mode: str, notes: list[str]) -> list[str]:
    """The texts of a named corpus or a file; in `windows` mode one text, the whole stream with its line breaks."""
    lines = lines_from(source, notes)
    if mode == "windows":
        return ["\n".join(lines)]
    return without_blanks(Lines(lines), source, notes).texts


def with_length(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> Config:
    """The configuration with T set: the longest text and its end mark, rounded up to what the strides divide."""
    if config.model.length:
        return config
    counts = list(map(alphabet.count, texts))
    over = sum(count >= LONGEST_AUTOMATIC for count in counts)
    return with_length_for(config, max(counts), over, len(texts), alphabet.rules.tokens)


def fitting(
    config: Config, alphabet: Alphabet, lines: Lines, source: str, notes: list[str]
) -> Lines:
    """The texts of `source` that fit T, by `data.too_long`: refuse (an error with the count), cut or drop."""
    texts, length, tokens = lines.texts, config.model.length, alphabet.rules.tokens
    counts = list(map(alphabet.count, texts))
    if config.data.mode == "fixed":
        other = sum(count != length for count in counts)
        if other:
            raise DataError(
                f"{source}: {other:,} of {len(texts):,} lines do not have exactly {length} {tokens}, as "
                f"data.mode=fixed wants; leave them out, or train with data.mode=lines"
            )
        check_fixed(config, source, tokens)
        return lines
    room = length - 1
    long = sum(count > room for count in counts)
    if not long:
        return lines
    note_too_long(config, source, long, len(texts), max(counts), tokens, notes)
    if config.data.too_long == "cut":
        cut = [
            alphabet.cut(text, room) if count > room else text
            for text, count in zip(texts, counts, strict=True)
        ]
        return Lines(cut, lines.labels)
    return lines.where([count <= room for count in counts])


def with_rows(
    config: Config, alphabet: Alphabet, lines: Lines, source: str
) -> tuple[Lines, np.ndarray]:
    """Texts and their rows of tokens (N, T): lines that fit, or neighbouring windows of a stream, a fixed set that covers
    it."""
    if config.data.mode != "windows":
        return lines, encoded(config, alphabet, lines.texts)
    length = config.model.length
    stream = stream_of(config, alphabet, lines, source)
    rows = stream[: len(stream) // length * length].reshape(-1, length)
    if config.model.tokenizer != "char":
        return Lines(alphabet.decode(rows)), rows
    text = lines.texts[0]
    return Lines([text[start : start + length] for start in range(0, rows.size, length)]), rows


def stream_of(config: Config, alphabet: Alphabet, lines: Lines, source: str) -> np.ndarray:
    """The ids of a stream, at least a window's."""
    ids, length = stream_ids(alphabet, lines.texts), config.model.length
    if len(ids) < length:
        raise DataError(
            f"{source}: {len(ids)} {alphabet.rules.tokens} to train on or to hold out, fewer than one window of {length}; "
            f"give a longer file or a smaller model.length"
        )
    return ids


def encoded(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """Texts as rows of tokens (N, T): lines end with END and PAD, windows and fixed lines fill the row."""
    length = config.model.length
    if config.data.mode != "lines":
        return stream_ids(alphabet, texts).reshape(-1, length)
    return alphabet.encode(texts, length).astype(id_type(alphabet))


def stream_ids(alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """The ids of all tokens of `texts`, one after the other."""
    return np.fromiter(itertools.chain.from_iterable(map(alphabet.ids, texts)), id_type(alphabet))
