"""The alphabet of a corpus: its most frequent symbols, wordpieces learned from a part of it, or the
vocabulary of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import SPECIALS, UNKNOWN, Alphabet
from kvae.token_settings import check_tokens

from .vocabularies import vocabulary_from_file

MOST_SYMBOLS = {"char": 256, "byte": 256, "word": 10_000, "wordpiece": 10_000, "pattern": 10_000}
"""The largest size of an alphabet if `data.max_symbols` is not set, by tokenizer."""

TEXTS_FOR_PIECES = 20_000
"""The largest number of texts that wordpieces are learned from; `data.split_seed` draws them."""


def given_alphabet(config: Config) -> Alphabet | None:
    """The alphabet of the file `data.vocabulary`; None if the setting is empty."""
    model, file = config.model, config.data.vocabulary
    return (
        vocabulary_from_file(file, model.tokenizer, model.token_pattern)
        if file is not None
        else None
    )


def empty_alphabet(config: Config) -> Alphabet:
    """An alphabet without symbols, which splits texts into units as the final one will."""
    return Alphabet((), config.model.tokenizer, config.model.token_pattern)


def counting_alphabet(config: Config, texts: Sequence[str]) -> Alphabet:
    """An alphabet that splits a text into as many tokens as the final alphabet will.

    A vocabulary of a file is the final one. Wordpieces have to be learned from `texts`. The other
    tokenizers have one token for each unit, known or not. Raises `ConfigError` as `check_tokens`
    does, and the errors of `vocabulary_from_file`.
    """
    check_tokens(config)
    if config.model.tokenizer == "wordpiece" and config.data.vocabulary is None:
        return wordpiece_alphabet(config, texts)
    return given_alphabet(config) or empty_alphabet(config)


def alphabet_of(config: Config, counting: Alphabet, texts: Sequence[str]) -> Alphabet:
    """The alphabet of the training texts; `counting` is what `counting_alphabet` returned."""
    if config.model.tokenizer == "wordpiece" or config.data.vocabulary is not None:
        return counting
    return alphabet_of_counts(config, counting.counts(texts))


def alphabet_of_counts(config: Config, counts: Mapping[str, int]) -> Alphabet:
    """The alphabet of a table of symbol counts, cut by `data.max_symbols` and `data.min_count`; a
    vocabulary of a file needs no counts."""
    tokenizer, data = config.model.tokenizer, config.data
    if given := given_alphabet(config):
        return given
    if tokenizer == "byte":
        return Alphabet.of_bytes()
    most = data.max_symbols or MOST_SYMBOLS[tokenizer]
    return Alphabet.from_counts(counts, most, tokenizer, data.min_count, config.model.token_pattern)


def check_symbols(config: Config) -> None:
    """Raise `ConfigError` for settings that the tokenizer does not read."""
    check_tokens(config)


def wordpiece_alphabet(config: Config, texts: Sequence[str]) -> Alphabet:
    """An alphabet of wordpieces, learned by keras-nlp from at most `TEXTS_FOR_PIECES` of the texts.

    In `windows` mode the lines of the stream are the texts, and a line break is an additional
    piece.
    """
    breaks = ["\n"] if config.data.mode == "windows" else []
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    if len(lines) > TEXTS_FOR_PIECES:
        sample = np.random.default_rng(config.data.split_seed).choice(
            len(lines), TEXTS_FOR_PIECES, replace=False
        )
        lines = [lines[index] for index in sorted(sample)]
    size = config.data.max_symbols or MOST_SYMBOLS["wordpiece"]
    return Alphabet((*breaks, *train_wordpieces(lines, size - len(breaks))), "wordpiece")


def train_wordpieces(texts: Sequence[str], size: int) -> list[str]:
    """At most `size` wordpieces: all characters, alone and as continuations, and longer pieces."""
    import keras_nlp
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(list(texts)).batch(1000)
    unknown = SPECIALS[UNKNOWN]
    vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        data, size + 1, reserved_tokens=[unknown]
    )
    return [piece for piece in vocabulary if piece != unknown]


def note_unknown(alphabet: Alphabet, unknown: Counter[str], notes: list[str]) -> None:
    """Add a note on how many characters or words the alphabet lacks, and the three commonest."""
    if unknown:
        commonest = ", ".join(f"{symbol!r} {count:,}" for symbol, count in unknown.most_common(3))
        notes.append(
            f"{unknown.total():,} {alphabet.rules.unit} of {len(unknown):,} kinds are outside the "
            f"alphabet of {len(alphabet.symbols)}: {commonest}"
        )
