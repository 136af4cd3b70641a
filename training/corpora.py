"""Corpora: where texts come from, how they are split, and how they become arrays of tokens.

A corpus is a name (`unicode-names`) or a file: UTF-8, plain, .gz or .xz, one text a line or one stream of characters.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import lzma
import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kvae.configuration import Config, DataConfig, dotted_value, nearest
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import ConfigError, DataError

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
    held_out: Callable[[], list[str]] | None = None
    """Texts of the same distribution to hold out; None: some of `texts` are."""
    label: Callable[[str], str] | None = None
    """The label of a text, for `data.labels=corpus`."""
    entropy: float | None = None
    """Nats a text, where it is known: no honest bound is lower."""


def unicode_names() -> list[str]:
    """The names of the Unicode characters, in code point order, without the algorithmic ranges."""
    names = (unicodedata.name(chr(point), "") for point in range(sys.maxunicode + 1))
    return [name for name in names if name and not ALGORITHMIC_NAMES.match(name)]


SINE_POSITIONS, SINE_CLASSES = 16, 10


def sines(count: int, seed: int) -> list[str]:
    """Sampled sine waves of random frequency and phase as ten digits at 16 places (Petersen 2018, 3.1 and his code)."""
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(-1.0, 1.0, (2, count, 1))
    places = np.linspace(-1.0, 1.0, SINE_POSITIONS)
    waves = 0.5 + 0.499 * np.sin(3.14 * places * frequency + 3.14 * phase)
    digits = np.floor(SINE_CLASSES * waves).astype(np.uint8) + ord("0")
    return [row.tobytes().decode("ascii") for row in digits]


def level_of_a_sine(text: str) -> str:
    """Whether a wave is mostly above or below its middle."""
    return "high" if 2 * sum(map(int, text)) > (SINE_CLASSES - 1) * len(text) else "low"


CORPORA: dict[str, Corpus] = {
    "unicode-names": Corpus(
        f"names of the Unicode {unicodedata.unidata_version} characters, from Python itself",
        unicode_names,
        {"model.length": 48, "data.too_long": "drop"},
        label=lambda name: "letter" if "LETTER" in name else "other",
    ),
    "sines": Corpus(
        "sine waves of random frequency and phase as 16 digits: 250,000 to learn from, which is 50 times 5,000 fresh ones",
        lambda: sines(250_000, seed=0),
        {"model.length": SINE_POSITIONS, "data.mode": "fixed"},
        held_out=lambda: sines(10_000, seed=1),
        label=level_of_a_sine,
        entropy=8.505,
    ),
}


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training: the completed configuration, the alphabet, and tokens of the smallest integer type.

    `train` and `validation` are rows of tokens (N, T); in `windows` mode `train` is the stream itself, (characters,).
    Their attributes (N,) are indices into `config.model.attributes`, -1 where a label is missing, or None without labels.
    `notes` are sentences for the user: what was skipped, cut, dropped or unknown.
    """

    config: Config
    alphabet: Alphabet
    train: np.ndarray
    validation: np.ndarray
    train_texts: Sequence[str]
    validation_texts: Sequence[str]
    notes: tuple[str, ...]
    train_attribute: np.ndarray | None = None
    validation_attribute: np.ndarray | None = None


@dataclass(frozen=True)
class Lines:
    """Texts and, where there are labels, one for each; an empty label is a missing one."""

    texts: list[str]
    labels: list[str] | None = None

    def where(self, keep: Sequence[bool]) -> Lines:
        """The lines that are to be kept."""
        labels = None if self.labels is None else list(itertools.compress(self.labels, keep))
        return Lines(list(itertools.compress(self.texts, keep)), labels)


def prepare(config: Config) -> Prepared:
    """Read, split and encode what `config.data` names, choosing length, alphabet and attributes where they are open."""
    notes: list[str] = []
    config = settled(config)
    train, validation = split_texts(config, notes)
    if config.data.mode == "windows":
        config = config.with_settings({"model.length": config.model.length or WINDOW})
        windows(config, train, config.data.source, notes)  # raises for a stream shorter than a window
        validation = windows(config, validation, config.data.validation or config.data.source, notes)
    else:
        config = with_length(config, [*train.texts, *validation.texts])
        train = fitting(config, train, config.data.source, notes)
        validation = fitting(config, validation, config.data.validation or config.data.source, notes)
    config = with_attributes(config, train, notes)
    alphabet = Alphabet.build(train.texts, config.data.max_symbols)
    if config.model.vocabulary_size not in (0, len(alphabet)):
        raise ConfigError(
            f"model.vocabulary_size is {config.model.vocabulary_size}, the corpus has {len(alphabet)} symbols with the special "
            f"ones; leave it at 0, and limit the alphabet with data.max_symbols"
        )
    config = config.with_settings({"model.vocabulary_size": len(alphabet)})
    note_unknown(alphabet, [*train.texts, *validation.texts], notes)
    rows = (
        stream_ids(alphabet, train.texts) if config.data.mode == "windows" else encoded(config, alphabet, train.texts)
    )
    attribute, validation_attribute = seen_labels(config, train, notes), attribute_ids(config, validation)
    note_guessed(validation_attribute, notes)
    return Prepared(
        config,
        alphabet,
        rows,
        encoded(config, alphabet, validation.texts),
        train.texts,
        validation.texts,
        tuple(notes),
        attribute,
        validation_attribute,
    )


def settled(config: Config) -> Config:
    """The configuration with files by their full paths, so that a run can be evaluated from any folder, and with the
    settings that suit a named corpus where the model's length is still open."""
    names = ("source", "validation", "labels", "validation_labels")
    sources = {f"data.{name}": getattr(config.data, name) for name in names}
    if STANDARD_INPUT in sources.values():
        raise DataError(
            "standard input cannot be read again when the run is evaluated; save it to a file and give that"
        )
    config = config.with_settings({key: str(Path(name).absolute()) for key, name in sources.items() if is_file(name)})
    if config.data.source not in CORPORA:
        return config
    wanted = CORPORA[config.data.source].settings
    untouched = {
        key: value for key, value in wanted.items() if dotted_value(config, key) == dotted_value(Config(), key)
    }
    config = config.with_settings(untouched)
    if "model.length" in untouched and config.data.mode == "lines":
        config = config.with_settings({"model.length": multiple_of_strides(config, config.model.length)})
    return config


def entropy_of(config: Config) -> float | None:
    """Nats a text of the corpus that a run is evaluated on, where they are known and its bound is on -log p(x)."""
    corpus = CORPORA.get(config.data.source)
    bare = config.data.validation is None and not config.model.attributes and config.data.mode != "windows"
    return corpus.entropy if corpus and bare else None


def is_file(name: str | None) -> bool:
    """Whether a source is a path rather than a corpus or nothing."""
    return name is not None and name not in CORPORA and name != CORPUS_LABELS


@dataclass(frozen=True)
class HeldOut:
    """What a trained model is evaluated on: tokens (N, T), texts, notes for the user, attributes (N,) or None."""

    rows: np.ndarray
    texts: list[str]
    notes: tuple[str, ...]
    attribute: np.ndarray | None


def held_out(config: Config, alphabet: Alphabet, file: str | None = None, labels: str | None = None) -> HeldOut:
    """The held-out split of a run's corpus, or all of `file` with the labels of another file."""
    notes: list[str] = []
    lines = split_texts(config, notes)[1] if file is None else read_lines(file, labels, config.data.mode, notes)
    fit = windows if config.data.mode == "windows" else fitting
    lines = fit(config, lines, file or config.data.source, notes)
    note_unknown(alphabet, lines.texts, notes)
    attribute = attribute_ids(config, lines)
    note_guessed(attribute, notes)
    return HeldOut(encoded(config, alphabet, lines.texts), lines.texts, tuple(notes), attribute)


def learned_texts(config: Config) -> list[str]:
    """The texts that a run learned from, read again; of a stream, its neighbouring windows."""
    notes: list[str] = []  # training said them
    lines = split_texts(config, notes)[0]
    fit = windows if config.data.mode == "windows" else fitting
    return fit(config, lines, config.data.source, notes).texts


def note_guessed(attribute: np.ndarray | None, notes: list[str]) -> None:
    """Say what a missing label does to the bound."""
    if attribute is not None and (attribute < 0).any():
        notes.append(
            f"{(attribute < 0).sum():,} of {len(attribute):,} held-out texts have no label: it is guessed and paid for, their "
            f"bound is on -log p(text) instead of -log p(text | label)"
        )


def split_texts(config: Config, notes: list[str]) -> tuple[Lines, Lines]:
    """Texts to learn from and texts held out. A stream is one text, and its end is held out."""
    data = config.data
    check_labels(data)
    lines = read_lines(data.source, data.labels, data.mode, notes)
    if data.validation is not None:
        own = CORPUS_LABELS if data.labels and data.validation in CORPORA else None
        return lines, read_lines(data.validation, data.validation_labels or own, data.mode, notes)
    corpus = CORPORA.get(data.source)
    if corpus and corpus.held_out:
        texts = corpus.held_out()
        return lines, Lines(texts, [corpus.label(text) for text in texts] if data.labels and corpus.label else None)
    if data.mode == "windows":
        cut = round(len(lines.texts[0]) * (1 - data.validation_fraction))
        return Lines([lines.texts[0][:cut]]), Lines([lines.texts[0][cut:]])
    train, validation = hold_out(lines, data.validation_fraction, data.split_seed)
    validation = without_new_labels(validation, train)
    if not train.texts or not validation.texts:
        raise DataError(
            f"{data.source}: needs at least two different lines, one to train on and one to hold out; "
            f"give a longer file, or one more with --validation"
        )
    return train, validation


def hold_out(lines: Lines, fraction: float, seed: int) -> tuple[Lines, Lines]:
    """Split by a hash of the text, at least one text held out: equal texts fall on the same side, so none leaks."""
    places = [place_of(text, seed) for text in lines.texts]
    limit = max(fraction, min(places))
    return lines.where([place > limit for place in places]), lines.where([place <= limit for place in places])


def without_new_labels(validation: Lines, train: Lines) -> Lines:
    """Held-out texts whose label no text to learn from has lose it: the model cannot know it."""
    if validation.labels is None or train.labels is None:
        return validation
    known = set(train.labels)
    return Lines(validation.texts, [label if label in known else "" for label in validation.labels])


def place_of(text: str, seed: int, purpose: bytes = b"") -> float:
    """A number in [0, 1) that looks random and is always the same for a text, a seed and a purpose."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8) + purpose).digest()
    return int.from_bytes(digest) / 2**64


CORPUS_LABELS = "corpus"
"""What `data.labels` says when a named corpus labels its own texts."""


def read_lines(source: str, labels: str | None, mode: str, notes: list[str]) -> Lines:
    """The texts of a source and, from a file or the corpus, their labels."""
    if labels is None:
        return Lines(read_texts(source, mode, notes))
    if mode == "windows":
        raise ConfigError("data.labels: windows of a stream have no labels; use data.mode=lines")
    if labels == CORPUS_LABELS:
        label = CORPORA[source].label if source in CORPORA else None
        if label is None:
            raise ConfigError(f"data.labels is {labels!r}, but {source} has no labels of its own; give a file")
        texts = read_texts(source, mode, notes)
        return Lines(texts, [label(text) for text in texts])
    lines = CORPORA[source].texts() if source in CORPORA else split_lines(read_file(source))
    content = read_file(labels, ())
    given = [label.strip() for label in split_lines(content)] if content else []
    if len(given) != len(lines):
        raise DataError(
            f"{labels}: {len(given):,} labels for the {len(lines):,} lines of {source}; "
            f"give one a line, an empty one where a label is missing"
        )
    return without_blanks(Lines(lines, given), source, notes)


def without_blanks(lines: Lines, source: str, notes: list[str]) -> Lines:
    """The lines that hold text; `DataError` where none does."""
    keep = [bool(text.strip()) for text in lines.texts]
    if not all(keep):
        notes.append(f"{source}: {keep.count(False):,} blank lines skipped")
    if not any(keep):
        raise DataError(f"{source}: the file has no text; give a file with one text a line")
    return lines.where(keep)


def check_labels(data: DataConfig) -> None:
    """Refuse settings about labels that nothing would read."""
    if data.labels is None and (data.validation_labels or data.labelled_fraction < 1.0):
        raise ConfigError("data.validation_labels and data.labelled_fraction need data.labels (--labels); give it too")
    if data.validation_labels and data.validation is None:
        raise ConfigError("data.validation_labels needs the texts they belong to: data.validation (--validation)")


def with_attributes(config: Config, train: Lines, notes: list[str]) -> Config:
    """The configuration with the values of the label that texts to learn from have, in order of the alphabet."""
    if train.labels is None and config.model.attributes:
        raise ConfigError(
            "model.attributes follows from the labels: name them with data.labels (--labels), or leave it out"
        )
    if train.labels is None:
        return config
    counts = Counter(label for label in train.labels if label)
    if len(counts) < 2:
        raise DataError(f"data.labels: there must be at least two values of the label, got {sorted(counts)}")
    if len(counts) > MOST_ATTRIBUTES:
        raise DataError(f"data.labels: {len(counts):,} values, at most {MOST_ATTRIBUTES} are supported; group them")
    found = [f"{value!r} {count:,}" for value, count in sorted(counts.items())]
    missing = len(train.texts) - counts.total()
    notes.append("labels to learn from: " + ", ".join(found + ([f"none {missing:,}"] if missing else [])))
    return config.with_settings({"model.attributes": sorted(counts)})


MOST_ATTRIBUTES = 100


def attribute_ids(config: Config, lines: Lines) -> np.ndarray | None:
    """Labels as indices into the model's attributes, (N,) int32, -1 where missing; None for a model without them."""
    if not config.model.attributes:
        return None
    index = {value: number for number, value in enumerate(config.model.attributes)} | {"": -1}
    labels = lines.labels or [""] * len(lines.texts)
    strange = sorted(set(labels) - index.keys())
    if strange:
        values = config.model.attributes
        raise DataError(f"labels: {strange[0]!r} is none the model was trained with{nearest(strange[0], values)}")
    return np.array([index[label] for label in labels], np.int32)


def seen_labels(config: Config, train: Lines, notes: list[str]) -> np.ndarray | None:
    """The attributes that training may see: a share of `labelled_fraction`, chosen by the texts' hashes."""
    ids = attribute_ids(config, train)
    share = config.data.labelled_fraction
    if ids is not None and share < 1.0:
        hidden = [place_of(text, config.data.split_seed, b"label") >= share for text in train.texts]
        ids = np.where(hidden, -1, ids).astype(np.int32)
        notes.append(
            f"training sees {(ids >= 0).sum():,} of the {len(ids):,} labels (data.labelled_fraction={share:g})"
        )
    if ids is not None and (ids < 0).any() and not config.objective.semi_supervised:
        raise ConfigError(
            f"{(ids < 0).sum():,} of {len(ids):,} texts to learn from have no label: learn from them too with "
            f"--set objective.semi_supervised=true, or label them"
        )
    blind = [value for number, value in enumerate(config.model.attributes) if ids is not None and number not in ids]
    if blind:
        raise DataError(f"data.labelled_fraction={share:g}: training sees no text labelled {blind[0]!r}; show it more")
    return ids


def read_texts(source: str, mode: str, notes: list[str]) -> list[str]:
    """The texts of a named corpus or a file; in `windows` mode one text, the whole stream with its line breaks."""
    lines = CORPORA[source].texts() if source in CORPORA else split_lines(read_file(source))
    if mode == "windows":
        return ["\n".join(lines)]
    return without_blanks(Lines(lines), source, notes).texts


def split_lines(text: str) -> list[str]:
    """The lines of a file; the last line break ends the last one."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


STANDARD_INPUT = "-"

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}


def read_file(source: str, corpora: Iterable[str] = CORPORA) -> str:
    """A UTF-8 file, unpacked by its ending, or standard input (`-`); whatever is unreadable raises `DataError`.

    `corpora` are names that may have been meant where there is no such file.
    """
    path = Path(source)
    try:
        if source != STANDARD_INPUT and not path.exists():
            kind = f"file or corpus{nearest(source, corpora)}" if corpora else "file"
            raise DataError(f"{source}: no such {kind}")
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
    if config.data.mode == "fixed":
        return config.with_settings({"model.length": longest})
    if longest >= LONGEST_AUTOMATIC and config.data.too_long == "refuse":
        raise DataError(
            f"{config.data.source}: the longest of {len(texts):,} lines has {longest:,} characters, "
            f"{sum(len(text) >= LONGEST_AUTOMATIC for text in texts):,} have over {LONGEST_AUTOMATIC - 1}; choose "
            f"--set data.too_long=cut or drop, a longer model with --set model.length=N, or --set data.mode=windows"
        )
    return config.with_settings({"model.length": multiple_of_strides(config, min(longest + 1, LONGEST_AUTOMATIC))})


def multiple_of_strides(config: Config, length: int) -> int:
    """The smallest length from `length` on that every stride of the model divides."""
    model = config.model
    halvings = len(model.encoder_units) if model.encoder == "conv" else 0
    doublings = len(model.expander_filters) if model.expander == "deconv" else 0
    stride = 2 ** max(halvings, doublings)
    return -(-length // stride) * stride


def fitting(config: Config, lines: Lines, source: str, notes: list[str]) -> Lines:
    """The texts of `source` that fit T, by `data.too_long`: refuse (an error with the count), cut or drop."""
    texts, length = lines.texts, config.model.length
    if config.data.mode == "fixed":
        other = [text for text in texts if len(text) != length]
        if other:
            raise DataError(
                f"{source}: {len(other):,} of {len(texts):,} lines do not have exactly {length} characters, as "
                f"data.mode=fixed wants; leave them out, or train with data.mode=lines"
            )
        return lines
    room = length - 1
    long = [text for text in texts if len(text) > room]
    if not long:
        return lines
    counts = f"{source}: {len(long):,} of {len(texts):,} lines are longer than the model's {room} characters"
    if config.data.too_long == "refuse":
        enough = multiple_of_strides(config, max(map(len, long)) + 1)
        raise DataError(
            f"{counts}; cut them with --set data.too_long=cut, leave them out with --set data.too_long=drop, "
            f"or train a longer model with --set model.length={enough}"
        )
    if config.data.too_long == "cut":
        notes.append(f"{counts}: cut")
        return Lines([text[:room] for text in texts], lines.labels)
    notes.append(f"{counts}: dropped")
    kept = lines.where([len(text) <= room for text in texts])
    if not kept.texts:
        raise DataError(f"{counts} and dropped, none is left; train a longer model with --set model.length=N")
    return kept


def windows(config: Config, lines: Lines, source: str, notes: list[str]) -> Lines:
    """A stream cut into neighbouring windows of T characters: a fixed set that covers it."""
    length = config.model.length
    stream = lines.texts[0]
    if len(stream) < length:
        raise DataError(
            f"{source}: {len(stream)} characters to train on or to hold out, fewer than one window of {length}; "
            f"give a longer file or a smaller model.length"
        )
    return Lines([stream[start : start + length] for start in range(0, len(stream) - length + 1, length)])


def encoded(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """Texts as rows of tokens (N, T): lines end with END and PAD, windows and fixed lines fill the row."""
    length = config.model.length
    if config.data.mode != "lines":
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
