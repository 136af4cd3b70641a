"""Texts that are given from Python: lists, iterators, arrays, series, tables and datasets.

The packages that they come from are not imported: an object is known by what it can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice
from typing import Any

from kvae.sections import nearest
from kvae.serving.errors import ConfigError, DataError
from kvae.texts.records import Records, as_label, check_characters

from .sources import BLOCK, GIVEN, Source


def given_source(
    texts: Any, labels: Any = None, column: str = "", label_column: str = ""
) -> Source:
    """The source of given texts.

    `texts` and `labels` are iterables of strings: lists, iterators, numpy arrays, pandas and Polars
    series, datasets of strings of tf.data or `keras.utils.PyDataset`, also in batches. `texts` may
    be a table of pandas, Polars or Hugging Face `datasets`, or a dataset of dictionaries: `column`
    is its column of texts and `label_column` that of labels. Raises `ConfigError` for something
    else; reading raises `DataError` for a value that is not a text.
    """
    can_be_read = hasattr(texts, "__iter__") or hasattr(texts, "__getitem__")
    if isinstance(texts, (str, bytes, Mapping)) or not can_be_read:
        raise ConfigError(
            f"texts must be a list of texts, or a table or dataset, got {type(texts).__name__}; "
            "a file is named in data.source"
        )
    if hasattr(texts, "collect") and hasattr(texts, "lazy"):
        raise ConfigError("texts is a lazy table: give what its collect() returns")
    if label_column and isinstance(texts, Iterator):
        texts = list(texts)  # it is read for the texts and for the labels
    values, given_labels = texts_and_labels(texts, column, label_column)
    if labels is not None:
        given_labels = labels
    return Source(GIVEN, partial(blocks_of, values, given_labels))


def texts_and_labels(texts: Any, column: str, label_column: str) -> tuple[Any, Any]:
    """The texts and the labels of what was given: the columns of a table, else all of it."""
    names = getattr(texts, "column_names", None) or getattr(texts, "columns", None)
    if names is None or not hasattr(texts, "__getitem__"):
        return (
            entries(texts, column, 0),
            entries(texts, label_column, 1) if label_column else None,
        )
    names = [str(name) for name in names]
    text = column or only_column_of_texts(texts, names, label_column)
    for name in filter(None, (text, label_column)):
        if name not in names:
            raise ConfigError(f"there is no column {name!r}{nearest(name, names)}")
    return plain(texts[text]), plain(texts[label_column]) if label_column else None


def plain(values: Any) -> Any:
    """The column of a table; that of Arrow as values of Python."""
    return values.to_pylist() if hasattr(values, "to_pylist") else values


def only_column_of_texts(table: Any, names: Sequence[str], label_column: str) -> str:
    """The only column of a table whose first value is a text. Raises `ConfigError` if there are
    several."""
    first = {
        name: next(iter(plain(table[name][:1])), None) for name in names if name != label_column
    }
    found = [name for name, value in first.items() if isinstance(value, str)]
    if len(found) != 1:
        shown = ", ".join(f"{name} ({first[name]!r:.40})" for name in found) or "none"
        raise ConfigError(f"columns of texts: {shown}; name one with data.column")
    return found[0]


def entries(values: Any, key: str, place: int) -> Iterator[Any]:
    """The texts of values, or of the dictionaries (by `key`) or pairs (by `place`) among them."""

    def of(item: Any) -> Any:
        if isinstance(item, Mapping):
            if not key or key not in item:
                raise ConfigError(
                    f"the dataset has dictionaries with {sorted(map(str, item))}; name the key of "
                    f"the texts with data.column"
                )
            return item[key]
        return item[place] if isinstance(item, tuple) else item

    return map(of, items_of(values))


def items_of(values: Any) -> Iterator[Any]:
    """Yield the items of values. A `PyDataset` is read by index, tf.data as arrays of numpy."""
    if hasattr(values, "as_numpy_iterator"):
        yield from values.as_numpy_iterator()
    elif hasattr(values, "num_batches"):
        yield from (values[index] for index in range(len(values)))
    else:
        yield from values


def flat(values: Any) -> Iterator[Any]:
    """Yield the values of batches, and values that are in none."""
    for item in items_of(values):
        if isinstance(item, (str, bytes)) or not hasattr(item, "__len__"):
            yield item
        else:
            yield from flat(item.tolist() if hasattr(item, "tolist") else item)


def blocks_of(texts: Any, labels: Any, notes: list[str]) -> Iterator[Records]:
    """Yield given texts and labels in blocks. Raises `DataError` for a value that is not a text, or
    if there are more of one than of the other."""
    text_values, label_values = flat(texts), None if labels is None else flat(labels)
    for first in count(0, BLOCK):
        block = [as_text(value, row) for row, value in enumerate(islice(text_values, BLOCK), first)]
        names = None
        if label_values is not None:
            names = list(map(as_label_text, islice(label_values, len(block))))
        if names is not None and len(names) < len(block):
            raise DataError(f"{first + len(names):,} labels for more texts; give one for each text")
        if block:
            check_characters(GIVEN, block, range(first, first + len(block)))
            yield Records(block, names)
        if len(block) < BLOCK:
            break
    if label_values is not None and next(label_values, None) is not None:
        raise DataError("more labels than texts; give one for each text")


def as_text(value: Any, row: int) -> str:
    """A given value as text. Raises `DataError` for something else."""
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{GIVEN}: text {row:,} is not UTF-8; decode it first") from error
    if not isinstance(value, str):
        raise DataError(
            f"{GIVEN}: text {row:,} is {value!r:.40}, not a text; leave it out or turn it into one"
        )
    return value


def as_label_text(value: Any) -> str:
    """A given label as text; nothing if it is unknown."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else as_label(value)
