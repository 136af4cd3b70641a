"""Lengths: how many positions a model has, and what happens to texts that are longer."""

from __future__ import annotations

import math

from kvae.configuration import Config
from kvae.serving.errors import ConfigError, DataError

LONGEST_AUTOMATIC = 256
"""The largest model length that is chosen automatically; longer corpora need a setting."""

WINDOW_LENGTH = 64
"""The length of a window in positions, unless the preset or the user sets `model.length`."""


def most_tokens(config: Config) -> int:
    """The most tokens that a text may have: T - 1, or T in mode `fixed`.

    If T is not set, this assumes the largest T that is chosen automatically. The T that is chosen
    later is smaller only if no text needs more positions.
    """
    longest = config.model.length or multiple_of_strides(config, LONGEST_AUTOMATIC)
    return longest - config.data.reading.has_end


def check_lengths(config: Config, source: str, wrong: int, texts: int, tokens: str) -> None:
    """Raise `DataError` if `wrong` of the texts of a `fixed` corpus do not have T tokens, and
    `ConfigError` if the model cannot write T."""
    if wrong:
        raise DataError(
            f"{source}: {wrong:,} of {texts:,} lines do not have exactly {config.model.length} "
            f"{tokens}, as data.mode=fixed requires; leave them out, or train with "
            f"data.mode=lines"
        )
    check_fixed_length(config, source, tokens)


def with_automatic_length(
    config: Config, longest: int, over: int, texts: int, tokens: str
) -> Config:
    """The configuration with the model length T that a corpus needs.

    T is the length of the longest text plus its end mark, at most `LONGEST_AUTOMATIC`, rounded up
    to a multiple of the strides. In mode `fixed` it is the length of every text. `longest` is the
    number of tokens of the longest of `texts` texts, `over` the number of texts with at least
    `LONGEST_AUTOMATIC` tokens, and `tokens` the name of the unit. Raises `DataError` if `over` is
    not 0 and `data.too_long` is `refuse`.
    """
    if config.data.reading.is_fixed:
        return config.with_settings({"model.length": longest})
    if longest >= LONGEST_AUTOMATIC and config.data.too_long == "refuse":
        raise DataError(
            f"{config.data.source}: the longest of {texts:,} lines has {longest:,} {tokens}, "
            f"{over:,} have over {LONGEST_AUTOMATIC - 1}; choose --set data.too_long=cut or drop, "
            "a longer model with --set model.length=N, or --set data.mode=windows"
        )
    return config.with_settings(
        {"model.length": multiple_of_strides(config, min(longest + 1, LONGEST_AUTOMATIC))}
    )


def check_fixed_length(config: Config, source: str, tokens: str) -> None:
    """Raise `ConfigError` if the model cannot produce the length of a `fixed` corpus.

    An expander multiplies the positions, and a ladder of feature maps multiplies by what its
    encoder divides by, so that the length must be a multiple of the strides.
    """
    model, length = config.model, config.model.length
    ladder = model.has_map and len(model.latent_size) > 1
    step = math.lcm(model.expander_stride, model.encoder_stride if ladder else 1)
    if length % step:
        other = ", or use --set model.expander=repeat" if not model.has_map else ""
        raise ConfigError(
            f"{source}: has texts of {length} {tokens}, but this model multiplies positions and "
            f"writes a multiple of {step}; pad them with --set data.mode=lines{other}"
        )


def multiple_of_strides(config: Config, length: int) -> int:
    """The smallest length that is at least `length` and a multiple of every stride of the model."""
    stride = math.lcm(config.model.encoder_stride, config.model.expander_stride)
    return -(-length // stride) * stride


def note_too_long(
    config: Config, source: str, long: int, texts: int, longest: int, tokens: str, notes: list[str]
) -> None:
    """Report the lines that are longer than the model: an error or a note, by `data.too_long`.

    `long` of `texts` lines are too long, and the longest has `longest` tokens; `tokens` is the name
    of the unit. Raises `DataError` if `data.too_long` is `refuse`, or if it is `drop` and no line
    is left.
    """
    found = (
        f"{source}: {long:,} of {texts:,} lines are longer than the model's "
        f"{config.model.length - 1} {tokens}"
    )
    if config.data.too_long == "refuse":
        enough = multiple_of_strides(config, longest + 1)
        raise DataError(
            f"{found}; cut them with --set data.too_long=cut, leave them out with "
            f"--set data.too_long=drop, or train a longer model with --set model.length={enough}"
        )
    if config.data.too_long == "drop" and long == texts:
        raise DataError(
            f"{found} and dropped, none is left; train a longer model with --set model.length=N"
        )
    notes.append(f"{found}: {'cut' if config.data.too_long == 'cut' else 'dropped'}")
