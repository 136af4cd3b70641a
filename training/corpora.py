"""Corpora: where texts come from, how they are split, and how they become arrays of tokens.

A corpus is a name (`unicode-names`) or a file: UTF-8, plain, .gz or .xz, one text a line or one stream of characters.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvae.configuration import Config, nearest
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import DataError

LONGEST_AUTOMATIC = 256
"""Positions up to which a model's length follows the longest line; longer corpora must say what they want."""

WINDOW = 64
"""Positions of a window when neither preset nor user sets the model's length."""

ALGORITHMIC_NAMES = re.compile(
    r"CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH-|HANGUL SYLLABLE |TANGUT (IDEOGRAPH|COMPONENT)-|NUSHU CHARACTER-"
    r"|KHITAN SMALL SCRIPT CHARACTER-|EGYPTIAN HIEROGLYPH-"
)
"""Names that the Unicode standard derives from a code point or a rule instead of listing them."""


@dataclass(frozen=True)
class Corpus:
    """A named corpus: what it is, how its texts are made, and the settings that suit it."""

    description: str
    texts: Callable[[], list[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def unicode_names() -> list[str]:
    """The names of the Unicode characters, in code point order, without the algorithmic ranges."""
    names = (unicodedata.name(chr(point), "") for point in range(sys.maxunicode + 1))
    return [name for name in names if name and not ALGORITHMIC_NAMES.match(name)]


CORPORA: dict[str, Corpus] = {
    "unicode-names": Corpus(
        f"names of the Unicode {unicodedata.unidata_version} characters, from Python itself",
        unicode_names,
        {"model.length": 48, "data.too_long": "drop"},
    ),
}


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training: the completed configuration, the alphabet, and tokens of the smallest integer type.

    `train` and `validation` are rows of tokens (N, T); in `windows` mode `train` is the stream itself, (characters,).
    `notes` are sentences for the user: what was skipped, cut, dropped or unknown.
    """

    config: Config
    alphabet: Alphabet
    train: np.ndarray
    validation: np.ndarray
    train_texts: Sequence[str]
    validation_texts: Sequence[str]
    notes: tuple[str, ...]


def prepare(config: Config) -> Prepared:
    """Read, split and encode what `config.data` names, choosing the model's length and alphabet where they are open."""
    notes: list[str] = []
    config = settled(config)
    train, validation = split_texts(config, notes)
    if config.data.mode == "lines":
        config = with_length(config, [*train, *validation])
        train = fitting(config, train, config.data.source, notes)
        validation = fitting(config, validation, config.data.validation or config.data.source, notes)
    else:
        config = config.with_settings({"model.length": config.model.length or WINDOW})
        windows(config, train, config.data.source, notes)  # raises for a stream shorter than a window
        validation = windows(config, validation, config.data.validation or config.data.source, notes)
    alphabet = Alphabet.build(train, config.data.max_symbols)
    config = config.with_settings({"model.vocabulary_size": len(alphabet)})
    note_unknown(alphabet, [*train, *validation], notes)
    rows = stream_ids(alphabet, train) if config.data.mode == "windows" else encoded(config, alphabet, train)
    return Prepared(config, alphabet, rows, encoded(config, alphabet, validation), train, validation, tuple(notes))


def settled(config: Config) -> Config:
    """The configuration with files by their full paths, so that a run can be evaluated from any folder, and with the
    settings that suit a named corpus where the model's length is still open."""
    sources = {f"data.{name}": getattr(config.data, name) for name in ("source", "validation")}
    if STANDARD_INPUT in sources.values():
        raise DataError(
            "standard input cannot be read again when the run is evaluated; save it to a file and give that"
        )
    config = config.with_settings({key: str(Path(name).absolute()) for key, name in sources.items() if is_file(name)})
    if config.data.source in CORPORA and not config.model.length:
        return config.with_settings(CORPORA[config.data.source].settings)
    return config


def is_file(name: str | None) -> bool:
    """Whether a source is a path rather than a corpus or nothing."""
    return name is not None and name not in CORPORA


def held_out(
    config: Config, alphabet: Alphabet, file: str | None = None
) -> tuple[np.ndarray, list[str], tuple[str, ...]]:
    """What a trained model is evaluated on: its held-out split, or all of `file`. Tokens (N, T), texts and notes."""
    notes: list[str] = []
    texts = split_texts(config, notes)[1] if file is None else read_texts(file, config.data.mode, notes)
    fit = fitting if config.data.mode == "lines" else windows
    texts = fit(config, texts, file or config.data.source, notes)
    note_unknown(alphabet, texts, notes)
    return encoded(config, alphabet, texts), texts, tuple(notes)


def split_texts(config: Config, notes: list[str]) -> tuple[list[str], list[str]]:
    """Texts to learn from and texts held out. A stream is one text, and its end is held out."""
    data = config.data
    texts = read_texts(data.source, data.mode, notes)
    if data.validation is not None:
        return texts, read_texts(data.validation, data.mode, notes)
    if data.mode == "windows":
        cut = round(len(texts[0]) * (1 - data.validation_fraction))
        return [texts[0][:cut]], [texts[0][cut:]]
    train, validation = hold_out(texts, data.validation_fraction, data.split_seed)
    if not train or not validation:
        raise DataError(
            f"{data.source}: needs at least two different lines, one to train on and one to hold out; "
            f"give a longer file, or one more with --validation"
        )
    return train, validation


def hold_out(texts: Sequence[str], fraction: float, seed: int) -> tuple[list[str], list[str]]:
    """Split by a hash of the text, at least one text held out: equal texts fall on the same side, so none leaks."""
    key = seed.to_bytes(8)
    places = [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest()) / 2**64 for text in texts]
    limit = max(fraction, min(places))
    train = [text for text, place in zip(texts, places, strict=True) if place > limit]
    return train, [text for text, place in zip(texts, places, strict=True) if place <= limit]


def read_texts(source: str, mode: str, notes: list[str]) -> list[str]:
    """The texts of a named corpus or a file; in `windows` mode one text, the whole stream with its line breaks."""
    if source in CORPORA:
        lines = CORPORA[source].texts()
    else:
        lines = read_file(source).replace("\r\n", "\n").removesuffix("\n").split("\n")
    if mode == "windows":
        return ["\n".join(lines)]
    texts = [line for line in lines if line.strip()]
    if len(texts) < len(lines):
        notes.append(f"{source}: {len(lines) - len(texts):,} blank lines skipped")
    if not texts:
        raise DataError(f"{source}: the file has no text; give a file with one text a line")
    return texts


STANDARD_INPUT = "-"

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def read_file(source: str) -> str:
    """A UTF-8 file, unpacked by its ending, or standard input (`-`); whatever is unreadable raises `DataError`."""
    path = Path(source)
    try:
        if source != STANDARD_INPUT and not path.exists():
            raise DataError(f"{source}: no such file or corpus{nearest(source, CORPORA)}")
        if source == STANDARD_INPUT:
            raw = sys.stdin.buffer.read()
        else:
            with OPENERS.get(path.suffix, open)(path, "rb") as file:
                raw = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{source}: cannot be read: {error}; give a plain, .gz or .xz file") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}: line {line} is not UTF-8 (byte 0x{raw[error.start]:02x}); convert the file, as with iconv -t UTF-8"
        ) from error


def with_length(config: Config, texts: Sequence[str]) -> Config:
    """The configuration with T set: the longest text and its end mark, rounded up to what the strides divide."""
    if config.model.length:
        return config
    longest = max(map(len, texts))
    if longest >= LONGEST_AUTOMATIC and config.data.too_long == "refuse":
        raise DataError(
            f"{config.data.source}: the longest of {len(texts):,} lines has {longest:,} characters, "
            f"{sum(len(text) >= LONGEST_AUTOMATIC for text in texts):,} have over {LONGEST_AUTOMATIC - 1}; choose "
            f"--set data.too_long=cut or drop, a longer model with --set model.length=N, or --set data.mode=windows"
        )
    return config.with_settings({"model.length": multiple_of_strides(config, min(longest + 1, LONGEST_AUTOMATIC))})


def multiple_of_strides(config: Config, length: int) -> int:
    """The smallest length from `length` on that every stride of the model divides."""
    stride = 2 ** max(len(config.model.encoder_filters), len(config.model.expander_filters))
    return -(-length // stride) * stride


def fitting(config: Config, texts: list[str], source: str, notes: list[str]) -> list[str]:
    """The texts of `source` that fit T, by `data.too_long`: refuse (an error with the count), cut or drop."""
    room = config.model.length - 1
    long = [text for text in texts if len(text) > room]
    if not long:
        return texts
    counts = f"{source}: {len(long):,} of {len(texts):,} lines are longer than the model's {room} characters"
    if config.data.too_long == "refuse":
        enough = multiple_of_strides(config, max(map(len, long)) + 1)
        raise DataError(
            f"{counts}; cut them with --set data.too_long=cut, leave them out with --set data.too_long=drop, "
            f"or train a longer model with --set model.length={enough}"
        )
    if config.data.too_long == "cut":
        notes.append(f"{counts}: cut")
        return [text[:room] for text in texts]
    notes.append(f"{counts}: dropped")
    kept = [text for text in texts if len(text) <= room]
    if not kept:
        raise DataError(f"{counts} and dropped, none is left; train a longer model with --set model.length=N")
    return kept


def windows(config: Config, texts: list[str], source: str, notes: list[str]) -> list[str]:
    """A stream cut into neighbouring windows of T characters: a fixed set that covers it."""
    length = config.model.length
    stream = texts[0]
    if len(stream) < length:
        raise DataError(
            f"{source}: {len(stream)} characters to train on or to hold out, fewer than one window of {length}; "
            f"give a longer file or a smaller model.length"
        )
    return [stream[start : start + length] for start in range(0, len(stream) - length + 1, length)]


def encoded(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """Texts as rows of tokens (N, T): lines end with END and PAD, windows fill the row."""
    length = config.model.length
    if config.data.mode == "windows":
        return stream_ids(alphabet, texts).reshape(-1, length)
    return alphabet.encode(texts, length).astype(smallest_type(alphabet))


def stream_ids(alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """The ids of all characters of `texts`, one after the other."""
    return np.array([number for text in texts for number in alphabet.ids(text)], smallest_type(alphabet))


def smallest_type(alphabet: Alphabet) -> Any:
    """The narrowest integer type that holds every id."""
    return np.min_scalar_type(len(alphabet) - 1)


def note_unknown(alphabet: Alphabet, texts: Sequence[str], notes: list[str]) -> None:
    """Say how many characters the alphabet lacks, and which are the commonest."""
    unknown = alphabet.unknown(texts)
    if unknown:
        commonest = ", ".join(f"{symbol!r} {count:,}" for symbol, count in unknown.most_common(3))
        notes.append(
            f"{unknown.total():,} characters of {len(unknown):,} kinds are outside the alphabet "
            f"of {len(alphabet.symbols)}: {commonest}"
        )
