"""Files of text: UTF-8, plain, .gz or .xz, one of them, a folder of them or a pattern; read whole or piece by piece."""

from __future__ import annotations

import codecs
import glob
import gzip
import lzma
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from kvae.configuration import nearest
from kvae.serving.errors import DataError

STANDARD_INPUT = "-"

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}

PIECE = 2**22
"""Bytes that are read at once."""

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)


def files_of(source: str, notes: list[str], corpora: Iterable[str] = ()) -> list[str]:
    """The files that a source names: itself, standard input (`-`), or the sorted text files of a folder and all below it, or
    of a pattern such as `books/*.txt`. What is hidden or binary is left out and noted. Raises `DataError` where nothing is
    left; `corpora` are names that may have been meant where there is no such file.
    """
    path = Path(source)
    if source == STANDARD_INPUT or path.is_file():
        return [source]
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
        hidden = [file for file in found if any(part.startswith(".") for part in file.relative_to(path).parts)]
    elif path.exists():
        return [source]  # a pipe or a device
    elif any(sign in source for sign in "*?["):
        found, hidden = sorted(file for file in map(Path, glob.glob(source, recursive=True)) if file.is_file()), []
    else:
        kind = f"file or corpus{nearest(source, corpora)}" if corpora else "file"
        raise DataError(f"{source}: no such {kind}")
    shown = [file for file in found if file not in set(hidden)]
    binary = [file for file in shown if is_binary(file)]
    for files, kind in ((hidden, "hidden"), (binary, "binary")):
        if files:
            notes.append(f"{source}: {len(files):,} {kind} files left out, such as {files[0].name}")
    texts = [str(file) for file in shown if file not in set(binary)]
    if not texts:
        raise DataError(f"{source}: no text file among {len(found):,} files; give UTF-8 files, plain, .gz or .xz")
    return texts


def is_binary(file: Path) -> bool:
    """Whether a file has a NUL byte near its beginning; one that cannot be read is left for reading to say so."""
    try:
        with OPENERS.get(file.suffix, open)(file, "rb") as opened:
            return b"\0" in opened.read(8192)
    except UNREADABLE:
        return False


def read_file(source: str) -> str:
    """All of a file; raises `DataError` where it is not text."""
    return "".join(pieces_of(source))


def pieces_of(source: str) -> Iterator[str]:
    """The text of a file piece by piece, without byte order mark and with `\\n` at the end of lines. Raises `DataError` for
    what cannot be read, is not UTF-8, or holds a NUL."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, kept = 1, ""
    for raw in raw_pieces(source):
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise DataError(
                f"{source}: line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x}); convert the file, as with "
                f"iconv -t UTF-8"
            ) from error
        if "\0" in text:
            line += text.count("\n", 0, text.index("\0"))
            raise DataError(f"{source}: line {line} has a NUL byte: is it a text? Take them out, as with tr -d '\\000'")
        line += text.count("\n")
        text = kept + text
        kept = "\r" if raw and text.endswith("\r") else ""  # its \n may follow
        yield text.removesuffix(kept).replace("\r\n", "\n")


def raw_pieces(source: str) -> Iterator[bytes]:
    """The bytes of a file, unpacked, and an empty piece at the end."""
    try:
        if source == STANDARD_INPUT:
            yield sys.stdin.buffer.read()
        else:
            with OPENERS.get(Path(source).suffix, open)(source, "rb") as file:
                while raw := file.read(PIECE):
                    yield raw
    except UNREADABLE as error:
        raise DataError(f"{source}: cannot be read: {error}; give a plain, .gz or .xz file") from error
    yield b""


def split_lines(text: str) -> list[str]:
    """The lines of a file; the last line break ends the last one, and nothing is no line."""
    return text.removesuffix("\n").split("\n") if text else []
