"""Regular expressions of tokenizer `pattern` for strings with a grammar of their own."""

TOKEN_PATTERNS = {
    "smiles": r"\[[^\]]+\]|Br|Cl|%[0-9]{2}|@@",
    "selfies": r"\[[^\]]*\]",
}
"""Patterns by the name that `--tokenizer` takes.

A character that no match covers is a token too. `smiles`: bracket atoms, elements of two letters,
ring closures of two digits and `@@` are one token each, as in Schwaller et al. 2019. `selfies`: a
bracket is a symbol (Krenn et al. 2020).
"""
