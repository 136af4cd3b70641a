"""Sources: files, named corpora and given texts as blocks of records, which can be read again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from kvae.configuration import Config
from kvae.serving.alphabet import lower_case
from kvae.serving.errors import ConfigError, DataError
from kvae.texts.files import intact_files, pieces_of
from kvae.texts.formats import check_columns, format_of, readable_kinds, records_of
from kvae.texts.records import Columns, Records

from .named_corpora import CORPORA

BLOCK = 2**16
"""Texts in a block of a named corpus."""

CORPUS_LABELS = "corpus"
"""Value of `data.labels` for a named corpus that labels its own texts."""

GIVEN = "texts given from Python"
"""`data.source` of a run on given texts, and `data.labels` if labels are given with them."""

Blocks = Callable[[list[str]], Iterable[Records]]
"""A function that reads a source from its beginning and adds notes to a list."""


@dataclass
class Source:
    """A source with its name for messages. `read` yields its records, each time from the beginning.

    The notes of the first reading are kept, those of later ones are dropped.
    """

    name: str
    blocks: Blocks
    files: Callable[[list[str]], Iterable[Iterator[str]]] | None = None
    """Yields the text of each file in pieces, for a stream."""
    notes: list[str] = field(default_factory=list)
    was_read: bool = False

    def read(self) -> Iterator[Records]:
        """Yield the records in blocks."""
        notes: list[str] = [] if self.was_read else self.notes
        self.was_read = True
        yield from self.blocks(notes)


def training_source(config: Config) -> Source:
    """The source that a run learns from, with its labels if it has any."""
    data = config.data
    if data.source == GIVEN:
        raise DataError(
            "the run was trained on texts given from Python: give them again with texts=, or name "
            "a file (--data)"
        )
    return source_of(config, data.source, data.labels, data.label_column)


def validation_source(config: Config) -> Source | None:
    """The source of the held-out texts; None if they are a part of the training source."""
    data, corpus = config.data, CORPORA.get(config.data.source)
    if data.validation is not None:
        own_labels = CORPUS_LABELS if data.labels and data.validation in CORPORA else None
        labels = data.validation_labels or own_labels
        return source_of(config, data.validation, labels, data.label_column)
    if corpus and corpus.held_out:
        blocks = partial(corpus_blocks, corpus.held_out, corpus.label if data.labels else None)
        return as_read(config, Source(data.source, blocks))
    return None


def source_of(
    config: Config, name: str, labels: str | None = None, label_column: str = ""
) -> Source:
    """The source of a name: a corpus, a file, a folder or a pattern.

    `labels` is a file with one label per line, or `CORPUS_LABELS`; `label_column` is the column of
    a table. Raises `ConfigError` if the mode or the corpus has no labels.
    """
    if (labels or label_column) and config.data.reading.is_stream:
        raise ConfigError("data.labels: windows of a stream have no labels; use data.mode=lines")
    corpus, columns = CORPORA.get(name), columns_of(config, label_column)
    label = corpus.label if corpus and labels == CORPUS_LABELS else None
    if labels == CORPUS_LABELS and label is None:
        raise ConfigError(
            f"data.labels is {labels!r}, but {name} has no labels of its own; give a file"
        )
    blocks: Blocks = (
        partial(corpus_blocks, corpus.texts, label)
        if corpus
        else partial(read_records, name, columns)
    )
    if labels and label is None:
        blocks = partial(with_label_file, blocks, labels, name)
    files = None if corpus else partial(pieces_of_files, name, columns)
    return as_read(config, Source(name, blocks, files))


def as_read(config: Config, source: Source) -> Source:
    """The source with its texts in lower case if `data.fold_case` says so."""
    if not config.data.fold_case:
        return source
    read, files = source.blocks, source.files

    def blocks(notes: list[str]) -> Iterator[Records]:
        return (
            records._replace(texts=list(map(lower_case, records.texts))) for records in read(notes)
        )

    def folded_files(notes: list[str]) -> Iterator[Iterator[str]]:
        return (map(lower_case, pieces) for pieces in files(notes)) if files else iter(())

    return Source(source.name, blocks, folded_files if files else None)


def columns_of(config: Config, label_column: str = "") -> Columns:
    """The columns and the format that the settings name."""
    data = config.data
    whole_files = data.reading.is_file and data.format == "auto"
    return Columns(data.column, label_column, format="text" if whole_files else data.format)


def read_records(name: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """The records of files."""
    return records_of(name, columns, notes, CORPORA)


def corpus_blocks(
    texts: Callable[[], list[str]], label: Callable[[str], str] | None, notes: list[str]
) -> Iterator[Records]:
    """Yield the texts of a named corpus, labelled by `label`."""
    return in_blocks(texts(), label)


def in_blocks(texts: Sequence[str], label: Callable[[str], str] | None = None) -> Iterator[Records]:
    """Yield texts in blocks, labelled by `label`."""
    for start in range(0, len(texts), BLOCK):
        block = list(texts[start : start + BLOCK])
        yield Records(block, list(map(label, block)) if label else None)


def with_label_file(blocks: Blocks, labels: str, name: str, notes: list[str]) -> Iterator[Records]:
    """Yield the records with the labels that a file has, one per line.

    Raises `DataError` if the numbers of lines differ.
    """
    lines = (
        label.strip()
        for records in records_of(labels, Columns(format="lines"), notes)
        for label in records.texts
    )
    texts = found = 0
    for records in blocks(notes):
        values = [label for _, label in zip(records.texts, lines, strict=False)]
        texts, found = texts + len(records.texts), found + len(values)
        if len(values) == len(records.texts):
            yield records._replace(labels=values)
    found += sum(1 for _ in lines)
    if texts != found:
        raise DataError(
            f"{labels}: {found:,} labels for the {texts:,} lines of {name}; "
            f"give one label per line, and an empty line for an unknown label"
        )


def cached_source(source: Source) -> Source:
    """The source, read once: what it yields is kept in memory for later readings.

    A block is kept as one text, in which a character often takes one byte.
    """
    kept: list[tuple[str, list[int] | None, list[str] | None]] = []

    def blocks(notes: list[str]) -> Iterator[Records]:
        if kept:
            yield from (Records(split_at(text, lengths), labels) for text, lengths, labels in kept)
            return
        new = []
        for records in source.blocks(notes):
            text = "\n".join(records.texts)
            is_plain = text.count("\n") == len(records.texts) - 1
            lengths = None if is_plain else list(map(len, records.texts))
            new.append((text, lengths, records.labels))
            yield records
        kept.extend(new)

    return Source(source.name, blocks)


def split_at(text: str, lengths: Iterable[int] | None) -> list[str]:
    """The texts of a block, of these lengths and with a line break between them; None: the lines of
    the block."""
    if lengths is None:
        return text.split("\n")
    texts, start = [], 0
    for length in lengths:
        texts.append(text[start : start + length])
        start += length + 1
    return texts


def stream_pieces(source: Source) -> Iterator[str]:
    """Yield a source as one stream, in pieces: its texts with line breaks between them."""
    notes: list[str] = [] if source.was_read else source.notes
    source.was_read = True
    files = source.files(notes) if source.files else [text_with_breaks(source.blocks(notes))]
    any_text = False
    for pieces in files:
        ending, any_text_of_file = "", False
        for piece in filter(None, pieces):
            if any_text and not any_text_of_file:
                yield "\n"
            any_text = any_text_of_file = True
            piece = ending + piece
            ending = "\n" if piece.endswith("\n") else ""
            yield piece.removesuffix(ending)


def pieces_of_files(name: str, columns: Columns, notes: list[str]) -> Iterator[Iterator[str]]:
    """Yield the text of each file of a source, in pieces.

    Lines are not put together, since a stream may have no line break at all.
    """
    for file in intact_files(name, notes, CORPORA, readable_kinds(columns)):
        if format_of(file, columns) == "lines":
            check_columns(file, "lines", columns)
            yield pieces_of(file)
        else:
            yield text_with_breaks(records_of(file, columns, notes))


def text_with_breaks(blocks: Iterable[Records]) -> Iterator[str]:
    """Yield the texts of blocks, each followed by a line break."""
    return ("\n".join([*records.texts, ""]) for records in blocks)
