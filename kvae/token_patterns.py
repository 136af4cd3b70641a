"""Regular expressions of tokenizer `pattern` for strings with a grammar of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

TOKEN_PATTERNS = {
    "smiles": r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|@@",
    "selfies": r"\[[^\]]*\]",
}
"""Patterns by the name that `--tokenizer` takes.

A character that no match covers is a token too. `smiles`: bracket atoms, elements of two letters,
ring closures of two digits and `@@` are one token each, as in Schwaller et al. 2019. `selfies`: a
bracket is a symbol (Krenn et al. 2020).
"""

NOTATIONS = {
    "smiles": (
        re.compile(r"(?:\[[^\]\s]+\]|Br|Cl|[BCNOPSFIbcnops]|%[0-9]{2}|[0-9()=#$:/\\.+~*@-])+"),
        re.compile(r"[Cc][0-9]*[(=]|c[0-9]|C[0-9].*C[0-9]"),
    ),
    "selfies": (re.compile(r"(?:\[[^\]\s]+\]|\.)+"), re.compile(r"\[=?C\]")),
}
"""What a whole string of a notation matches, and what can be found in most molecules: a branch, a
double bond or a ring."""

MOST_OTHER, LEAST_TYPICAL = 0.01, 0.5
"""Largest share of texts that are not of a notation, least share of those with a typical part."""


def notation_of(texts: Sequence[str]) -> str | None:
    """The name of the pattern in `TOKEN_PATTERNS` for texts that are molecules, else None."""
    for name, (whole, typical) in NOTATIONS.items():
        matching = [text for text in texts if whole.fullmatch(text.strip())]
        found = sum(typical.search(text) is not None for text in matching)
        if len(matching) >= (1 - MOST_OTHER) * len(texts) and found >= LEAST_TYPICAL * len(texts):
            return name
    return None
