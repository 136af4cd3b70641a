"""Files of text: UTF-8, plain or packed, one of them, a folder of them or a pattern; read whole or piece by piece.

What a file is follows from its first bytes, whatever its name says: packed files are unpacked, and what is no text is refused,
or left out of a folder and noted.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import glob
import gzip
import io
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kvae.configuration import nearest
from kvae.serving.errors import DataError

STANDARD_INPUT = "-"

PIECE = 2**22
"""Bytes that are read at once."""

HEAD = 2**13
"""Bytes, unpacked, that tell what a file is."""

PACKED: dict[bytes, Callable[..., Any]] = {
    rb"\x1f\x8b\x08": gzip.open,
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": bz2.open,
    rb"\xfd7zXZ\0": lzma.open,
}
"""What unpacks a file, by its first bytes."""

LONGEST_PACKED = 10
"""First bytes that tell a packed file."""

ENDINGS = (".gz", ".bz2", ".xz")
"""How the names of packed files end."""

READ = "plain, .gz, .bz2 or .xz"
"""What is read, in a sentence."""

UNPACKING = (EOFError, lzma.LZMAError, zlib.error)
"""What unpacking raises beside an `OSError` without a number."""


class Kind(NamedTuple):
    """What a file holds instead of text, and the way out."""

    name: str
    way_out: str = ""


FOLDER = "unpack it and give the folder"
AS_TEXT = "save it as text in the program that made it"
LINES = "write its texts to a text file first, one a line, as with Python"

BINARY_KINDS: dict[bytes, Kind] = {
    rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|docProps/|word/|xl/|ppt/)": Kind(
        "an Office document", AS_TEXT
    ),
    rb"PK\x03\x04.{26}mimetype": Kind("an OpenDocument file or an e-book", AS_TEXT),
    rb"PK\x03\x04.{26}[^/\0]{1,99}\.npy": Kind("numpy arrays", LINES),
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": Kind("a zip archive", FOLDER),
    rb".{257}ustar": Kind("a tar archive", "unpack it, as with tar -xf, and give the folder"),
    rb"7z\xbc\xaf\x27\x1c": Kind("a 7z archive", FOLDER),
    rb"Rar!\x1a\x07": Kind("a rar archive", FOLDER),
    rb"\x28\xb5\x2f\xfd": Kind("a zstd file", "unpack it, as with zstd -d"),
    rb"\x04\x22\x4d\x18": Kind("an lz4 file", "unpack it, as with lz4 -d"),
    rb"LZIP\x01": Kind("an lzip file", "unpack it, as with lzip -d"),
    rb"\x5d\0\0.{2}": Kind("an lzma file", "unpack it, as with unlzma"),
    rb"\x1f[\x9d\xa0]": Kind("a file packed by compress", "unpack it, as with gzip -d"),
    **dict.fromkeys(PACKED, Kind("a file that was packed twice", "unpack it once")),
    rb"PAR1": Kind("a Parquet table", LINES),
    rb"ARROW1|FEA1": Kind("an Arrow table", LINES),
    rb"ORC": Kind("an ORC table", LINES),
    rb"Obj\x01": Kind("an Avro table", LINES),
    rb"\x89HDF\r\n\x1a\n": Kind("an HDF5 file", LINES),
    rb"SQLite format 3\0": Kind("an SQLite database", LINES),
    rb"\x93NUMPY": Kind("numpy arrays", LINES),
    rb"\x80[\x02-\x05]": Kind("a pickle", LINES),
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": Kind("an Office document", AS_TEXT),
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a|II\*\0|MM\0\*|RIFF.{4}WEBP|BM.{4}\0\0\0\0": Kind(
        "an image"
    ),
    rb"RIFF.{4}(WAVE|AVI )|ID3|\xff[\xf2\xf3\xfb]|OggS|fLaC|.{4}ftyp|\x1aE\xdf\xa3": Kind(
        "sound or video"
    ),
    rb"\x7fELF|MZ|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe": Kind("a program"),
    rb"([^\0]\0){8}": Kind("UTF-16", "convert it, as with iconv -f UTF-16LE -t UTF-8"),
    rb"(\0[^\0]){8}": Kind("UTF-16", "convert it, as with iconv -f UTF-16BE -t UTF-8"),
}
"""What a file holds, by its first bytes and in this order, where control characters among them say that it is no text."""

WEB_PAGE = Kind(
    "a web page",
    "get the file itself; to learn the tags too, give the page a name that ends in .html",
)
WEB_PAGE_ENDINGS = {".html", ".htm", ".xhtml"}

OTHER_KINDS: dict[bytes, Kind] = {
    rb"\xff\xfe\0\0|\0\0\xfe\xff": Kind("UTF-32", "convert it, as with iconv -f UTF-32 -t UTF-8"),
    rb"\xff\xfe|\xfe\xff": Kind("UTF-16", "convert it, as with iconv -f UTF-16 -t UTF-8"),
    rb"version https://git-lfs\.github\.com/spec/v\d\s+(ext-[^\n]*\n)*oid sha256:[0-9a-f]{64}\s+size \d+\s*\Z": Kind(
        "a Git LFS pointer", "fetch what it stands for with git lfs pull"
    ),
    rb"[./]*annex/objects/\S+\s*\Z": Kind(
        "a git-annex pointer", "fetch what it stands for with git annex get"
    ),
    rb"(?i:\s*(<\?xml[^>]*>\s*)?((?><!--.*?-->)\s*)*+<(!doctype\s+html|html)\b.*<(head|body|title|meta)\b)": WEB_PAGE,
    rb"\s*(<\?xml[^>]*>\s*)?<Error>\s*<Code>": Kind(
        "the error message of a download", "get the file again"
    ),
    rb"%PDF-\d": Kind("a PDF", "write its text to a file first, as with pdftotext"),
    rb"%!PS-Adobe": Kind("a PostScript file", "write its text to a file first, as with ps2ascii"),
    rb"\{\\rtf\d": Kind("an RTF document", AS_TEXT),
}
"""The same of all files: other encodings, and texts that stand for something else."""

BINARY = Kind("binary data")
NULS = Kind("NUL bytes", "where it is a text, take them out, as with tr -d '\\000'")

CONTROL = re.compile(rb"[\0-\x06\x0e-\x19\x1c-\x1f]")
"""Bytes that no usual text has, in any encoding of ASCII's family; a stray one may be there."""


class Damaged(DataError):
    """A packed file that does not unpack to its end."""


def kind_of(head: bytes, name: str) -> Kind | None:
    """What a file of that name holds instead of text, by its first bytes; None for text, also in another encoding."""
    controls = len(CONTROL.findall(head))
    start = head.removeprefix(codecs.BOM_UTF8)
    found = (matching(BINARY_KINDS, head) if controls else None) or matching(OTHER_KINDS, start)
    if found is WEB_PAGE and WEB_PAGE_ENDINGS.intersection(Path(name.lower()).suffixes):
        return None
    if found or not controls:
        return found
    if is_utf8(head):
        return NULS if b"\0" in head else None
    return BINARY if b"\0" in head or 20 * controls > len(head) else None


def matching(patterns: Mapping[bytes, Any], head: bytes) -> Any:
    """What stands behind the first pattern that the beginning of a file fits; None where none does."""
    return next(
        (found for pattern, found in patterns.items() if re.match(pattern, head, re.DOTALL)), None
    )


def is_utf8(head: bytes) -> bool:
    """Whether the beginning of a file, which may end within a character, is UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def files_of(source: str, notes: list[str], corpora: Iterable[str] = ()) -> list[str]:
    """The files that a source names: itself, standard input (`-`), or the sorted text files of a folder and all below it, or
    of a pattern such as `books/*.txt`. What is hidden or holds no text is left out and noted. Raises `DataError` where
    nothing is left; `corpora` are names that may have been meant where there is no such file.
    """
    if is_one_file(source):
        return [source]
    shown, hidden = found_files(source, corpora)
    kinds = {file: kind_of_file(file) for file in shown}
    left_out = (
        [f"{len(hidden):,} hidden files left out, such as {hidden[0].name}"] if hidden else []
    )
    left_out += sentences_on(kinds)
    texts = [str(file) for file in shown if kinds[file] is None]
    if not texts:
        reasons = ": " + "; ".join(left_out) if left_out else f"; give UTF-8 files, {READ}"
        raise DataError(f"{source}: no text file among {len(shown) + len(hidden):,} files{reasons}")
    notes += [f"{source}: {sentence}" for sentence in left_out]
    return texts


def is_one_file(source: str) -> bool:
    """Whether a source is read itself: a file, standard input, a pipe or a device."""
    path = Path(source)
    return source == STANDARD_INPUT or (path.exists() and not path.is_dir())


def found_files(source: str, corpora: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """The files of a folder and all below it, or of a pattern, sorted, and apart from them those that a folder hides. Raises
    `DataError` where the source names nothing."""
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file())
        hidden = [
            file
            for file in found
            if any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    elif any(sign in source for sign in "*?["):
        found, hidden = (
            sorted(file for file in map(Path, glob.glob(source, recursive=True)) if file.is_file()),
            [],
        )
    else:
        missing = f"file or corpus{nearest(source, corpora)}" if corpora else "file"
        raise DataError(f"{source}: no such {missing}")
    return sorted(set(found) - set(hidden)), hidden


def sentences_on(kinds: Mapping[Path, Kind | None]) -> Iterator[str]:
    """A sentence on each kind of file that is left out because it holds no text."""
    for kind in dict.fromkeys(filter(None, kinds.values())):
        files = [file for file in kinds if kinds[file] == kind]
        way_out = f"; {kind.way_out}" if kind.way_out else ""
        yield f"{len(files):,} files left out that hold {kind.name}, such as {files[0].name}{way_out}"


def kind_of_file(file: Path) -> Kind | None:
    """What a file holds instead of text; one that cannot be read is left for reading to say so."""
    try:
        with unpacked(str(file)) as content:
            return kind_of(content.read(HEAD), file.name)
    except (OSError, *UNPACKING):
        return None


def whole_files(source: str, notes: list[str], corpora: Iterable[str] = ()) -> list[str]:
    """As `files_of`, and what is packed in a folder and does not unpack to its end is left out and noted too."""
    files = files_of(source, notes, corpora)
    damaged = [file for file in files if is_damaged(file)] if files != [source] else []
    if not damaged:
        return files
    sentence = f"{len(damaged):,} files left out that do not unpack to their end, such as {Path(damaged[0]).name}"
    texts = [file for file in files if file not in set(damaged)]
    if not texts:
        raise DataError(
            f"{source}: no text file among {len(files):,} files: {sentence}; get them again"
        )
    notes.append(f"{source}: {sentence}; get them again")
    return texts


def is_damaged(file: str) -> bool:
    """Whether a file is packed and does not unpack to its end."""
    try:
        with unpacked(file) as content:
            while not isinstance(content, io.BufferedReader) and content.read(PIECE):
                pass
    except OSError as error:
        return error.errno is None
    except UNPACKING:
        return True
    return False


def read_file(source: str) -> str:
    """All of a file; raises `DataError` where it is not text."""
    return "".join(pieces_of(source))


def pieces_of(source: str) -> Iterator[str]:
    """The text of a file piece by piece, without byte order mark and with `\\n` at the end of lines, also where its first bytes
    have lines that end with `\\r` alone. Raises `DataError` for what cannot be read, is not UTF-8, or holds a NUL."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, kept, ending, ascii_so_far = 1, "", "", True
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
        text = kept + text
        kept = "\r" if raw and text.endswith("\r") else ""  # its \n may follow
        text = text.removesuffix(kept).replace("\r\n", "\n")
        yield text.replace("\r", "\n") if ending == "\r" else text


def line_ending(head: bytes) -> str:
    """What ends the lines of a file, by its first bytes: `\\r` alone where they have no other, as on a Mac before 2001. The
    last byte may be half of `\\r\\n`."""
    return "\r" if b"\r" in head[:-1] and b"\n" not in head else "\n"


def encoding_advice(ascii_so_far: bool, at_end: bool) -> str:
    """What to do about bytes that are not UTF-8, by what stands before them."""
    if ascii_so_far:
        return (
            "convert the file from the encoding that it has, as with iconv -f WINDOWS-1252 -t UTF-8"
        )
    if at_end:
        return "the file ends within a character: it was cut off; get it again"
    return "what stands before it is: leave such bytes out, as with iconv -c -f UTF-8 -t UTF-8"


@contextlib.contextmanager
def unpacked(source: str) -> Iterator[Any]:
    """A file, or standard input, opened to read its bytes unpacked: an `io.BufferedReader` where it is not packed."""
    with contextlib.ExitStack() as stack:
        raw = io.BytesIO(sys.stdin.buffer.read()) if source == STANDARD_INPUT else io.FileIO(source)
        file = stack.enter_context(io.BufferedReader(raw))
        opener = matching(PACKED, file.peek(LONGEST_PACKED))
        yield stack.enter_context(opener(file)) if opener else file


def raw_pieces(source: str) -> Iterator[bytes]:
    """The bytes of a file, unpacked, and an empty piece at the end; the first piece tells what it is. Raises `DataError` for
    what cannot be read or holds no text."""
    try:
        with unpacked(source) as file:
            head = file.read(HEAD)
            kind = kind_of(head, source)
            if kind and kind != NULS:
                raise DataError(
                    f"{source}: holds {kind.name} instead of UTF-8 text; {kind.way_out or 'give a text file'}"
                )
            while head:
                yield head
                head = file.read(PIECE)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{source}: cannot be read: {error.strerror}") from error
        raise damaged(source, error) from error
    except UNPACKING as error:
        raise damaged(source, error) from error
    yield b""


def damaged(source: str, error: Exception) -> Damaged:
    """The error of a packed file that does not unpack to its end."""
    return Damaged(
        f"{source}: damaged or cut off, it does not unpack to its end ({error}); get it again"
    )


def split_lines(text: str) -> list[str]:
    """The lines of a file; the last line break ends the last one, and nothing is no line."""
    return text.removesuffix("\n").split("\n") if text else []
