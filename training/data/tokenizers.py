"""The alphabet of a corpus: its most frequent symbols, wordpieces learned from a part of it, or the
vocabulary of a file."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import SPECIALS, UNKNOWN, Alphabet
from kvae.serving.errors import ConfigError
from kvae.token_settings import check_tokens

from ..guest import tensorflow_as_guest
from .tokenizer_files import alphabet_of_file
from .vocabularies import vocabulary_from_file

MOST_SYMBOLS = {
    "char": 256,
    "byte": 256,
    "word": 10_000,
    "wordpiece": 10_000,
    "pattern": 10_000,
    "bpe": 10_000,
}
"""The largest size of an alphabet if `data.max_symbols` is not set, by tokenizer."""

TEXTS_FOR_PIECES = 20_000
"""The largest number of texts that wordpieces and byte pairs are learned from; `data.split_seed`
draws them."""


Lines = Callable[[], Iterator[str]]
"""A function that reads the lines of the training texts from the beginning."""


def empty_alphabet(config: Config) -> Alphabet:
    """An alphabet without symbols, which splits texts into units as the final one will."""
    return Alphabet((), config.model.tokenizer, config.model.token_pattern)


def counting_alphabet(config: Config, lines: Lines) -> Alphabet:
    """An alphabet that splits a text into as many tokens as the final alphabet will.

    A vocabulary of a file is the final one. Wordpieces and byte pairs have to be learned from the
    `lines`. The other tokenizers have one token for each unit, known or not. Raises `ConfigError`
    as `check_tokens` does, and the errors of `vocabulary_from_file`.
    """
    check_tokens(config)
    model, file = config.model, config.data.vocabulary
    if file is not None:
        return vocabulary_from_file(file, model.tokenizer, model.token_pattern)
    if model.tokenizer in LEARNED:
        return LEARNED[model.tokenizer](config, lines)
    return empty_alphabet(config)


def alphabet_of_counts(config: Config, counting: Alphabet, counts: Mapping[str, int]) -> Alphabet:
    """The alphabet of a table of symbol counts, cut by `data.max_symbols` and `data.min_count`; it
    folds case if the texts are read so.

    `counting` is what `counting_alphabet` returned.
    """
    found = counted_alphabet(config, counting, counts)
    return replace(found, fold_case=config.data.fold_case)


def counted_alphabet(config: Config, counting: Alphabet, counts: Mapping[str, int]) -> Alphabet:
    """As `alphabet_of_counts`, before it is known how texts are read."""
    tokenizer, data = config.model.tokenizer, config.data
    if counting.symbols:
        return counting
    if tokenizer == "byte":
        return Alphabet.of_bytes()
    most = data.max_symbols or MOST_SYMBOLS.get(tokenizer, MOST_SYMBOLS["word"])
    return Alphabet.from_counts(counts, most, tokenizer, data.min_count, config.model.token_pattern)


def wordpiece_alphabet(config: Config, lines: Lines) -> Alphabet:
    """An alphabet of wordpieces, learned by keras-nlp from at most `TEXTS_FOR_PIECES` lines.

    In `windows` mode a line break is an additional piece.
    """
    breaks = ["\n"] if config.data.reading.is_stream else []
    size = config.data.max_symbols or MOST_SYMBOLS["wordpiece"]
    drawn = drawn_lines(lines, config.data.split_seed)
    return Alphabet((*breaks, *train_wordpieces(drawn, size - len(breaks))), "wordpiece")


def byte_pair_alphabet(config: Config, lines: Lines) -> Alphabet:
    """An alphabet of byte pairs with the words of GPT-2, learned by the package tokenizers from at
    most `TEXTS_FOR_PIECES` lines (Sennrich et al. 2016; Radford et al. 2019).

    It has all 256 bytes, so that no text has an unknown token, and a text is what its tokens join
    to.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ModuleNotFoundError as error:
        raise ConfigError(
            "byte pairs are learned by tokenizers, which is not installed: pip install "
            "'kvae-text[train]', or give a tokenizer.json (--vocabulary)"
        ) from error
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.data.max_symbols or MOST_SYMBOLS["bpe"],
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    learner.train_from_iterator(drawn_lines(lines, config.data.split_seed), trainer)
    return alphabet_of_file(json.loads(learner.to_str()), "bpe")


LEARNED: dict[str, Callable[[Config, Lines], Alphabet]] = {
    "wordpiece": wordpiece_alphabet,
    "bpe": byte_pair_alphabet,
}
"""The tokenizers whose vocabulary is learned from texts, each with the function that does it."""


def drawn_lines(lines: Lines, seed: int) -> list[str]:
    """At most `TEXTS_FOR_PIECES` of the lines that are not blank, in their order; `seed` draws
    them."""
    count = sum(1 for _ in not_blank(lines()))
    if count <= TEXTS_FOR_PIECES:
        return list(not_blank(lines()))
    drawn = np.random.default_rng(seed).choice(count, TEXTS_FOR_PIECES, replace=False)
    chosen = np.zeros(count, bool)
    chosen[drawn] = True
    return list(itertools.compress(not_blank(lines()), chosen))


def not_blank(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines that are not blank."""
    return (line for line in lines if line.strip())


def train_wordpieces(texts: Sequence[str], size: int) -> list[str]:
    """At most `size` wordpieces: all characters, alone and as continuations, and longer pieces."""
    try:
        tf = tensorflow_as_guest()
        import keras_nlp
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"wordpieces are trained by {error.name}, which is not installed: "
            f"pip install 'kvae-text[train]', or give the pieces as a file (--vocabulary)"
        ) from error
    data = tf.data.Dataset.from_tensor_slices(list(texts)).batch(1000)
    unknown = SPECIALS[UNKNOWN]
    vocabulary = keras_nlp.tokenizers.compute_word_piece_vocabulary(
        data, size + 1, reserved_tokens=[unknown]
    )
    return [piece for piece in vocabulary if piece != unknown]


def note_unknown(
    alphabet: Alphabet, unknown: Counter[str], notes: list[str], name: str = ""
) -> None:
    """Add a note on how many characters or words of the source `name` the alphabet lacks, and the
    three commonest. Without a name they are those of the training corpus."""
    if unknown:
        commonest = ", ".join(f"{symbol!r} {count:,}" for symbol, count in unknown.most_common(3))
        notes.append(
            f"{name and f'{name}: '}{unknown.total():,} {alphabet.rules.unit} of "
            f"{len(unknown):,} kinds are outside the alphabet of {len(alphabet.symbols)}: "
            f"{commonest}"
        )
