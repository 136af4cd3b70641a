"""The alphabet of a corpus: its commonest symbols, or wordpieces that a trainer learns from some of its texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import SPECIALS, UNKNOWN, Alphabet, count_units
from kvae.serving.errors import ConfigError

MOST_SYMBOLS = {"char": 256, "byte": 256, "word": 10_000, "wordpiece": 10_000}
"""Symbols that an alphabet keeps where `data.max_symbols` leaves it open."""

TEXTS_FOR_PIECES = 20_000
"""Texts that wordpieces are learned from at most, drawn at the seed of the split."""


def counting_alphabet(config: Config, texts: Sequence[str]) -> Alphabet:
    """An alphabet that counts the tokens of a text as the finished one will. Only wordpieces must be learned for that; the
    others have one token for each character, byte or word, known or not."""
    check_symbols(config)
    if config.model.tokenizer == "wordpiece":
        return wordpiece_alphabet(config, texts)
    return Alphabet((), config.model.tokenizer)


def alphabet_of(config: Config, counting: Alphabet, texts: Sequence[str]) -> Alphabet:
    """The alphabet of the texts to learn from, once those are chosen."""
    if config.model.tokenizer == "wordpiece":
        return counting
    return alphabet_of_counts(config, count_units(texts, config.model.tokenizer))


def alphabet_of_counts(config: Config, counts: Mapping[str, int]) -> Alphabet:
    """The alphabet of a table of counts by the settings of the data."""
    tokenizer, data = config.model.tokenizer, config.data
    if tokenizer == "byte":
        return Alphabet.of_bytes()
    return Alphabet.from_counts(
        counts, data.max_symbols or MOST_SYMBOLS[tokenizer], tokenizer, data.min_count
    )


def check_symbols(config: Config) -> None:
    """Refuse settings of the alphabet that nothing would read."""
    tokenizer, data = config.model.tokenizer, config.data
    if tokenizer == "byte" and data.max_symbols:
        raise ConfigError(
            f"data.max_symbols is {data.max_symbols}, but tokenizer 'byte' has 256 symbols; leave it out"
        )
    if tokenizer in ("byte", "wordpiece") and data.min_count > 1:
        raise ConfigError(
            f"data.min_count is {data.min_count}, but it counts characters or words: tokenizer {tokenizer!r} does not read "
            f"it; leave it out"
        )


def wordpiece_alphabet(config: Config, texts: Sequence[str]) -> Alphabet:
    """Wordpieces of at most `TEXTS_FOR_PIECES` of the texts, found by the trainer of keras-nlp.

    In `windows` mode the lines of the stream are the texts, and a line break is a piece of its own.
    """
    breaks = ["\n"] if config.data.mode == "windows" else []
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    if len(lines) > TEXTS_FOR_PIECES:
        drawn = np.random.default_rng(config.data.split_seed).choice(
            len(lines), TEXTS_FOR_PIECES, replace=False
        )
        lines = [lines[place] for place in sorted(drawn)]
    size = config.data.max_symbols or MOST_SYMBOLS["wordpiece"]
    return Alphabet((*breaks, *train_wordpieces(lines, size - len(breaks))), "wordpiece")


def train_wordpieces(texts: Sequence[str], size: int) -> list[str]:
    """At most `size` wordpieces: every character that occurs, alone and as a continuation, and the commonest longer ones."""
    import keras_nlp
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(list(texts)).batch(1000)
    unknown = SPECIALS[UNKNOWN]
    vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        data, size + 1, reserved_tokens=[unknown]
    )
    return [piece for piece in vocabulary if piece != unknown]


def note_unknown(alphabet: Alphabet, unknown: Counter[str], notes: list[str]) -> None:
    """Say how many characters or words the alphabet lacks, and which are the commonest."""
    if unknown:
        commonest = ", ".join(f"{symbol!r} {count:,}" for symbol, count in unknown.most_common(3))
        notes.append(
            f"{unknown.total():,} {alphabet.rules.unit} of {len(unknown):,} kinds are outside the alphabet "
            f"of {len(alphabet.symbols)}: {commonest}"
        )
