"""Text files in UTF-8, plain or compressed: one file, a folder or a pattern, read at once or piece
by piece.

The first bytes of a file tell what it is, not its name. Compressed files are decompressed. A file
that is not text is refused; in a folder it is left out, with a note.
"""

from __future__ import annotations

import codecs
import contextlib
import glob
import io
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from kvae.sections import nearest
from kvae.serving.errors import DataError

from .compression import (
    DECOMPRESSION_ERRORS,
    DECOMPRESSORS,
    LONGEST_SIGNATURE,
    MissingReader,
)
from .compression import ENDINGS as ENDINGS  # both are parts of this module for its readers
from .compression import READABLE_FORMATS as READABLE_FORMATS

Value = TypeVar("Value")

STANDARD_INPUT = "-"
"""Source that means standard input."""

PIECE = 2**20
"""Bytes that are read at a time."""

HEAD = 2**13
"""Bytes, after decompression, that are examined to tell what a file is."""


class FileKind(NamedTuple):
    """A kind of file that is not text: its name in messages, and the way out."""

    name: str
    way_out: str = ""


UNPACK = "unpack it and give the folder"
SAVE_AS_TEXT = "save it as text in the program that made it"
WRITE_LINES = "write its texts to a text file first, one per line, for example with Python"

PARQUET = FileKind("a Parquet table", f"read it with --format parquet, or {WRITE_LINES}")
ARROW = FileKind("an Arrow table", f"read it with --format arrow, or {WRITE_LINES}")
ZSTD = FileKind("a zstd file", "decompress it, or pip install 'kvae-text[tables]' to read it")

BINARY_KINDS: dict[bytes, FileKind] = {
    rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/)": FileKind(
        "an Office document", SAVE_AS_TEXT
    ),
    rb"PK\x03\x04.{26}mimetype": FileKind("an OpenDocument file or an e-book", SAVE_AS_TEXT),
    rb"PK\x03\x04.{26}[^/\0]{1,99}\.npy": FileKind("numpy arrays", WRITE_LINES),
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": FileKind("a zip archive", UNPACK),
    rb".{257}ustar": FileKind("a tar archive", "unpack it, as with tar -xf, and give the folder"),
    rb"7z\xbc\xaf\x27\x1c": FileKind("a 7z archive", UNPACK),
    rb"Rar!\x1a\x07": FileKind("a rar archive", UNPACK),
    rb"\x04\x22\x4d\x18": FileKind("an lz4 file", "decompress it, as with lz4 -d"),
    rb"LZIP\x01": FileKind("an lzip file", "decompress it, as with lzip -d"),
    rb"\x5d\0\0.{2}": FileKind("an lzma file", "decompress it, as with unlzma"),
    rb"\x1f[\x9d\xa0]": FileKind(
        "a file of the program compress", "decompress it, as with gzip -d"
    ),
    **dict.fromkeys(
        DECOMPRESSORS, FileKind("a file that was compressed twice", "decompress it once")
    ),
    rb"PAR[1E]": PARQUET,
    rb"ARROW1|FEA1|\xff{4}.{2}\0\0\x10\0\0\0": ARROW,
    rb"ORC": FileKind("an ORC table", WRITE_LINES),
    rb"Obj\x01": FileKind("an Avro table", WRITE_LINES),
    rb"\x89HDF\r\n\x1a\n": FileKind("an HDF5 file", WRITE_LINES),
    rb"SQLite format 3\0": FileKind("an SQLite database", WRITE_LINES),
    rb"\x93NUMPY": FileKind("numpy arrays", WRITE_LINES),
    rb"\x80[\x02-\x05]": FileKind("a pickle", WRITE_LINES),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": FileKind("an Office document", SAVE_AS_TEXT),
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP|BM.{4}\0\0\0\0": FileKind(
        "an image"
    ),
    rb"RIFF.{4}(WAVE|AVI )|ID3|\xff[\xf2\xf3\xfb]|OggS|fLaC|.{4}ftyp|\x1aE\xdf\xa3": FileKind(
        "sound or video"
    ),
    rb"\x7fELF|MZ|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe": FileKind("a program"),
    rb"([^\0]\0){8}": FileKind("UTF-16", "convert it, as with iconv -f UTF-16LE -t UTF-8"),
    rb"(\0[^\0]){8}": FileKind("UTF-16", "convert it, as with iconv -f UTF-16BE -t UTF-8"),
}
"""Kinds of files by patterns of their first bytes, in this order. They apply if the first bytes
contain control characters."""

WEB_PAGE = FileKind(
    "a web page",
    "get the file itself; to train on the page with its tags, give it a name that ends in .html",
)
WEB_PAGE_ENDINGS = {".html", ".htm", ".xhtml"}

GIT_LFS_POINTER = (
    rb"version https://git-lfs\.github\.com/spec/v\d\s+(ext-[^\n]*\n)*"
    rb"oid sha256:[0-9a-f]{64}\s+size \d+\s*\Z"
)
HTML = (
    rb"(?i:\s*(<\?xml[^>]*>\s*)?((?><!--.*?-->)\s*)*+"
    rb"<(!doctype\s+html|html)\b.*<(head|body|title|meta)\b)"
)

OTHER_KINDS: dict[bytes, FileKind] = {
    rb"\xff\xfe\0\0|\0\0\xfe\xff": FileKind(
        "UTF-32", "convert it, as with iconv -f UTF-32 -t UTF-8"
    ),
    rb"\xff\xfe|\xfe\xff": FileKind("UTF-16", "convert it, as with iconv -f UTF-16 -t UTF-8"),
    GIT_LFS_POINTER: FileKind("a Git LFS pointer", "get the file itself with git lfs pull"),
    rb"[./]*annex/objects/\S+\s*\Z": FileKind(
        "a git-annex pointer", "get the file itself with git annex get"
    ),
    HTML: WEB_PAGE,
    rb"\s*(<\?xml[^>]*>\s*)?<Error>\s*<Code>": FileKind(
        "the error message of a download", "get the file again"
    ),
    rb"%PDF-\d": FileKind("a PDF", "write its text to a file first, as with pdftotext"),
    rb"%!PS-Adobe": FileKind(
        "a PostScript file", "write its text to a file first, as with ps2ascii"
    ),
    rb"\{\\rtf\d": FileKind("an RTF document", SAVE_AS_TEXT),
}
"""Further kinds, without that condition: other encodings, and texts that stand in place of
something else."""

BINARY = FileKind("binary data")
NULS = FileKind("NUL bytes", "if it is text, remove them, as with tr -d '\\000'")

CONTROL = re.compile(rb"[\0-\x06\x0e-\x19\x1c-\x1f]")
"""Control characters that ordinary text does not contain in any encoding based on ASCII. Single
ones are tolerated."""


class DamagedFile(DataError):
    """A compressed file cannot be decompressed to its end."""


def kind_of(head: bytes, name: str) -> FileKind | None:
    """The kind of a file by its first bytes `head` and its name. None for text, in whatever
    encoding based on ASCII."""
    controls = len(CONTROL.findall(head))
    start = head.removeprefix(codecs.BOM_UTF8)
    kind = first_match(BINARY_KINDS, head) if controls else None
    kind = kind or first_match(OTHER_KINDS, start)
    if kind is WEB_PAGE and WEB_PAGE_ENDINGS.intersection(Path(name.lower()).suffixes):
        return None
    if kind or not controls:
        return kind
    if is_utf8(head):
        return NULS if b"\0" in head else None
    return BINARY if b"\0" in head or 20 * controls > len(head) else None


def first_match(patterns: Mapping[bytes, Value], head: bytes) -> Value | None:
    """The value of the first pattern that matches the beginning of a file; None if none matches."""
    matches = (value for pattern, value in patterns.items() if re.match(pattern, head, re.DOTALL))
    return next(matches, None)


def is_utf8(head: bytes) -> bool:
    """Whether the beginning of a file is UTF-8. It may end within a character."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def files_of(
    source: str,
    notes: list[str],
    corpora: Iterable[str] = (),
    readable: Collection[FileKind] = (),
) -> list[str]:
    """The files of a source: the file itself, standard input (`-`), or the sorted text files of a
    folder or a pattern.

    A folder includes all folders below it. A pattern is one such as `books/*.txt`. Hidden files and
    files that are not text are left out, with a note. Raises `DataError` if no file remains.
    `corpora` are names that the message may suggest if there is no such file. `readable` are kinds
    of files that the caller reads besides text.
    """
    if is_one_file(source):
        return [source]
    visible, hidden = visible_and_hidden_files(source, corpora)
    kinds = {file: kind_of_file(file) for file in visible}
    kinds = {file: None if kind in readable else kind for file, kind in kinds.items()}
    left_out = (
        [f"{len(hidden):,} hidden files left out, such as {hidden[0].name}"] if hidden else []
    )
    left_out += notes_on_kinds(kinds)
    texts = [str(file) for file in visible if kinds[file] is None]
    if not texts:
        reasons = (
            ": " + "; ".join(left_out) if left_out else f"; give UTF-8 files, {READABLE_FORMATS}"
        )
        raise DataError(
            f"{source}: no text file among {len(visible) + len(hidden):,} files{reasons}"
        )
    notes += [f"{source}: {note}" for note in left_out]
    return texts


def is_one_file(source: str) -> bool:
    """Whether a source is a single file, standard input, a pipe or a device."""
    path = Path(source)
    return source == STANDARD_INPUT or (path.exists() and not path.is_dir())


def visible_and_hidden_files(source: str, corpora: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """The visible and the hidden files of a folder and all folders below it, or of a pattern, each
    sorted.

    A pattern has no hidden files. Raises `DataError` if there is no such file or folder.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        hidden = [
            file
            for file in files
            if any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif any(sign in source for sign in "*?["):
        matches = map(Path, glob.glob(source, recursive=True))
        files, hidden = sorted(file for file in matches if file.is_file()), []
    else:
        missing = f"file or corpus{nearest(source, corpora)}" if corpora else "file"
        raise DataError(f"{source}: no such {missing}")
    return sorted(set(files) - set(hidden)), hidden


def notes_on_kinds(kinds: Mapping[Path, FileKind | None]) -> Iterator[str]:
    """Yield a note for each kind of file that is left out because it is not text."""
    for kind in dict.fromkeys(filter(None, kinds.values())):
        files = [file for file in kinds if kinds[file] == kind]
        way_out = f"; {kind.way_out}" if kind.way_out else ""
        count, example = f"{len(files):,}", files[0].name
        yield f"{count} files left out that hold {kind.name}, such as {example}{way_out}"


def kind_of_file(file: Path) -> FileKind | None:
    """`kind_of` for a file. None if it cannot be read."""
    try:
        return kind_of(first_bytes(str(file)), file.name)
    except MissingReader:
        return ZSTD


def first_bytes(file: str) -> bytes:
    """The first bytes of a file after decompression. None are there if it cannot be read, because
    reading it will raise the error.

    Raises `MissingReader` for a zstd file without pyarrow.
    """
    try:
        with open_decompressed(file) as content:
            return content.read(HEAD)
    except (OSError, *DECOMPRESSION_ERRORS):
        return b""


def intact_files(
    source: str,
    notes: list[str],
    corpora: Iterable[str] = (),
    readable: Collection[FileKind] = (),
) -> list[str]:
    """`files_of` without the files of a folder or pattern that cannot be decompressed to their end.
    They are noted too."""
    files = files_of(source, notes, corpora, readable)
    damaged = [file for file in files if is_damaged(file)] if files != [source] else []
    if not damaged:
        return files
    note = (
        f"{len(damaged):,} files left out that cannot be decompressed to their end, "
        f"such as {Path(damaged[0]).name}"
    )
    texts = [file for file in files if file not in set(damaged)]
    if not texts:
        raise DataError(
            f"{source}: no text file among {len(files):,} files: {note}; get them again"
        )
    notes.append(f"{source}: {note}; get them again")
    return texts


def is_damaged(file: str) -> bool:
    """Whether a file is compressed and cannot be decompressed to its end."""
    try:
        with open_decompressed(file) as content:
            while not isinstance(content, io.BufferedReader) and content.read(PIECE):
                pass
    except OSError as error:
        return error.errno is None
    except DECOMPRESSION_ERRORS:
        return True
    return False


def read_file(source: str) -> str:
    """The text of a file. Raises `DataError` if it is not text."""
    return "".join(pieces_of(source))


def pieces_of(source: str) -> Iterator[str]:
    """Yield the text of a file in pieces, without byte order mark. Line ends `\\r\\n` become `\\n`;
    so do single `\\r` if `line_ending` is `\\r`.

    Raises `DataError` if the file cannot be read, is not UTF-8 or contains a NUL.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, pending, ending, ascii_so_far = 1, "", "", True
    for raw in raw_pieces(source):
        ending = ending or line_ending(raw)
        try:
            text = decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            line += error.object.count(ending.encode(), 0, error.start)
            ascii_so_far &= error.object[: error.start].isascii()
            raise DataError(
                f"{source}: line {line} is not UTF-8 (byte 0x{error.object[error.start]:02x}); "
                + encoding_advice(ascii_so_far, at_end=not raw)
            ) from error
        if "\0" in text:
            line += text.count(ending, 0, text.index("\0"))
            raise DataError(f"{source}: line {line} has a NUL byte; {NULS.way_out}")
        line += text.count(ending)
        ascii_so_far &= text.isascii()
        text = pending + text
        pending = "\r" if raw and text.endswith("\r") else ""  # its \n may follow
        text = text.removesuffix(pending).replace("\r\n", "\n")
        yield text.replace("\r", "\n") if ending == "\r" else text


def line_ending(head: bytes) -> str:
    """The line ending of a file by its first bytes: `\\r` if they contain it and no `\\n`, as on a
    Mac before 2001; else `\\n`.

    The last byte does not count, because it may be the first half of `\\r\\n`.
    """
    return "\r" if b"\r" in head[:-1] and b"\n" not in head else "\n"


def encoding_advice(ascii_so_far: bool, at_end: bool) -> str:
    """The way out for bytes that are not UTF-8, depending on the text before them."""
    if ascii_so_far:
        return "convert the file from its encoding, as with iconv -f WINDOWS-1252 -t UTF-8"
    if at_end:
        return "the file ends within a character: it was cut off; get it again"
    return "the text before this byte is: remove such bytes, as with iconv -c -f UTF-8 -t UTF-8"


@contextlib.contextmanager
def open_decompressed(source: str) -> Iterator[BinaryIO]:
    """Open a file or standard input to read its bytes after decompression; an `io.BufferedReader`
    if it is not compressed."""
    with contextlib.ExitStack() as stack:
        raw = io.BytesIO(sys.stdin.buffer.read()) if source == STANDARD_INPUT else io.FileIO(source)
        file = stack.enter_context(io.BufferedReader(raw))
        opener = first_match(DECOMPRESSORS, file.peek(LONGEST_SIGNATURE))
        yield stack.enter_context(open_with(opener, file, source)) if opener else file


def open_with(opener: Callable[..., Any], file: BinaryIO, source: str) -> Any:
    """A compressed file, opened to read its bytes after decompression."""
    try:
        return opener(file)
    except MissingReader as error:
        raise MissingReader(f"{source}: {error}") from error


def raw_pieces(source: str) -> Iterator[bytes]:
    """Yield the bytes of a file after decompression: first `HEAD` bytes, then pieces, at the end an
    empty piece.

    Raises `DataError` if the file cannot be read or is not text.
    """
    try:
        with open_decompressed(source) as file:
            head = file.read(HEAD)
            kind = kind_of(head, source)
            if kind and kind != NULS:
                raise DataError(
                    f"{source}: holds {kind.name} instead of UTF-8 text; "
                    f"{kind.way_out or 'give a text file'}"
                )
            while head:
                yield head
                head = file.read(PIECE)
    except (OSError, *DECOMPRESSION_ERRORS) as error:
        raise reading_error(source, error) from error
    yield b""


def reading_error(source: str, error: Exception) -> DataError:
    """The error for a file that cannot be read, or not decompressed to its end."""
    if isinstance(error, OSError) and error.errno is not None:
        return DataError(f"{source}: cannot be read: {error.strerror}")
    return DamagedFile(
        f"{source}: damaged or cut off, it cannot be decompressed to its end ({error}); get it "
        f"again"
    )


def split_lines(text: str) -> list[str]:
    """The lines of a text. A line break at its end does not start another line; an empty text has
    no lines."""
    return text.removesuffix("\n").split("\n") if text else []
