"""Tokens on disk, so that the memory of a run does not grow with its corpus.

They are written once, in order, in shards, and then read a few at a time. Reading copies them with
`os.pread`; with a memory map, every page that was ever read would count as resident memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import DTypeLike

from kvae.disk import add_path_to_errors
from kvae.serving.alphabet import END, PAD, Alphabet

SHARD = 2**28
"""Bytes per shard: a power of two, so that no number is split between two shards."""


def id_type(alphabet: Alphabet) -> np.dtype:
    """The smallest integer type that can store every id of the vocabulary."""
    return np.min_scalar_type(len(alphabet) - 1)


class ColumnWriter:
    """Writes numbers of one type to shards, in order. Each call of `append` closes its files."""

    def __init__(self, folder: Path, name: str, kind: DTypeLike) -> None:
        self.folder, self.name, self.kind, self.size = folder, name, np.dtype(kind), 0

    def append(self, numbers: np.ndarray) -> None:
        """Append numbers (N,)."""
        content = memoryview(np.asarray(numbers, self.kind).tobytes())
        while content:
            shard, place = divmod(self.size, SHARD)
            part = content[: SHARD - place]
            with (
                add_path_to_errors(self.folder),
                shard_file(self.folder, self.name, shard).open("ab") as file,
            ):
                file.write(part)
            self.size += len(part)
            content = content[len(part) :]


class Column:
    """Reads the numbers that a `ColumnWriter` wrote."""

    def __init__(self, folder: Path, name: str, kind: DTypeLike) -> None:
        self.folder, self.name, self.kind = folder, name, np.dtype(kind)
        files: list[Path] = []
        while (file := shard_file(folder, name, len(files))).exists():
            files.append(file)
        self.length = sum(file.stat().st_size for file in files) // self.kind.itemsize
        self.shards = [os.open(file, os.O_RDONLY) for file in files]

    def __del__(self) -> None:
        for shard in getattr(self, "shards", ()):
            os.close(shard)

    def __len__(self) -> int:
        return self.length

    def read(self, start: int, count: int) -> np.ndarray:
        """The `count` numbers from index `start` on, (count,).

        Raises `OSError` if a shard has become shorter.
        """
        first, size, parts = start * self.kind.itemsize, count * self.kind.itemsize, []
        while size:
            shard, place = divmod(first, SHARD)
            parts.append(os.pread(self.shards[shard], min(size, SHARD - place), place))
            first, size = first + len(parts[-1]), size - len(parts[-1])
            if not parts[-1]:
                raise OSError(
                    f"{self.folder}: shard {shard} of {self.name} is shorter than it was; "
                    f"remove the folder"
                )
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), self.kind)


def shard_file(folder: Path, name: str, number: int) -> Path:
    """The path of shard `number` of a column."""
    return folder / f"{name}-{number:05}"


class StoredRows:
    """Texts as rows of ids on disk. A row has T = `length` ids: the text, END and padding."""

    def __init__(self, tokens: Column, starts: Column, length: int) -> None:
        self.tokens, self.starts, self.row_length = tokens, starts, length

    def __len__(self) -> int:
        return len(self.starts) - 1

    def lengths(self) -> np.ndarray:
        """Number of ids of each row, END included, (N,)."""
        return np.diff(self.starts.read(0, len(self.starts))) + 1

    def take(self, places: np.ndarray) -> np.ndarray:
        """The rows at the indices `places` (B,), as (B, T) int32."""
        rows = np.full((len(places), self.row_length), PAD, np.int32)
        for row, place in zip(rows, places.tolist(), strict=True):
            start, stop = self.starts.read(place, 2).tolist()
            row[: stop - start] = self.tokens.read(start, stop - start)
            row[stop - start] = END
        return rows


class StoredStream:
    """A stream of ids on disk."""

    def __init__(self, tokens: Column) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The windows at `places` (B, T), as (B, T) int32.

        Each row of `places` holds consecutive indices of the stream.
        """
        return np.stack(
            [self.tokens.read(start, places.shape[1]) for start in places[:, 0].tolist()]
        ).astype(np.int32)


class StoredTexts(Sequence[str]):
    """The texts of stored rows, decoded one by one on access.

    An unknown symbol is shown as the mark for unknown symbols.
    """

    def __init__(self, rows: StoredRows, alphabet: Alphabet) -> None:
        self.rows, self.alphabet = rows, alphabet

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        return self.alphabet.decode(self.rows.take(np.array([range(len(self))[index]])))[0]
