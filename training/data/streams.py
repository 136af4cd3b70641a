"""A corpus as one stream: its end is held out, the rest becomes a column of ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from kvae.configuration import Config
from kvae.serving.errors import DataError
from kvae.texts.records import LONGEST_TEXT

from .blocks import KINDS
from .columns import Columns, id_type
from .held_out import check_stream
from .lengths import WINDOW_LENGTH
from .settle import Settled, unknown_units, with_vocabulary_size
from .tokenizers import alphabet_of_counts, counting_alphabet, note_unknown

Pieces = Callable[[], Iterable[str]]
"""A function that reads a stream from its beginning, in pieces."""


def write_stream(
    config: Config,
    name: str,
    pieces: Pieces,
    columns: Columns,
    most_held_out: int | None,
    notes: list[str],
) -> tuple[Settled, str]:
    """Write the ids of the training part to the column `tokens`; returns what was settled, and the
    held-out text.

    The stream `name` is read three times: for its length, for the symbols of the training part, and
    for its ids. At most `most_held_out` windows are held out. Raises `DataError`.
    """
    config = config.with_settings({"model.length": config.model.length or WINDOW_LENGTH})
    tokenizer, length = config.model.tokenizer, config.model.length
    characters = sum(map(len, pieces()))
    cut = characters if config.data.validation else training_end(config, characters)
    counting = counting_alphabet(
        config,
        lambda: lines_of(
            text for is_training, text in parts(pieces(), cut, tokenizer) if is_training
        ),
    )
    make_block, make_counter, make_encoder = KINDS[tokenizer]
    counter, held_out, held_out_tokens = make_counter(), [], 0
    for is_training, text in parts(pieces(), cut, tokenizer):
        if is_training:
            block = make_block([text], counting)
            block.count(block.lengths, counter)
        elif most_held_out is None or held_out_tokens < most_held_out * length:
            held_out.append(text)
        if not is_training:
            held_out_tokens += counting.count(text)
    counts = counter.counts()
    alphabet = alphabet_of_counts(config, counting, counts)
    config = with_vocabulary_size(config, alphabet)
    tokens, encode = columns.column("tokens", id_type(alphabet)), make_encoder(alphabet)
    for is_training, text in parts(pieces(), cut, tokenizer):
        if is_training:
            block = make_block([text], alphabet)
            ids, _ = block.encode(block.lengths, encode)
            tokens.append(ids[: int(block.lengths[0])])
    check_stream(config, len(tokens), alphabet.rules.tokens, name)
    windows = held_out_tokens // length
    note_capped(most_held_out, windows, "windows", notes)
    held = "".join(held_out)
    note_unknown(alphabet, unknown_units(alphabet, counts) + alphabet.unknown([held]), notes)
    return Settled(config, alphabet), held


def note_capped(most: int | None, total: int, what: str, notes: list[str]) -> None:
    """Report how many of the held-out texts or windows are kept, if not all are."""
    if most is not None and most < total:
        notes.append(
            f"{most:,} of {total:,} held-out {what} are kept for validation, the others are not "
            f"used"
        )


def training_end(config: Config, characters: int) -> int:
    """The position in a stream of `characters` at which the held-out part begins."""
    return round(characters * (1 - config.data.validation_fraction))


def next_whitespace(text: str, start: int) -> int:
    """The position of the first white space from `start` on, or of the end of the text."""
    space = re.compile(r"\s").search(text, start)
    return space.start() if space else len(text)


def has_words(tokenizer: str) -> bool:
    """Whether a stream is cut between words only."""
    return KINDS[tokenizer] is not KINDS["char"]


def parts(pieces: Iterable[str], cut: int, tokenizer: str) -> Iterator[tuple[bool, str]]:
    """Yield the pieces of a stream, each with whether it belongs to the training part.

    The training part ends at character `cut`. For words it ends at the first white space from `cut`
    on.
    """
    position, cut_reached, in_words = 0, False, has_words(tokenizer)
    for piece in whole_words(pieces, tokenizer) if in_words else pieces:
        end = len(piece)
        if cut_reached:
            end = 0
        elif position + len(piece) > cut:
            end = next_whitespace(piece, cut - position) if in_words else cut - position
            cut_reached = end < len(piece)
            cut = max(cut, position + end)
        position += len(piece)
        for is_training, text in ((True, piece[:end]), (False, piece[end:])):
            if text:
                yield is_training, text


def whole_words(pieces: Iterable[str], tokenizer: str) -> Iterator[str]:
    """Yield the same text in pieces that end at a blank or a line break. Raises `DataError` for a
    huge word."""
    rest = ""
    for piece in pieces:
        piece = rest + piece
        end = max(piece.rfind(" "), piece.rfind("\n")) + 1
        rest = piece[end:]
        if len(rest) > LONGEST_TEXT:
            raise DataError(
                f"model.tokenizer is {tokenizer!r}, but a word has over {LONGEST_TEXT:,} "
                f"characters; if the text is not made of words, use --tokenizer char"
            )
        if end:
            yield piece[:end]
    if rest:
        yield rest


def lines_of(pieces: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a text that comes in pieces."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).split("\n")
        yield from lines
    yield rest
