"""Texts as rows of ids, as the encoder and the scorer read them."""

from __future__ import annotations

import numpy as np

from .alphabet import Alphabet
from .checks import one_of
from .errors import DataError
from .limits import checking


def tokens_of(
    texts: list[str],
    alphabet: Alphabet,
    length: int,
    lines: bool,
    unknown: str,
    too_long: str = "refuse",
) -> np.ndarray:
    """Rows of ids (n, T) of the smallest integer type; `length` is T, and `lines` says that each row ends with an end mark.
    Raises `DataError` for texts that the model cannot read."""
    one_of("unknown", unknown, ("refuse", "replace"))
    one_of("too_long", too_long, ("refuse", "cut"))
    strange = alphabet.unknown(checking(texts) if unknown == "refuse" else [])
    if strange:
        shown = ", ".join(f"{symbol!r} {count}" for symbol, count in strange.most_common(5))
        raise DataError(
            f"texts hold {alphabet.rules.unit} the model never saw: {shown}; "
            f"remove them, or have them replaced: unknown='replace', --unknown replace"
        )
    if too_long == "cut":
        texts = [alphabet.cut(text, length - lines) for text in checking(texts)]
    tokens = np.empty((len(texts), length), np.min_scalar_type(len(alphabet)))
    for row, text in enumerate(checking(texts)):
        tokens[row] = (
            alphabet.row(text, length, row) if lines else window(text, alphabet, length, row)
        )
    return tokens


def window(text: str, alphabet: Alphabet, length: int, row: int) -> list[int]:
    """The ids of a text that must fill its row."""
    ids = alphabet.ids(text)
    if len(ids) != length:
        raise DataError(
            f"text {row} has {len(ids)} {alphabet.rules.tokens}; this model reads windows of exactly {length}"
        )
    return ids
