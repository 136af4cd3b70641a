"""Constraints on the tokens of a text: a pattern that the text matches, or the tokens that are
allowed next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from .alphabet import END, SPECIALS, Alphabet
from .errors import ConfigError
from .tokenizers import REPLACEMENT

Allowed = Collection[str] | Callable[[str], Collection[str]]
"""Tokens that may come next: the same ones everywhere, or a function of the text so far. "" is the
end of the text; a collection always allows it."""

Constraint = Callable[[Sequence[int]], np.ndarray]
"""Ids of a text so far -> which ids may come next, (V,) bool."""


def constraint_of(
    alphabet: Alphabet, pattern: str | None, allowed: Allowed | None
) -> Constraint | None:
    """The constraint that `pattern` and `allowed` give together, or None without both.

    Raises `ConfigError` for an invalid pattern, for tokens that the model does not have, and if the
    extra `patterns` is missing.
    """
    parts: list[Constraint] = []
    if pattern is not None:
        parts.append(matching(alphabet, pattern))
    if callable(allowed):
        choose = allowed
        parts.append(lambda ids: ids_allowed(alphabet, choose(text_of(alphabet, ids))))
    elif allowed is not None:
        fixed = ids_allowed(alphabet, allowed) | ids_allowed(alphabet, [""])
        parts.append(lambda ids: fixed)
    if not parts:
        return None
    return lambda ids: np.logical_and.reduce([part(ids) for part in parts])


def ids_allowed(alphabet: Alphabet, tokens: Collection[str]) -> np.ndarray:
    """(V,) bool, true for the ids of some tokens and, for "", the end of the text. Raises
    `ConfigError` for a token that the model does not have."""
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise ConfigError(f"allowed must be a list of tokens, each a text, got {tokens!r:.80}")
    found = np.zeros(len(alphabet), bool)
    for token in tokens:
        number = END if token == "" else alphabet.id_of(token)
        if number is None:
            raise ConfigError(
                f"allowed: the model has no token {token!r:.40}; give tokens of "
                "`Sampler.alphabet.symbols`"
            )
        found[number] = True
    return found


def matching(alphabet: Alphabet, pattern: str) -> Constraint:
    """Ids with which a text can still become, or with END is, a full match of a regular
    expression."""
    compiled = compiled_pattern(pattern)
    known: dict[tuple[int, ...], np.ndarray] = {}
    separator = "" if alphabet.rules.splits_units else alphabet.rules.text(["a", "a"])[1:-1]

    def fits(text: str, symbol: str) -> bool:
        """Whether a text that ends with this token matches or can go on; after a word, it goes on
        with a blank."""
        if text.endswith(REPLACEMENT) and not symbol.endswith(REPLACEMENT):
            return False  # a part of a character
        if compiled.fullmatch(text) is not None:
            return True
        return compiled.fullmatch(text + separator, partial=True) is not None

    def allowed(ids: Sequence[int]) -> np.ndarray:
        if (place := tuple(ids)) not in known:
            found = np.zeros(len(alphabet), bool)
            found[END] = compiled.fullmatch(text_of(alphabet, ids)) is not None
            found[len(SPECIALS) :] = [
                fits(text_of(alphabet, [*ids, number]), symbol)
                for number, symbol in enumerate(alphabet.symbols, start=len(SPECIALS))
            ]
            known[place] = found
        return known[place]

    return allowed


def compiled_pattern(pattern: str) -> Any:
    """A regular expression of the package regex, which knows partial matches."""
    try:
        import regex
    except ImportError as error:
        raise ConfigError(
            "a pattern needs the package regex: pip install 'kvae-text[patterns]'"
        ) from error
    try:
        return regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ConfigError(
            f"pattern must be a regular expression, got {pattern!r:.80}: {error}"
        ) from error


def text_of(alphabet: Alphabet, ids: Sequence[int]) -> str:
    """The text of some ids."""
    return alphabet.decode(np.array([ids], np.int64))[0]
