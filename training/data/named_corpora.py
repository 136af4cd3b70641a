"""Named corpora: a description, the texts, and suitable settings of each."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kvae.configuration import Config
from kvae.texts.files import read_file, split_lines
from kvae.token_patterns import TOKEN_PATTERNS

from .downloads import COLLECTIONS, file_of

ALGORITHMIC_NAMES = re.compile(
    r"CJK (UNIFIED|COMPATIBILITY) IDEOGRAPH-|HANGUL SYLLABLE |TANGUT (IDEOGRAPH|COMPONENT)-"
    r"|NUSHU CHARACTER-|KHITAN SMALL SCRIPT CHARACTER-|EGYPTIAN HIEROGLYPH-"
)
"""Beginnings of names that the Unicode standard derives from the code point or a rule, and does not
list."""


@dataclass(frozen=True)
class Corpus:
    """A named corpus: its description, a function that returns its texts, and suitable settings by
    dotted name."""

    description: str
    texts: Callable[[], list[str]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    held_out: Callable[[], list[str]] | None = None
    """Returns held-out texts of the same distribution. None: a share of `texts` is held out."""
    label: Callable[[str], str] | None = None
    """Returns the label of a text, for `data.labels=corpus`."""
    entropy: float | None = None
    """Entropy in nats per text, if it is known. A correct bound is not lower."""
    collection: str | None = None
    """Name of the collection in `downloads.COLLECTIONS` whose files it reads."""


def unicode_names() -> list[str]:
    """The names of the Unicode characters in code point order, without `ALGORITHMIC_NAMES`."""
    names = (unicodedata.name(chr(point), "") for point in range(sys.maxunicode + 1))
    return [name for name in names if name and not ALGORITHMIC_NAMES.match(name)]


SINE_POSITIONS, SINE_CLASSES = 16, 10


def sines(count: int, seed: int) -> list[str]:
    """Sine waves of random frequency and phase as strings of 16 digits (Petersen 2018, 3.1 and his
    code)."""
    generator = np.random.default_rng(seed)
    frequency, phase = generator.uniform(-1.0, 1.0, (2, count, 1))
    positions = np.linspace(-1.0, 1.0, SINE_POSITIONS)
    waves = 0.5 + 0.499 * np.sin(3.14 * positions * frequency + 3.14 * phase)
    digits = np.floor(SINE_CLASSES * waves).astype(np.uint8) + ord("0")
    return [row.tobytes().decode("ascii") for row in digits]


def sine_level(text: str) -> str:
    """Label of a wave: `high` if the mean of its digits is above 4.5, else `low`."""
    return "high" if 2 * sum(map(int, text)) > (SINE_CLASSES - 1) * len(text) else "low"


def lines_of(file: str) -> list[str]:
    """The lines of one file."""
    return split_lines(read_file(file))


def file_corpus(collection: str, description: str, settings: Mapping[str, Any]) -> Corpus:
    """A corpus in the files COLLECTION.train.txt and COLLECTION.valid.txt of the data folder; the
    second is held out."""
    texts, held_out = (
        lambda name=f"{collection}.{part}.txt": lines_of(file_of(collection, name))
        for part in ("train", "valid")
    )
    return Corpus(description, texts, settings, held_out, collection=collection)


def molecules(part: str) -> list[str]:
    """The SMILES strings of a part of MOSES: `train`, `test` or `scaffolds`."""
    return lines_of(file_of("moses", f"moses.{part}.csv"))[1:]


HELD_OUT_MOLECULES = 10_000
"""Number of test molecules that the corpus `moses` holds out, at equal distances."""


def held_out_molecules() -> list[str]:
    """Test molecules at equal distances."""
    test = molecules("test")
    return test[:: len(test) // HELD_OUT_MOLECULES][:HELD_OUT_MOLECULES]


def molecule_settings(pattern: str) -> dict[str, Any]:
    """The settings of a corpus of molecules whose tokens have a pattern of that name."""
    return {
        "model.length": 56,
        "model.tokenizer": "pattern",
        "model.token_pattern": TOKEN_PATTERNS[pattern],
        "data.too_long": "drop",
    }


CORPORA: dict[str, Corpus] = {
    "unicode-names": Corpus(
        f"names of the Unicode {unicodedata.unidata_version} characters, from Python itself",
        unicode_names,
        {"model.length": 48, "data.too_long": "drop"},
        label=lambda name: "letter" if "LETTER" in name else "other",
    ),
    "sines": Corpus(
        "sine waves of random frequency and phase as 16 digits: 250,000 for training, which is "
        "50 times 5,000 fresh ones",
        lambda: sines(250_000, seed=0),
        {"model.length": SINE_POSITIONS, "data.mode": "fixed"},
        held_out=lambda: sines(10_000, seed=1),
        label=sine_level,
        entropy=8.505,
    ),
    "ptb-char": file_corpus(
        "ptb",
        "Penn Treebank as one stream of characters, windows of 60",
        {"model.length": 60, "data.mode": "windows"},
    ),
    "ptb-word": file_corpus(
        "ptb",
        "Penn Treebank, a sentence a line, in words",
        {"model.length": 84, "model.tokenizer": "word"},
    ),
    "tweets": file_corpus("tweets", "English tweets, one a line", {"model.length": 128}),
    "moses": Corpus(
        "1,584,663 molecules of MOSES as SMILES strings; held out: 10,000 of its test molecules",
        lambda: molecules("train"),
        molecule_settings("smiles"),
        held_out=held_out_molecules,
        collection="moses",
    ),
    "moses-selfies": Corpus(
        "the same as SELFIES strings",
        lambda: lines_of(file_of("moses-selfies", "moses-selfies.train.txt")),
        molecule_settings("selfies"),
        held_out=lambda: lines_of(file_of("moses-selfies", "moses-selfies.valid.txt")),
        collection="moses-selfies",
    ),
}


def require_corpora(configs: Iterable[Config]) -> None:
    """Raise `DataError` for the first named corpus of the configurations whose files are not in the
    data folder."""
    for source in dict.fromkeys(config.data.source for config in configs):
        if source in CORPORA and (collection := CORPORA[source].collection):
            for file in COLLECTIONS[collection].files:
                file_of(collection, file)
