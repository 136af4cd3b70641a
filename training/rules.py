"""Rules that corpora share, whether they are read into memory or kept on disk: what is held out, and how long a text may be."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from kvae.configuration import Config
from kvae.serving.errors import ConfigError, DataError

LONGEST_AUTOMATIC = 256
"""Positions up to which a model's length follows the longest line; longer corpora must say what they want."""

WINDOW = 64
"""Positions of a window when neither preset nor user sets the model's length."""

CELLS = 2**22
"""Parts of [0, 1) that lines are counted in: 32 MB of counts, whatever the size of the corpus."""

NEAR = 0.8
"""The limit stays at the fraction asked for while the share of the lines is between 0.8 and 1 / 0.8 times that."""

FEW = 50
"""Different texts, in equal shares, below which a variance over the held-out texts says little."""


def place_of(text: str, seed: int, purpose: bytes = b"") -> float:
    """A number in [0, 1) that looks random and is always the same for a text, a seed and a purpose."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8) + purpose).digest()
    return int.from_bytes(digest) / 2**64


def places_of(texts: Iterable[str], seed: int, purpose: bytes = b"") -> np.ndarray:
    """The places of texts, (N,) float64."""
    return np.fromiter((place_of(text, seed, purpose) for text in texts), np.float64)


@dataclass(frozen=True)
class Split:
    """A share of a corpus in whole texts: those whose place is at most `limit`, without the cells of the `common` ones."""

    fraction: float
    limit: float
    common: tuple[int, ...] = ()

    def chosen(self, places: np.ndarray) -> np.ndarray:
        """Whether each of the places (N,) belongs to the share."""
        chosen = places <= self.limit
        return (
            chosen & ~np.isin(cells_of(places, self.fraction), self.common)
            if self.common
            else chosen
        )


def cells_below(fraction: float) -> int:
    """How many cells lie below a fraction: one of them ends just there."""
    return max(1, round(fraction * CELLS))


def cells_in_all(fraction: float) -> int:
    """How many there are: `CELLS` but for what the rounding at the fraction adds."""
    return int(cells_below(fraction) / fraction) + 1


def cells_of(places: np.ndarray, fraction: float) -> np.ndarray:
    """The cells of places (N,): about `CELLS` of them, so that hardly any two texts share one."""
    return (places * (cells_below(fraction) / fraction)).astype(np.int64)


def by_lines(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split whose share of the lines is near the fraction, from the cells that hold texts, in order, and their lines.

    A text that alone has more lines than are wanted is no part of the share, and of the lines of the others at most half are,
    where the fraction is no more. The limit is the fraction, as if each text had one line, moved as little as brings the lines
    to between `NEAR` and 1 / `NEAR` times those wanted, or else as near to them as whole texts allow; at least one text is
    chosen and one is not. Whatever the order of the lines the split is the same, and few texts change sides when a line is
    added.
    """
    wanted = fraction * lines.sum()
    rare = lines <= max(wanted, lines.min())
    wanted = min(wanted, max(fraction, 0.5) * lines[rare].sum())
    found, chosen = cells[rare], np.cumsum(lines[rare])
    usual, behind = cells_below(fraction), np.append(found[1:], np.inf)
    # A limit lies behind a cell of these, and all up to the next one are the same.
    moved = np.maximum(0, np.maximum(found + 1 - usual, usual - behind))
    missed = np.maximum(0, np.maximum(NEAR * wanted - chosen, chosen - wanted / NEAR))
    if rare.all():
        missed[-1] = np.inf
    nearest = np.flatnonzero(missed == missed.min())
    best = nearest[moved[nearest].argmin()]
    end = min(max(usual, found[best] + 1), behind[best])
    return Split(
        fraction, float(fraction * (end / usual)), tuple(cells[~rare & (cells < end)].tolist())
    )


def by_texts(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split of runs before there was a choice: a share of the different texts, however many lines each has."""
    return Split(fraction, max(fraction, lowest))


SPLITS: dict[str, Callable[[float, float, np.ndarray, np.ndarray], Split]] = {
    "lines": by_lines,
    "texts": by_texts,
}
"""By `data.split`: from a fraction, the lowest place, and the cells that hold texts with the number of their lines."""


def split_of(rule: str, fraction: float, places: np.ndarray) -> Split:
    """How a corpus is split whose lines have these places (N,)."""
    return SPLITS[rule](
        fraction, places.min(), *np.unique(cells_of(places, fraction), return_counts=True)
    )


COARSE = {
    "lines": "equal lines stay together, and there are too few different ones to come nearer",
    "texts": "data.split=texts counts different texts, whatever their number of lines; a new run splits by lines",
}
"""Why a share of the lines may be far from the fraction asked for, by `data.split`."""


def is_far(share: float, asked: float) -> bool:
    """Whether a share is more than twice or less than half of what was asked for."""
    return not asked / 2 <= share <= 2 * asked


def note_share(config: Config, held: int, lines: int, notes: list[str]) -> None:
    """Say where the share of held-out lines is far from the one asked for."""
    data, asked = config.data, config.data.validation_fraction
    if is_far(held / lines, asked):
        notes.append(
            f"{data.source}: {held:,} of {lines:,} lines are held out, {held / lines:.2%} where "
            f"data.validation_fraction asks for {asked:.2%}: {COARSE[data.split]}; --validation FILE gives others to hold out"
        )


def note_alike(config: Config, rows: np.ndarray, given: str | None, notes: list[str]) -> None:
    """Say where the held-out rows (N, T), of a file that was `given` or of the corpus, are too few or too alike for what is
    measured of the code on them."""
    if config.model.latent == "none" or not len(rows):
        return
    counts = np.array(list(Counter(row.tobytes() for row in rows).values()))
    shares = counts / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    if entropy >= math.log(FEW):
        return
    if len(counts) == 1:
        what = "active_units and mutual_information cannot be measured on them and are left out"
    else:
        what = f"too few or too alike for active_units and mutual_information (at most {entropy:.2f} nats on them)"
    more = (
        "give more different ones"
        if given
        else "hold out more with data.validation_fraction or --validation FILE"
    )
    notes.append(
        f"{given or config.data.source}: {len(rows):,} held-out texts, {len(counts):,} of them different: {what}; {more}"
    )


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
    return config.with_settings(
        {"model.length": multiple_of_strides(config, min(longest + 1, LONGEST_AUTOMATIC))}
    )


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
        raise DataError(
            f"{found} and dropped, none is left; train a longer model with --set model.length=N"
        )
    notes.append(f"{found}: {'cut' if config.data.too_long == 'cut' else 'dropped'}")
