"""Texts as rows of ids, as the encoder and the scorer read them."""

from __future__ import annotations

import numpy as np

from .alphabet import Alphabet
from .checks import check_one_of
from .errors import DataError
from .limits import cancellable


def tokens_of(
    texts: list[str],
    alphabet: Alphabet,
    length: int,
    lines: bool,
    unknown: str,
    too_long: str = "refuse",
) -> np.ndarray:
    """Rows of ids (n, T), T = `length`, of the smallest unsigned integer type. `lines` says that
    each row ends with an end mark. Raises `DataError` for texts that the model cannot read."""
    check_one_of("unknown", unknown, ("refuse", "replace"))
    check_one_of("too_long", too_long, ("refuse", "cut"))
    unknown_units = alphabet.unknown(cancellable(texts) if unknown == "refuse" else [])
    if unknown_units:
        most_common = ", ".join(
            f"{symbol!r} {count}" for symbol, count in unknown_units.most_common(5)
        )
        raise DataError(
            f"texts hold {alphabet.rules.unit} the model never saw: {most_common}; "
            f"remove them, or have them replaced: unknown='replace', --unknown replace"
        )
    if too_long == "cut":
        texts = [alphabet.cut(text, length - lines) for text in cancellable(texts)]
    tokens = np.empty((len(texts), length), np.min_scalar_type(len(alphabet)))
    for row, text in enumerate(cancellable(texts)):
        tokens[row] = (
            alphabet.row(text, length, row) if lines else window(text, alphabet, length, row)
        )
    return tokens


def window(text: str, alphabet: Alphabet, length: int, row: int) -> list[int]:
    """The ids of a text of exactly `length` tokens; raises `DataError` for another length."""
    ids = alphabet.ids(text)
    if len(ids) != length:
        raise DataError(
            f"text {row} has {len(ids)} {alphabet.rules.tokens}; "
            f"this model reads windows of exactly {length}"
        )
    return ids
