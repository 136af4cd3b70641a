"""Settings of the tokens that do not work together, each with the reason."""

from __future__ import annotations

from kvae.serving.errors import ConfigError, short_repr
from kvae.serving.patterns import pattern_fault

from .configuration import Config

UNCOUNTED = ("byte", "wordpiece", "bpe")
"""Tokenizers whose vocabulary is not made of the counts of units."""


def check_tokens(config: Config) -> None:
    """Raise `ConfigError` for settings of the tokens that contradict each other or that nothing
    reads."""
    for violated, reason in (*misfits_of_vocabulary(config), *misfits_of_pattern(config)):
        if violated:
            raise ConfigError(reason)


def misfits_of_vocabulary(config: Config) -> list[tuple[bool, str]]:
    """Rules on the vocabulary: (whether it is violated, error message)."""
    tokenizer, data = config.model.tokenizer, config.data
    given = data.vocabulary is not None
    return [
        (
            tokenizer == "byte" and given,
            f"data.vocabulary is {data.vocabulary!r}, but tokenizer 'byte' has 256 symbols; leave "
            "it out",
        ),
        (
            tokenizer == "byte" and data.max_symbols > 0,
            f"data.max_symbols is {data.max_symbols}, but tokenizer 'byte' has 256 symbols; "
            "leave it out",
        ),
        (
            given and data.max_symbols > 0,
            f"data.max_symbols is {data.max_symbols}, but data.vocabulary names all symbols; "
            "leave one of them out",
        ),
        (
            tokenizer in UNCOUNTED and data.min_count > 1,
            f"data.min_count is {data.min_count}, but it counts characters or words: tokenizer "
            f"{tokenizer!r} does not read it; leave it out",
        ),
        (
            given and data.min_count > 1,
            f"data.min_count is {data.min_count}, but data.vocabulary names all symbols; leave "
            "one of them out",
        ),
    ]


def misfits_of_pattern(config: Config) -> list[tuple[bool, str]]:
    """Rules on the pattern."""
    tokenizer, pattern = config.model.tokenizer, config.model.token_pattern
    fault = pattern_fault(pattern) if pattern else None
    return [
        (
            tokenizer == "pattern" and not pattern,
            "model.tokenizer is 'pattern', but there is no pattern; give a regular expression, as "
            "in --set 'model.token_pattern=[A-Za-z]+|[0-9]'",
        ),
        (
            tokenizer != "pattern" and bool(pattern),
            f"model.token_pattern is {short_repr(pattern)}, but nothing reads it: it belongs to "
            "tokenizer 'pattern'; leave it out",
        ),
        (fault is not None, f"model.token_pattern {short_repr(pattern)} {fault}"),
    ]
