"""Held-out texts, which are few enough to lie in memory: read, cut to length and encoded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from kvae.configuration import Config
from kvae.serving.alphabet import Alphabet
from kvae.serving.errors import DataError
from kvae.texts.records import Records, is_blank

from .columns import id_type
from .lengths import check_lengths, note_too_long
from .sources import Source, stream_pieces

FEW_TEXTS = 50
"""Held-out texts are too few if their entropy is below that of this many equally frequent texts."""


def texts_of(config: Config, source: Source) -> Records:
    """All texts of a source that are not blank; a stream is one text. Raises `DataError` if there
    is none."""
    if config.data.reading.is_stream:
        return Records(["".join(stream_pieces(source))])
    blocks = list(source.read())
    texts = [text for block in blocks for text in block.texts]
    labels = [label for block in blocks for label in block.labels or ()]
    return without_blanks(Records(texts, labels if blocks and blocks[0].labels else None), source)


def without_blanks(records: Records, source: Source) -> Records:
    """The records that are not blank. Raises `DataError` if all are."""
    keep = [not is_blank(text) for text in records.texts]
    note_blank(source, keep.count(False), keep.count(True), source.notes)
    return records if all(keep) else records.where(keep)


def note_blank(source: Source, blank: int, texts: int, notes: list[str]) -> None:
    """Add a note on blank lines. Raises `DataError` if there are no other texts."""
    if blank:
        notes.append(f"{source.name}: {blank:,} blank lines skipped")
    if not texts:
        raise DataError(f"{source.name}: has no text; give a file with one text per line")


def fit_to_length(
    config: Config, alphabet: Alphabet, records: Records, name: str, notes: list[str]
) -> Records:
    """The texts of the source `name`, none longer than T. `data.too_long` decides: `cut`, `drop`,
    or a `DataError` with the count."""
    texts, length, tokens = records.texts, config.model.length, alphabet.rules.tokens
    counts = list(map(alphabet.count, texts))
    if config.data.reading.is_fixed:
        wrong = sum(count != length for count in counts)
        check_lengths(config, name, wrong, len(texts), tokens)
        return records
    most = length - 1  # END takes one position
    too_long = sum(count > most for count in counts)
    if not too_long:
        return records
    note_too_long(config, name, too_long, len(texts), max(counts), tokens, notes)
    if config.data.too_long == "cut":
        cut = [
            alphabet.cut(text, most) if count > most else text
            for text, count in zip(texts, counts, strict=True)
        ]
        return records._replace(texts=cut)
    return records.where([count <= most for count in counts])


def texts_and_rows(
    config: Config, alphabet: Alphabet, records: Records, name: str, notes: list[str]
) -> tuple[Records, np.ndarray]:
    """Texts and their rows of tokens (N, T). Texts of a stream are its consecutive windows, without
    an incomplete last one. Texts that are too long are cut or dropped."""
    length, reading = config.model.length, config.data.reading
    if not reading.is_stream:
        records = fit_to_length(config, alphabet, records, name, notes)
        return records, encode_rows(config, alphabet, records.texts)
    stream = np.array(alphabet.ids(records.texts[0]), id_type(alphabet))
    check_stream(config, len(stream), alphabet.rules.tokens, name)
    rows = stream[: len(stream) // length * length].reshape(-1, length)
    if config.model.tokenizer != "char":
        return Records(alphabet.decode(rows)), rows
    text = records.texts[0]
    return Records([text[start : start + length] for start in range(0, rows.size, length)]), rows


def check_stream(config: Config, ids: int, tokens: str, name: str) -> None:
    """Raise `DataError` if a stream has fewer ids than one window."""
    if ids < config.model.length:
        raise DataError(
            f"{name}: {ids} {tokens} to train on or to hold out, fewer than "
            f"one window of {config.model.length}; give a longer file or a smaller model.length"
        )


def encode_rows(config: Config, alphabet: Alphabet, texts: Sequence[str]) -> np.ndarray:
    """Texts as rows of tokens (N, T). Texts are followed by END and PAD, or fill the row."""
    length = config.model.length
    if config.data.reading.has_end:
        return alphabet.encode(texts, length).astype(id_type(alphabet))
    ids = [alphabet.ids(text) for text in texts]
    return np.array(ids, id_type(alphabet)).reshape(-1, length)


def note_low_variety(config: Config, rows: np.ndarray, given: str | None, notes: list[str]) -> None:
    """Add a note if the held-out texts are too few or too alike to measure the latent code on them.

    `rows` are their ids, (N, T); `given` is the file they come from, None for the corpus. The
    measure is the entropy of the distribution of different rows, compared with log(`FEW_TEXTS`).
    """
    if not config.model.has_code or not len(rows):
        return
    counts = np.array(list(Counter(row.tobytes() for row in rows).values()))
    shares = counts / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    if entropy >= math.log(FEW_TEXTS):
        return
    if len(counts) == 1:
        problem = "active_units and mutual_information cannot be measured on them and are left out"
    else:
        problem = (
            "too few or too alike for active_units and mutual_information "
            f"(at most {entropy:.2f} nats on them)"
        )
    way_out = (
        "give more different ones"
        if given
        else "hold out more with data.validation_fraction or --validation FILE"
    )
    notes.append(
        f"{given or config.data.source}: {len(rows):,} held-out texts, {len(counts):,} of them "
        f"different: {problem}; {way_out}"
    )
