"""Vocabularies that people bring: a list of symbols, a `vocab.txt` of wordpieces, the
`tokenizer.json` of the package `tokenizers`, or the folder of a preset of keras-nlp.

A file either gives the same tokens in kvae as in the program that wrote it, or it is refused with
the reason. `kvae.training.data.tokenizer_files` reads the parts of a `tokenizer.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from kvae.serving.alphabet import MAX_SYMBOLS, SPECIALS, Alphabet
from kvae.serving.errors import BundleError, ConfigError, DataError, first_line, short_repr
from kvae.texts.files import STANDARD_INPUT, read_file, split_lines

from .preset_tokenizers import alphabet_of_preset
from .tokenizer_files import Unsupported, alphabet_of_file

PIECES_OF_NOTHING = re.compile(
    r"\[(?:PAD|UNK|CLS|SEP|MASK|unused[0-9]+)\]|</?s>|<(?:pad|unk|mask)>|"
    + "|".join(map(re.escape, SPECIALS))
)
"""Entries of a `vocab.txt` that stand for no piece of a text."""

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}
ESCAPE = re.compile(r"\\(?:([ntr\\])|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|)")


def vocabulary_from_file(file: str, tokenizer: str, pattern: str) -> Alphabet:
    """The alphabet in a file, for a tokenizer and, for `pattern`, its regular expression.

    Raises `DataError` if the file cannot be read or contradicts itself. Raises `ConfigError` if the
    tokenizer takes no such file, or if the file asks for what kvae does not reproduce.
    """
    if Path(file).is_dir():
        return checked(file, alphabet_of_preset(Path(file), tokenizer))
    if file == STANDARD_INPUT or not Path(file).is_file():
        raise DataError(f"{file}: no such file; data.vocabulary names one file")
    text = read_file(file)
    content = json_object(text)
    if content is not None:
        alphabet = alphabet_of_json(file, content, tokenizer)
    elif tokenizer == "bpe":
        raise ConfigError(
            f"{file}: tokenizer 'bpe' needs a tokenizer.json, which has the merges too; a program "
            "of the package tokenizers writes it with Tokenizer.save"
        )
    elif tokenizer == "wordpiece":
        alphabet = Alphabet(tuple(wordpieces_of(split_lines(text))), tokenizer)
    else:
        alphabet = Alphabet(tuple(symbols_of(file, split_lines(text))), tokenizer, pattern)
    return checked(file, alphabet)


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, or None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def alphabet_of_json(file: str, content: dict[str, Any], tokenizer: str) -> Alphabet:
    """The alphabet of a `tokenizer.json`."""
    if tokenizer not in ("wordpiece", "bpe"):
        raise ConfigError(
            f"{file}: is JSON, but tokenizer {tokenizer!r} takes a list of symbols, one in each "
            "line; use --tokenizer bpe or wordpiece for a tokenizer.json"
        )
    try:
        return alphabet_of_file(content, tokenizer)
    except Unsupported as error:
        raise ConfigError(f"{file}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: is JSON, but no tokenizer.json of the package tokenizers "
            f"({first_line(error)}); write it again"
        ) from error


def wordpieces_of(lines: Iterable[str]) -> Iterator[str]:
    """The pieces of a `vocab.txt` in its order, without special entries and blank lines."""
    for line in lines:
        piece = line.rstrip(" ")
        if piece and not PIECES_OF_NOTHING.fullmatch(piece):
            yield piece


def symbols_of(file: str, lines: Iterable[str]) -> Iterator[str]:
    """The symbols of a list in its order, with escapes read; empty lines are left out."""
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                yield ESCAPE.sub(unescaped, line)
            except ValueError as error:
                raise DataError(
                    rf"{file}: line {number} has a \ that is no escape, {short_repr(line)}; write "
                    r"\\ for the character, or \n, \t, \r, \x20, \u2028, \U0001f642"
                ) from error


def unescaped(escape: re.Match[str]) -> str:
    """The character of an escape. Raises `ValueError` if it is none."""
    letter, *numbers = escape.groups()
    if letter:
        return ESCAPES[letter]
    digits = next((digits for digits in numbers if digits), None)
    if digits is None:
        raise ValueError
    return chr(int(digits, 16))  # ValueError beyond the last code point


def checked(file: str, alphabet: Alphabet) -> Alphabet:
    """The alphabet, if its symbols are distinct and such as the tokenizer makes. Raises
    `DataError`."""
    if not alphabet.symbols:
        raise DataError(f"{file}: has no symbol; give a file with one in each line")
    if len(alphabet.symbols) > MAX_SYMBOLS:
        raise DataError(
            f"{file}: has {len(alphabet.symbols):,} symbols, at most {MAX_SYMBOLS:,} may be"
        )
    seen = set[str]()
    for symbol in alphabet.symbols:
        if symbol in seen:
            raise DataError(f"{file}: has {short_repr(symbol)} twice; leave one out")
        if not symbol or not alphabet.rules.is_symbol(symbol):
            raise DataError(
                f"{file}: has {short_repr(symbol)}, but a symbol of tokenizer "
                f"{alphabet.tokenizer!r} is {alphabet.rules.symbol}; leave it out"
            )
        seen.add(symbol)
    try:
        return Alphabet.from_dict(alphabet.to_dict())
    except BundleError as error:
        raise DataError(f"{file}: {error}; write the file again") from error
