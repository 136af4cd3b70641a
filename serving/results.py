"""The results of a `Sampler`: samples and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One sampled text. A bundle gives the same text for the same `seed` and `row` on every
    machine."""

    text: str
    seed: int
    row: int
    log_probability: float
    """log p(text | z) of the model at temperature 1, in nats, the end mark included."""
    finished: bool
    """True if the text is complete: the model sampled its end mark, or the text has the fixed
    length of all its texts. False if the text was cut at the maximum length."""
    attribute: str | None = None
    """The label of the text, for a model that was trained with labels."""


@dataclass(frozen=True)
class Score:
    """An upper bound on -log p(text) in nats, and its parts."""

    text: str
    bound: float
    """reconstruction + kl, in nats."""
    reconstruction: float
    """-log p(text | z) in nats, the end mark included."""
    kl: float
    """KL of the latent code in nats, plus the cost of a label that was not given."""
    bits_per_character: float
    """The bound in bits, divided by the number of characters, the end mark included."""
    nats: tuple[float, ...]
    """The reconstruction of each token in nats, the end mark last."""


def scores_of(
    texts: Sequence[str], tokens: np.ndarray, kl: np.ndarray, nats: np.ndarray, end_marks: bool
) -> list[Score]:
    """The scores of texts whose `tokens` (n, T) cost `kl` (n,) and `nats` (n, T), each a mean over
    the sampled latent codes. `end_marks` says that each text ends with an end mark, which counts as
    a character."""
    # Positions are added one after another. The graph's own sum is in float32, and the order of
    # np.sum depends on the longest text of the batch.
    reconstruction = np.add.accumulate(nats, axis=1)[:, -1]
    return [
        Score(
            text,
            bound=float(reconstruction[row] + kl[row]),
            reconstruction=float(reconstruction[row]),
            kl=float(kl[row]),
            bits_per_character=float(
                (reconstruction[row] + kl[row]) / (max(len(text) + end_marks, 1) * np.log(2.0))
            ),
            nats=tuple(nats[row, : np.count_nonzero(tokens[row])].tolist()),
        )
        for row, text in enumerate(texts)
    ]
