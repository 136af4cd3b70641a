"""Corpora: reading texts, splitting them, and encoding them as arrays of tokens.

A corpus is a name (`unicode-names`), a file, a folder or a pattern. It holds one text per line, or
one stream.
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
from kvae.texts.files import STANDARD_INPUT, files_of, intact_files

from .labels import (
    CORPUS_LABELS,
    Lines,
    attribute_ids,
    check_labels,
    note_unlabelled,
    training_labels,
    with_attributes,
    without_new_labels,
)
from .large import LargeCorpus, is_large, large_corpus
from .named_corpora import CORPORA, lines_of
from .rules import (
    LONGEST_AUTOMATIC,
    WINDOW_LENGTH,
    check_fixed_length,
    multiple_of_strides,
    next_whitespace,
    note_low_variety,
    note_share,
    note_too_long,
    split_of,
    text_hashes,
    training_end,
    with_automatic_length,
)
from .store import StoredRows, StoredStream, StoredTexts, id_type
from .tokenizers import alphabet_of, counting_alphabet, note_unknown


@dataclass(frozen=True)
class Prepared:
    """A corpus that is ready for training: the completed configuration, the alphabet, and the
    tokens.

    `train` and `validation` are rows of tokens (N, T) of the smallest integer type. In `windows`
    mode `train` is the stream itself, (tokens,). `train` may be on disk. Then `train_texts` are
    decoded one by one, or empty for a stream. The attributes (N,) are indices into
    `config.model.attributes`, -1 where a label is unknown; None without labels. `notes` are
    messages for the user: what was skipped, cut, dropped or unknown.
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
    """Read, split and encode the corpus of `config.data`. Chooses length, alphabet and attributes
    if they are not set.

    Raises `ConfigError` or `DataError`.
    """
    notes: list[str] = []
    config = with_resolved_data(config)
    if is_large(config, CORPORA):
        return prepare_large(config)
    train, validation = split_texts(config, notes)
    validation_source = config.data.validation or config.data.source
    alphabet = counting_alphabet(config, train.texts)
    if config.data.mode == "windows":
        config = config.with_settings({"model.length": config.model.length or WINDOW_LENGTH})
    else:
        config = with_length(config, alphabet, [*train.texts, *validation.texts])
        train = fit_to_length(config, alphabet, train, config.data.source, notes)
        validation = fit_to_length(config, alphabet, validation, validation_source, notes)
    config = with_attributes(config, train, notes)
    alphabet = alphabet_of(config, alphabet, train.texts)
    config = with_vocabulary_size(config, alphabet)
    note_unknown(alphabet, alphabet.unknown([*train.texts, *validation.texts]), notes)
    rows = (
        stream_of(config, alphabet, train, config.data.source)
        if config.data.mode == "windows"
        else encode_rows(config, alphabet, train.texts)
    )
    validation, validation_rows = lines_and_rows(config, alphabet, validation, validation_source)
    attribute = training_labels(config, train, notes)
    validation_attribute = attribute_ids(config, validation)
    note_unlabelled(validation_attribute, notes)
    note_low_variety(config, validation_rows, config.data.validation, notes)
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
    """`prepare` for a corpus whose training tokens are kept on disk."""
    check_labels(config.data)
    stored = large_corpus(config)
    config = with_vocabulary_size(stored.config, stored.alphabet)
    notes = list(stored.notes)
    lines = held_out_lines(config, stored, notes)
    validation, rows = held_out_rows(config, stored.alphabet, lines, notes)
    note_low_variety(config, rows, config.data.validation, notes)
    texts: Sequence[str] = (
        StoredTexts(stored.train, stored.alphabet) if isinstance(stored.train, StoredRows) else ()
    )
    return Prepared(
        config, stored.alphabet, stored.train, rows, texts, validation.texts, tuple(notes)
    )


def held_out_lines(config: Config, stored: LargeCorpus, notes: list[str]) -> Lines:
    """The held-out lines of a corpus on disk, or those of the validation file."""
    if config.data.validation is None:
        return Lines(stored.held_out)
    return read_lines(config.data.validation, None, config.data.mode, notes)


def held_out_rows(
    config: Config, alphabet: Alphabet, lines: Lines, notes: list[str], source: str | None = None
) -> tuple[Lines, np.ndarray]:
    """Held-out texts and their rows (N, T). Texts that are too long are cut or dropped."""
    source = source or config.data.validation or config.data.source
    if config.data.mode != "windows":
        lines = fit_to_length(config, alphabet, lines, source, notes)
    return lines_and_rows(config, alphabet, lines, source)


def with_vocabulary_size(config: Config, alphabet: Alphabet) -> Config:
    """The configuration with V set. Raises `ConfigError` if it has another number already."""
    if config.model.vocabulary_size not in (0, len(alphabet)):
        raise ConfigError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, the corpus has "
            f"{len(alphabet)} symbols with the special ones; leave it at 0, and limit the "
            f"alphabet with data.max_symbols"
        )
    return config.with_settings({"model.vocabulary_size": len(alphabet)})


def with_resolved_data(config: Config) -> Config:
    """The configuration with absolute paths and with the settings of a named corpus.

    With absolute paths a run can be evaluated from any folder. A setting of the corpus replaces a
    default value only. Raises `DataError` for standard input.
    """
    names = ("source", "validation", "labels", "validation_labels")
    sources = {f"data.{name}": getattr(config.data, name) for name in names}
    if STANDARD_INPUT in sources.values():
        raise DataError(
            "standard input cannot be read again when the run is evaluated; save it to a file and "
            "give that"
        )
    config = config.with_settings(
        {key: str(Path(name).absolute()) for key, name in sources.items() if is_path(name)}
    )
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
        defaults.pop("model.length", None)  # the length is in tokens of another tokenizer
    config = config.with_settings(defaults)
    if "model.length" in defaults and config.data.mode == "lines":
        config = config.with_settings(
            {"model.length": multiple_of_strides(config, config.model.length)}
        )
    return config


def entropy_of(config: Config) -> float | None:
    """Entropy of the evaluated corpus in nats per text; None if it is unknown or the bound is not
    on -log p(x)."""
    corpus = CORPORA.get(config.data.source)
    is_unconditional = (
        config.data.validation is None
        and not config.model.attributes
        and config.data.mode != "windows"
    )
    return corpus.entropy if corpus and is_unconditional else None


def is_path(name: str | None) -> bool:
    """Whether a source is a path, and not the name of a corpus or None."""
    return name is not None and name not in CORPORA and name != CORPUS_LABELS


@dataclass(frozen=True)
class HeldOut:
    """Held-out data for an evaluation: tokens (N, T), texts, notes for the user, attribute indices
    (N,) or None."""

    rows: np.ndarray
    texts: list[str]
    notes: tuple[str, ...]
    attribute: np.ndarray | None


def held_out(
    config: Config, alphabet: Alphabet, file: str | None = None, labels: str | None = None
) -> HeldOut:
    """The held-out split of a run's corpus, or all texts of `file` with the labels in the file
    `labels`."""
    notes: list[str] = []
    if file is not None:
        lines = read_lines(file, labels, config.data.mode, notes)
    elif is_large(config, CORPORA):
        lines = held_out_lines(config, large_corpus(config), notes)
    else:
        lines = split_texts(config, notes)[1]
    note_unknown(alphabet, alphabet.unknown(lines.texts), notes)
    lines, rows = held_out_rows(config, alphabet, lines, notes, file)
    attribute = attribute_ids(config, lines)
    note_unlabelled(attribute, notes)
    note_low_variety(config, rows, file or config.data.validation, notes)
    return HeldOut(rows, lines.texts, tuple(notes), attribute)


def training_texts(config: Config, alphabet: Alphabet) -> list[str]:
    """The training texts of a run, read again; of a stream, its consecutive windows.

    Raises `DataError` if they are too many for memory.
    """
    if is_large(config, CORPORA):
        raise DataError(
            f"{config.data.source}: the training texts are on disk, too many to compare with"
        )
    notes: list[str] = []  # training has reported them
    lines = split_texts(config, notes)[0]
    return held_out_rows(config, alphabet, lines, notes, config.data.source)[0].texts


def split_texts(config: Config, notes: list[str]) -> tuple[Lines, Lines]:
    """The training texts and the held-out texts. A stream is one text, and its end is held out."""
    data = config.data
    check_labels(data)
    lines = read_lines(data.source, data.labels, data.mode, notes)
    if data.validation is not None:
        own_labels = CORPUS_LABELS if data.labels and data.validation in CORPORA else None
        labels = data.validation_labels or own_labels
        return lines, read_lines(data.validation, labels, data.mode, notes)
    corpus = CORPORA.get(data.source)
    if corpus and corpus.held_out:
        texts = ["\n".join(corpus.held_out())] if data.mode == "windows" else corpus.held_out()
        return lines, Lines(
            texts, [corpus.label(text) for text in texts] if data.labels and corpus.label else None
        )
    if data.mode == "windows":
        training, held_out_end = split_stream(lines.texts[0], config)
        return Lines([training]), Lines([held_out_end])
    train, validation = hold_out(lines, data)
    validation = without_new_labels(validation, train)
    note_share(config, len(validation.texts), len(lines.texts), notes)
    if not train.texts or not validation.texts:
        raise DataError(
            f"{data.source}: needs at least two different lines, one to train on and one to hold "
            f"out; give a longer file, or another file with --validation"
        )
    return train, validation


def holds_lines_out(config: Config) -> bool:
    """Whether the held-out texts are lines of the training corpus."""
    corpus = CORPORA.get(config.data.source)
    return (
        config.data.validation is None
        and config.data.mode != "windows"
        and not (corpus and corpus.held_out)
    )


def split_stream(stream: str, config: Config) -> tuple[str, str]:
    """The training part of a stream, and its end, which is held out. Words are not cut in two."""
    cut = training_end(config, len(stream))
    if config.model.tokenizer in ("word", "wordpiece"):
        cut = next_whitespace(stream, cut)
    return stream[:cut], stream[cut:]


def hold_out(lines: Lines, data: DataConfig) -> tuple[Lines, Lines]:
    """The training and the held-out lines, split by a hash of the text.

    At least one text is held out. Equal texts are on the same side, so no text is in both.
    """
    places = text_hashes(lines.texts, data.split_seed)
    is_held_out = split_of(data.split, data.validation_fraction, places).contains(places)
    return lines.where((~is_held_out).tolist()), lines.where(is_held_out.tolist())


def read_lines(source: str, labels: str | None, mode: str, notes: list[str]) -> Lines:
    """The texts of a source, and their labels from a file or from the corpus itself. Raises
    `ConfigError` or `DataError`."""
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
    values = [label.strip() for file in files_of(labels, notes) for label in lines_of(file)]
    if len(values) != len(lines):
        raise DataError(
            f"{labels}: {len(values):,} labels for the {len(lines):,} lines of {source}; "
            f"give one label per line, and an empty line for an unknown label"
        )
    return without_blanks(Lines(lines, values), source, notes)


def without_blanks(lines: Lines, source: str, notes: list[str]) -> Lines:
    """The lines that are not blank. Raises `DataError` if all are."""
    keep = [bool(text.strip()) for text in lines.texts]
    if not all(keep):
        notes.append(f"{source}: {keep.count(False):,} blank lines skipped")
    if not any(keep):
        raise DataError(f"{source}: has no text; give a file with one text per line")
    return lines.where(keep)


def lines_from(source: str, notes: list[str]) -> list[str]:
    """The lines of a named corpus, or of all files of a source in their order."""
    if source in CORPORA:
        return CORPORA[source].texts()
    return [line for file in intact_files(source, notes, CORPORA) for line in lines_of(file)]


def read_texts(source: str, mode: str, notes: list[str]) -> list[str]:
    """The texts of a named corpus or of files. In `windows` mode this is one text, the whole stream
    with its line breaks."""
    lines = lines_from(source, notes)
    if mode == "windows":
        return ["\n".join(lines)]
    return without_blanks(Lines(lines), source, notes).texts


def with_length(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> Config:
    """The configuration with T set: the longest text and its end mark, rounded up to a multiple of
    the strides."""
    if config.model.length:
        return config
    counts = list(map(alphabet.count, texts))
    over = sum(count >= LONGEST_AUTOMATIC for count in counts)
    return with_automatic_length(config, max(counts), over, len(texts), alphabet.rules.tokens)


def fit_to_length(
    config: Config, alphabet: Alphabet, lines: Lines, source: str, notes: list[str]
) -> Lines:
    """The texts of `source`, none longer than T. `data.too_long` decides: `cut`, `drop`, or a
    `DataError` with the count."""
    texts, length, tokens = lines.texts, config.model.length, alphabet.rules.tokens
    counts = list(map(alphabet.count, texts))
    if config.data.mode == "fixed":
        wrong_length = sum(count != length for count in counts)
        if wrong_length:
            raise DataError(
                f"{source}: {wrong_length:,} of {len(texts):,} lines do not have exactly {length} "
                f"{tokens}, as data.mode=fixed requires; leave them out, or train with "
                f"data.mode=lines"
            )
        check_fixed_length(config, source, tokens)
        return lines
    most = length - 1  # END takes one position
    too_long = sum(count > most for count in counts)
    if not too_long:
        return lines
    note_too_long(config, source, too_long, len(texts), max(counts), tokens, notes)
    if config.data.too_long == "cut":
        cut = [
            alphabet.cut(text, most) if count > most else text
            for text, count in zip(texts, counts, strict=True)
        ]
        return Lines(cut, lines.labels)
    return lines.where([count <= most for count in counts])


def lines_and_rows(
    config: Config, alphabet: Alphabet, lines: Lines, source: str
) -> tuple[Lines, np.ndarray]:
    """Texts and their rows of tokens (N, T). Texts of a stream are its consecutive windows, without
    an incomplete last one."""
    if config.data.mode != "windows":
        return lines, encode_rows(config, alphabet, lines.texts)
    length = config.model.length
    stream = stream_of(config, alphabet, lines, source)
    rows = stream[: len(stream) // length * length].reshape(-1, length)
    if config.model.tokenizer != "char":
        return Lines(alphabet.decode(rows)), rows
    text = lines.texts[0]
    return Lines([text[start : start + length] for start in range(0, rows.size, length)]), rows


def stream_of(config: Config, alphabet: Alphabet, lines: Lines, source: str) -> np.ndarray:
    """The ids of a stream, (tokens,). Raises `DataError` if they are fewer than one window."""
    ids, length = stream_ids(alphabet, lines.texts), config.model.length
    if len(ids) < length:
        raise DataError(
            f"{source}: {len(ids)} {alphabet.rules.tokens} to train on or to hold out, fewer than "
            f"one window of {length}; give a longer file or a smaller model.length"
        )
    return ids


def encode_rows(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """Texts as rows of tokens (N, T). Lines are followed by END and PAD; windows and fixed lines
    fill the row."""
    length = config.model.length
    if config.data.mode != "lines":
        return stream_ids(alphabet, texts).reshape(-1, length)
    return alphabet.encode(texts, length).astype(id_type(alphabet))


def stream_ids(alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """The ids of all tokens of `texts`, concatenated, (tokens,)."""
    return np.fromiter(itertools.chain.from_iterable(map(alphabet.ids, texts)), id_type(alphabet))
