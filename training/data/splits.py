"""Which texts are held out and how long a text may be: rules of corpora in memory and on disk."""

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
"""The largest model length that is chosen automatically; longer corpora need a setting."""

WINDOW_LENGTH = 64
"""The length of a window in positions, unless the preset or the user sets `model.length`."""

CELLS = 2**22
"""Cells that [0, 1) is divided into to count lines by hash: 32 MB of counts for every corpus."""

SHARE_TOLERANCE = 0.8
"""The limit stays at `fraction` if the share of the lines is 0.8 to 1 / 0.8 times as large."""

FEW_TEXTS = 50
"""Held-out texts are too few if their entropy is below that of this many equally frequent texts."""


def text_hash(text: str, seed: int, purpose: bytes = b"") -> float:
    """A hash in [0, 1) of a text, a seed and a purpose: uniform, and the same in every process."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8) + purpose).digest()
    return int.from_bytes(digest) / 2**64


def text_hashes(texts: Iterable[str], seed: int, purpose: bytes = b"") -> np.ndarray:
    """The hashes of texts in [0, 1), (N,) float64."""
    return np.fromiter((text_hash(text, seed, purpose) for text in texts), np.float64)


@dataclass(frozen=True)
class Split:
    """A part of a corpus in whole texts: those with a hash of at most `limit`.

    `fraction` is the requested share. `frequent_cells` are the cells of frequent texts, which are
    left out.
    """

    fraction: float
    limit: float
    frequent_cells: tuple[int, ...] = ()

    def contains(self, hashes: np.ndarray) -> np.ndarray:
        """Whether each text belongs to the part, (N,) bool, by its hash, (N,) float64."""
        below = hashes <= self.limit
        return (
            below & ~np.isin(cells_of(hashes, self.fraction), self.frequent_cells)
            if self.frequent_cells
            else below
        )


def cells_below(fraction: float) -> int:
    """The number of cells below a fraction; the fraction is the end of a cell."""
    return max(1, round(fraction * CELLS))


def cell_count(fraction: float) -> int:
    """The number of all cells: about `CELLS`, since a cell ends at the fraction."""
    return int(cells_below(fraction) / fraction) + 1


def cells_of(hashes: np.ndarray, fraction: float) -> np.ndarray:
    """The cell of each hash, (N,) int64: so many cells that two texts rarely share one."""
    return (hashes * (cells_below(fraction) / fraction)).astype(np.int64)


def split_by_lines(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split that holds about `fraction` of the lines; `lowest` is not used.

    `cells` are the cells that hold texts, in ascending order, and `lines` the number of lines in
    each.

    A frequent text, one that alone has more lines than the target, is left out of the part. Of the
    lines of all other texts the part takes at most half, or `fraction` if that is more. The limit
    is `fraction`, as if each text had one line. It moves by the smallest distance that brings the
    lines of the part to between `SHARE_TOLERANCE` and 1 / `SHARE_TOLERANCE` times the target, or as
    near to that as whole texts allow. At least one text is in the part and at least one is not. The
    split does not depend on the order of the lines, and few texts change sides when a line is
    added.
    """
    target = fraction * lines.sum()
    rare = lines <= max(target, lines.min())
    target = min(target, max(fraction, 0.5) * lines[rare].sum())
    rare_cells, lines_up_to = cells[rare], np.cumsum(lines[rare])
    # The limit is the end of one of the rare cells, or anything up to the next one: all such limits
    # give the same split.
    usual_end, next_cell = cells_below(fraction), np.append(rare_cells[1:], np.inf)
    shift = np.maximum(0, np.maximum(rare_cells + 1 - usual_end, usual_end - next_cell))
    low, high = SHARE_TOLERANCE * target, target / SHARE_TOLERANCE
    error = np.maximum(0, np.maximum(low - lines_up_to, lines_up_to - high))
    if rare.all():
        error[-1] = np.inf
    nearest = np.flatnonzero(error == error.min())
    best = nearest[shift[nearest].argmin()]
    end = min(max(usual_end, rare_cells[best] + 1), next_cell[best])
    return Split(
        fraction, float(fraction * (end / usual_end)), tuple(cells[~rare & (cells < end)].tolist())
    )


def split_by_texts(fraction: float, lowest: float, cells: np.ndarray, lines: np.ndarray) -> Split:
    """The split that holds about `fraction` of the different texts, however many lines each has.

    It holds at least the text with the hash `lowest`. Runs that are older than `data.split` have
    it.
    """
    return Split(fraction, max(fraction, lowest))


SPLITS: dict[str, Callable[[float, float, np.ndarray, np.ndarray], Split]] = {
    "lines": split_by_lines,
    "texts": split_by_texts,
}
"""The splits by `data.split`.

They are functions of the fraction, the lowest hash, the cells that hold texts, in ascending order,
and the number of lines in each cell.
"""


def split_of(rule: str, fraction: float, hashes: np.ndarray) -> Split:
    """The split of a corpus by the hashes of its lines, (N,) float64; `rule` is `data.split`."""
    return SPLITS[rule](
        fraction, hashes.min(), *np.unique(cells_of(hashes, fraction), return_counts=True)
    )


OFF_TARGET_REASONS = {
    "lines": "equal lines stay together, and there are too few different lines to come nearer",
    "texts": (
        "data.split=texts counts different texts, whatever their number of lines; a new run splits "
        "by lines"
    ),
}
"""Why the share of the lines can be far from the requested fraction, by `data.split`."""


def is_far(share: float, target: float) -> bool:
    """Whether a share is more than twice or less than half of its target."""
    return not target / 2 <= share <= 2 * target


def note_share(config: Config, held: int, lines: int, notes: list[str]) -> None:
    """Add a note if the share of held-out lines is far from `data.validation_fraction`."""
    data, target = config.data, config.data.validation_fraction
    if is_far(held / lines, target):
        notes.append(
            f"{data.source}: {held:,} of {lines:,} lines are held out, {held / lines:.2%} where "
            f"data.validation_fraction asks for {target:.2%}: {OFF_TARGET_REASONS[data.split]}; "
            "--validation FILE holds out other texts"
        )


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


def training_end(config: Config, characters: int) -> int:
    """The position in a stream of `characters` at which the held-out part begins."""
    return round(characters * (1 - config.data.validation_fraction))


def next_whitespace(text: str, start: int) -> int:
    """The position of the first white space from `start` on, or of the end of the text."""
    space = re.compile(r"\s").search(text, start)
    return space.start() if space else len(text)


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
    if config.data.mode == "fixed":
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
