"""Compressed files: the functions that open them, by their first bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kvae.serving.errors import DataError

DECOMPRESSION_ERRORS = (EOFError, lzma.LZMAError, zlib.error)
"""What the decompressors raise for damaged files, besides an `OSError` without a number."""


class MissingReader(DataError):
    """A package that reads a kind of file is not installed."""


def open_zstd(file: Any) -> Any:
    """Open a zstd file to read its bytes after decompression. Raises `MissingReader` without
    pyarrow."""
    stream = pyarrow("a zstd file", "decompress it, as with zstd -d").CompressedInputStream
    return stream(file, "zstd")


def pyarrow(kind: str, way_out: str = "") -> Any:
    """The package pyarrow. Raises `MissingReader` if it is not installed.

    The message names the kind of file that needs it, and perhaps a way out without it.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise MissingReader(
            f"{kind} needs pyarrow; {way_out + ', or ' if way_out else ''}"
            f"pip install 'kvae-text[tables]'"
        ) from error
    return pyarrow


DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {
    rb"\x1f\x8b\x08": gzip.open,
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.open,
    rb"\xfd7zXZ\0": lzma.open,
    rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18": open_zstd,
}
"""Functions that open a compressed file, by a pattern of its first bytes."""

LONGEST_SIGNATURE = 10
"""Bytes that the longest pattern in `DECOMPRESSORS` needs."""

ENDINGS = (".gz", ".bz2", ".xz", ".zst")
"""Endings of the names of compressed files."""

READABLE_FORMATS = "plain, .gz, .bz2, .xz or .zst"
"""The formats that can be read, for messages."""
