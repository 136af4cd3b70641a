"""Columns of numbers that are written once, in order, and then read at any place: in memory or on
disk.

On disk a column lies in shards. Reading copies them with `os.pread`, so that the memory of a run
does not grow with its corpus; with a memory map, every page that was ever read would count as
resident memory.
"""

from __future__ import annotations

import os
from itertools import repeat
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from kvae.disk import add_path_to_errors
from kvae.serving.alphabet import Alphabet

SHARD = 2**28
"""Bytes per shard."""


def id_type(alphabet: Alphabet) -> np.dtype:
    """The smallest integer type that can store every id of the vocabulary."""
    return np.min_scalar_type(len(alphabet) - 1)


def parts_of(numbers: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The `counts` (B,) numbers from each of the indices `starts` (B,) on, concatenated."""
    shifts = np.repeat(starts - np.cumsum(counts) + counts, counts)
    parts: np.ndarray = numbers[np.arange(len(shifts)) + shifts]
    return parts


class Column(Protocol):
    """A column of numbers of one type."""

    kind: np.dtype

    def __len__(self) -> int: ...

    def append(self, numbers: np.ndarray) -> None:
        """Append numbers (N,)."""

    def read(self, start: int, count: int) -> np.ndarray:
        """The `count` numbers from index `start` on, (count,)."""

    def read_parts(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The `counts` (B,) numbers from each of the indices `starts` (B,) on, concatenated."""


class Columns(Protocol):
    """Columns by name. A column that does not exist yet is empty."""

    def column(self, name: str, kind: DTypeLike) -> Column:
        """The column of this name; `kind` is the type of its numbers."""

    def remove(self, name: str) -> None:
        """Remove a column."""


class MemoryColumn:
    """A `Column` in memory."""

    def __init__(self, kind: DTypeLike) -> None:
        self.kind = np.dtype(kind)
        self.parts: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def append(self, numbers: np.ndarray) -> None:
        """As `Column` says."""
        self.parts.append(np.asarray(numbers, self.kind))

    @property
    def numbers(self) -> np.ndarray:
        """All numbers, (N,)."""
        if len(self.parts) != 1:
            self.parts = [np.concatenate([np.zeros(0, self.kind), *self.parts])]
        return self.parts[0]

    def read(self, start: int, count: int) -> np.ndarray:
        """As `Column` says."""
        numbers: np.ndarray = self.numbers[start : start + count]
        return numbers

    def read_parts(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """As `Column` says."""
        return parts_of(self.numbers, starts, counts)


class DiskColumn:
    """A `Column` in the files of a folder. Each call of `append` closes the file that it wrote."""

    def __init__(self, folder: Path, name: str, kind: DTypeLike) -> None:
        self.folder, self.name, self.kind = folder, name, np.dtype(kind)
        self.shards: list[int] = []
        while (file := self.file(len(self.shards))).exists():
            self.shards.append(os.open(file, os.O_RDONLY))
        self.size = sum(os.fstat(shard).st_size for shard in self.shards)

    def file(self, shard: int) -> Path:
        """The path of a shard."""
        return self.folder / f"{self.name}-{shard:05}"

    def __del__(self) -> None:
        for shard in getattr(self, "shards", ()):
            os.close(shard)

    def __len__(self) -> int:
        return self.size // self.kind.itemsize

    def append(self, numbers: np.ndarray) -> None:
        """As `Column` says."""
        content = memoryview(np.asarray(numbers, self.kind).tobytes())
        while content:
            shard, place = divmod(self.size, SHARD)
            part = content[: SHARD - place]
            with add_path_to_errors(self.folder), self.file(shard).open("ab") as file:
                file.write(part)
            if shard == len(self.shards):
                self.shards.append(os.open(self.file(shard), os.O_RDONLY))
            self.size += len(part)
            content = content[len(part) :]

    def read(self, start: int, count: int) -> np.ndarray:
        """As `Column` says. Raises `OSError` if a shard has become shorter."""
        size = self.kind.itemsize
        return np.frombuffer(self.bytes_at(start * size, count * size), self.kind)

    def bytes_at(self, first: int, size: int) -> bytes:
        """The `size` bytes from byte `first` on."""
        parts = []
        while size:
            shard, place = divmod(first, SHARD)
            parts.append(os.pread(self.shards[shard], min(size, SHARD - place), place))
            first, size = first + len(parts[-1]), size - len(parts[-1])
            if not parts[-1]:
                raise OSError(
                    f"{self.folder}: shard {shard} of {self.name} is shorter than it was; "
                    f"remove the folder"
                )
        return b"".join(parts)

    def read_parts(self, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """As `Column` says. Raises `OSError` if a shard has become shorter."""
        firsts, sizes = ((each * self.kind.itemsize).tolist() for each in (starts, counts))
        if len(self.shards) == 1:
            content = b"".join(map(os.pread, repeat(self.shards[0]), sizes, firsts))
        else:
            content = b""
        if len(content) < sum(sizes):  # a part lies in another shard
            content = b"".join(map(self.bytes_at, firsts, sizes))
        return np.frombuffer(content, self.kind)


class MemoryColumns:
    """`Columns` in memory."""

    def __init__(self) -> None:
        self.columns: dict[str, MemoryColumn] = {}

    def column(self, name: str, kind: DTypeLike) -> MemoryColumn:
        """As `Columns` says."""
        return self.columns.setdefault(name, MemoryColumn(kind))

    def remove(self, name: str) -> None:
        """As `Columns` says."""
        self.columns.pop(name, None)


class DiskColumns:
    """`Columns` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def column(self, name: str, kind: DTypeLike) -> DiskColumn:
        """As `Columns` says."""
        return DiskColumn(self.folder, name, kind)

    def remove(self, name: str) -> None:
        """As `Columns` says."""
        for file in self.folder.glob(f"{name}-[0-9]*"):
            file.unlink()
