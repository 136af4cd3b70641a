"""Parquet and Arrow tables, read by pyarrow (extra `tables`)."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from kvae.serving.errors import DataError, first_line

from .columns import MOST_NAMED, SAMPLE, Column, place_of, text_column
from .compression import DECOMPRESSION_ERRORS, pyarrow
from .files import open_decompressed, reading_error
from .records import BLOCK, Columns, Records, as_label, check_characters

MOST_ROWS = 2**16
"""Rows that are read at a time."""

Batches: TypeAlias = Callable[[Sequence[str], int], Iterator[Any]]
"""A function that yields record batches with some columns, of so many rows at most if the format
can be read so."""


class Leaf(NamedTuple):
    """A column without fields of its own: the names that lead to it, and its Arrow type."""

    path: tuple[str, ...]
    type: Any

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)


class Opened(NamedTuple):
    """A table: its schema, a function that reads it, and the rows that make a block."""

    schema: Any
    batches: Batches
    rows: Callable[[Sequence[str]], int]


def read_parquet(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """Yield the records of a Parquet table. Raises `DataError` if it is damaged or cut off."""
    return records_in(file, columns, notes, "a Parquet table", parquet_table)


def read_arrow(file: str, columns: Columns, notes: list[str]) -> Iterator[Records]:
    """`read_parquet` for an Arrow file, an Arrow stream or Feather version 2."""
    return records_in(file, columns, notes, "an Arrow table", arrow_table)


def parquet_table(file: str, source: Any) -> Opened:
    """Open a Parquet table. Raises `DataError` if the file is something else."""
    import pyarrow.parquet

    if read_start(source)[:4] != b"PAR1":
        raise DataError(f"{file}: is no Parquet table; name its format, as with --format csv")
    table = pyarrow.parquet.ParquetFile(source)

    def rows(names: Sequence[str]) -> int:
        """The rows that have about `BLOCK` bytes in the first group of rows."""
        if not table.metadata.num_row_groups:
            return SAMPLE
        group = table.metadata.row_group(0)
        parts = [group.column(place) for place in range(group.num_columns)]
        wanted = [f"{name}." for name in names]
        size = sum(
            part.total_uncompressed_size
            for part in parts
            if f"{part.path_in_schema}.".startswith(tuple(wanted))
        )
        return int(min(max(group.num_rows * BLOCK // max(size, 1), 1), MOST_ROWS))

    return Opened(
        table.schema_arrow,
        lambda names, most: table.iter_batches(batch_size=most, columns=list(names)),
        rows,
    )


def arrow_table(file: str, source: Any) -> Opened:
    """Open an Arrow file or stream. Raises `DataError` if the file is something else."""
    import pyarrow as pa

    start = read_start(source)
    if start[:4] == b"FEA1":
        raise DataError(
            f"{file}: is Feather version 1; write it again, as with "
            f"pandas.read_feather({file!r}).to_parquet(...)"
        )
    is_file = start[:6] == b"ARROW1"
    if not is_file and start[:4] != b"\xff\xff\xff\xff":
        raise DataError(f"{file}: is no Arrow table; name its format, as with --format csv")
    schema = (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).schema

    def batches(names: Sequence[str], most: int) -> Iterator[Any]:
        places = sorted({schema.get_field_index(name) for name in names})
        options = pa.ipc.IpcReadOptions(included_fields=places)
        source.seek(0)
        if is_file:
            table = pa.ipc.open_file(source, options=options)
            yield from map(table.get_batch, range(table.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source, options=options)

    return Opened(schema, batches, lambda names: MOST_ROWS)


def read_start(source: Any) -> bytes:
    """The first bytes of an open file, which stays at its beginning."""
    start: bytes = source.read(8)
    source.seek(0)
    return start


def records_in(
    file: str,
    columns: Columns,
    notes: list[str],
    kind: str,
    open_table: Callable[[str, Any], Opened],
) -> Iterator[Records]:
    """Yield the records of a table. Errors of pyarrow become `DataError`s."""
    with open_to_seek(file, kind) as source, errors_of(file, kind):
        table = open_table(file, source)
        leaves = list(leaves_of(table.schema))
        text, label, identifier = leaves_for(file, columns, leaves, table, notes)
        names = list(dict.fromkeys(leaf.path[0] for leaf in (text, label, identifier) if leaf))
        before = 0
        for batch in table.batches(names, table.rows(names)):
            for part in slices(batch):
                texts = texts_of(file, part, text, before)
                yield Records(
                    texts,
                    None if label is None else labels_of(part, label),
                    None if identifier is None else labels_of(part, identifier),
                )
                before += len(texts)


@contextlib.contextmanager
def open_to_seek(file: str, kind: str) -> Iterator[Any]:
    """Open a file so that pyarrow can read any part of it. Others than plain files are copied into
    a temporary file first.

    Raises `DataError` if the file cannot be read.
    """
    pa = pyarrow(f"{file}: {kind}")
    with contextlib.ExitStack() as stack:
        try:
            content = stack.enter_context(open_decompressed(file))
            if isinstance(content, io.BufferedReader) and Path(file).is_file():
                if not content.peek(1):
                    raise DataError(f"{file}: is empty; give {kind}")
                source = stack.enter_context(pa.memory_map(file))
            else:
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(content, copy, BLOCK)
                copy.seek(0)
                source = stack.enter_context(pa.PythonFile(copy, "r"))
        except (OSError, *DECOMPRESSION_ERRORS) as error:
            raise reading_error(file, error) from error
        yield source


@contextlib.contextmanager
def errors_of(file: str, kind: str) -> Iterator[None]:
    """Context in which errors of pyarrow become `DataError`s."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise reading_error(file, error) from error
        if isinstance(error, pa.ArrowNotImplementedError | pa.ArrowTypeError):
            raise DataError(
                f"{file}: pyarrow {pa.__version__} cannot read it ({first_line(error)}); write it "
                f"again with plain columns of text, or install a newer pyarrow"
            ) from error
        raise DataError(
            f"{file}: {kind} that is damaged or cut off ({first_line(error)}); get it again"
        ) from error


def leaves_of(fields: Iterable[Any], above: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Yield the columns of a schema; those with fields are replaced by their fields."""
    import pyarrow as pa

    for field in fields:
        path = (*above, field.name)
        if pa.types.is_struct(field.type):
            yield from leaves_of(field.type.fields, path)
        else:
            yield Leaf(path, field.type)


def leaves_for(
    file: str, columns: Columns, leaves: Sequence[Leaf], table: Opened, notes: list[str]
) -> tuple[Leaf, Leaf | None, Leaf | None]:
    """The columns of texts, labels and identifiers. Raises `DataError` if there is no such
    column."""
    names = [leaf.name for leaf in leaves]

    def leaf_of(name: str) -> Leaf | None:
        return leaves[place_of(file, name, names)] if name else None

    label, identifier, text = map(leaf_of, (columns.label, columns.id, columns.text))
    if text is None:
        free = [leaf for leaf in leaves if is_string(leaf.type) and leaf not in (label, identifier)]
        if not free:
            raise DataError(f"{file}: no column holds texts; its columns are {described(leaves)}")
        sample = next(table.batches([leaf.path[0] for leaf in free], SAMPLE), None)
        values = [[] if sample is None else values_of(sample[:SAMPLE], leaf) for leaf in free]
        table_of_texts = [
            Column(leaf.name, [value for value in column if value is not None])
            for leaf, column in zip(free, values, strict=True)
        ]
        text = free[text_column(file, table_of_texts)]
        notes.append(f"texts from column {text.name!r}")
    elif not is_string(text.type) and not is_binary(text.type):
        raise DataError(
            f"{file}: column {text.name!r} holds {text.type}, not text; name another column, or "
            f"write it as text; its columns are {described(leaves)}"
        )
    return text, label, identifier


def described(leaves: Sequence[Leaf]) -> str:
    """Columns and their types in a message."""
    more = f" and {len(leaves) - MOST_NAMED} more" if len(leaves) > MOST_NAMED else ""
    return ", ".join(f"{leaf.name!r} ({leaf.type})" for leaf in leaves[:MOST_NAMED]) + more


def is_string(kind: Any) -> bool:
    """Whether a type is text, perhaps as categories."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_binary(kind: Any) -> bool:
    """Whether a type is bytes, as some programs write texts."""
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def slices(batch: Any) -> Iterator[Any]:
    """Yield a record batch in parts of about `BLOCK` bytes and at most `MOST_ROWS` rows."""
    import pyarrow as pa

    try:
        size = batch.nbytes
    except pa.ArrowTypeError:  # pyarrow 18 cannot tell it of views
        size = batch.get_total_buffer_size()
    parts = max(math.ceil(size / BLOCK), math.ceil(batch.num_rows / MOST_ROWS), 1)
    step = max(math.ceil(batch.num_rows / parts), 1)
    for start in range(0, batch.num_rows, step):
        yield batch[start : start + step]


def values_of(batch: Any, leaf: Leaf) -> list[Any]:
    """The values of a column as Python objects, None for null."""
    import pyarrow as pa
    import pyarrow.compute

    column = batch.column(leaf.path[0])
    if len(leaf.path) > 1:
        column = pyarrow.compute.struct_field(column, list(leaf.path[1:]))
    if is_binary(column.type):
        column = column.cast(pa.large_string())
    values: list[Any] = column.to_pylist()
    return values


def labels_of(batch: Any, leaf: Leaf) -> list[str]:
    """The values of a column as labels, empty for null."""
    return list(map(as_label, values_of(batch, leaf)))


def texts_of(file: str, batch: Any, leaf: Leaf, before: int) -> list[str]:
    """The texts of a column. Raises `DataError` for a null. `before` rows stand before these."""
    texts = values_of(batch, leaf)
    if None in texts:
        row = before + texts.index(None) + 1
        raise DataError(
            f"{file}: row {row:,} has null in column {leaf.name!r}; leave such rows out, as with "
            f"pandas: table.dropna(subset=[{leaf.name!r}])"
        )
    check_characters(file, texts, range(before + 1, before + len(texts) + 1))
    return texts
