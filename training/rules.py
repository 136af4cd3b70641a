"""Rules that corpora share, whether they are read into memory or kept on disk: what is held out, and how long a text may be."""

from __future__ import annotations

import hashlib
import re

from kvae.configuration import Config
from kvae.serving.errors import ConfigError, DataError

LONGEST_AUTOMATIC = 256
"""Positions up to which a model's length follows the longest line; longer corpora must say what they want."""

WINDOW = 64
"""Positions of a window when neither preset nor user sets the model's length."""


def place_of(text: str, seed: int, purpose: bytes = b"") -> float:
    """A number in [0, 1) that looks random and is always the same for a text, a seed and a purpose."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8) + purpose).digest()
    return int.from_bytes(digest) / 2**64


def end_of_learning(config: Config, characters: int) -> int:
    """Where the held-out end of a stream of so many characters begins."""
    return round(characters * (1 - config.data.validation_fraction))


def next_gap(text: str, start: int) -> int:
    """The first white space of a text from `start` on, or its end: where words may be parted."""
    space = re.compile(r"\s").search(text, start)
    return space.start() if space else len(text)


def with_length_for(config: Config, longest: int, over: int, texts: int, tokens: str) -> Config:
    """The configuration with T for texts of which the longest has that many tokens and `over` have too many to follow: the
    longest and its end mark, rounded up to what the strides divide."""
    if config.data.mode == "fixed":
        return config.with_settings({"model.length": longest})
    if longest >= LONGEST_AUTOMATIC and config.data.too_long == "refuse":
        raise DataError(
            f"{config.data.source}: the longest of {texts:,} lines has {longest:,} {tokens}, "
            f"{over:,} have over {LONGEST_AUTOMATIC - 1}; choose "
            f"--set data.too_long=cut or drop, a longer model with --set model.length=N, or --set data.mode=windows"
        )
    return config.with_settings({"model.length": multiple_of_strides(config, min(longest + 1, LONGEST_AUTOMATIC))})


def check_fixed(config: Config, source: str, tokens: str) -> None:
    """Refuse texts of one length that the model does not write: deconvolutions double the positions, and a ladder of
    convolutional maps gives back what it halves."""
    model, length = config.model, config.model.length
    ladder = model.encoder == "conv" and model.latent == "map" and len(model.latent_size) > 1
    doublings = len(model.expander_filters) if model.expander == "deconv" else 0
    step = 2 ** max(doublings, len(model.encoder_units) if ladder else 0)
    if length % step:
        other = ", or use --set model.expander=repeat" if model.latent != "map" else ""
        raise ConfigError(
            f"{source}: has texts of {length} {tokens}, but this model doubles positions and writes a multiple of "
            f"{step}; pad them with --set data.mode=lines{other}"
        )


def multiple_of_strides(config: Config, length: int) -> int:
    """The smallest length from `length` on that every stride of the model divides."""
    model = config.model
    halvings = len(model.encoder_units) if model.encoder == "conv" else 0
    doublings = len(model.expander_filters) if model.expander == "deconv" else 0
    stride = 2 ** max(halvings, doublings)
    return -(-length // stride) * stride


def note_too_long(
    config: Config, source: str, long: int, texts: int, longest: int, tokens: str, notes: list[str]
) -> None:
    """What happens to lines longer than the model, by `data.too_long`: an error with the count, or a note."""
    found = f"{source}: {long:,} of {texts:,} lines are longer than the model's {config.model.length - 1} {tokens}"
    if config.data.too_long == "refuse":
        enough = multiple_of_strides(config, longest + 1)
        raise DataError(
            f"{found}; cut them with --set data.too_long=cut, leave them out with --set data.too_long=drop, "
            f"or train a longer model with --set model.length={enough}"
        )
    if config.data.too_long == "drop" and long == texts:
        raise DataError(f"{found} and dropped, none is left; train a longer model with --set model.length=N")
    notes.append(f"{found}: {'cut' if config.data.too_long == 'cut' else 'dropped'}")
