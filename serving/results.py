"""What a `Sampler` gives back: samples and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One generated text. The same `seed` and `row` of the same bundle give the same text anywhere."""

    text: str
    seed: int
    row: int
    log_probability: float
    """log p(text | z) of the model at temperature 1, nats, the end mark included."""
    finished: bool
    """Whether the text is all there: the model wrote its end mark, or as many tokens as its texts always have. False
    where the text stopped at the model's length."""
    attribute: str | None = None
    """The label it was written for, of a model that was trained with labels."""


@dataclass(frozen=True)
class Score:
    """How surprising a text is to the model: an upper bound on -log p(text), nats, and its parts."""

    text: str
    bound: float
    """reconstruction + KL."""
    reconstruction: float
    """-log p(text | z), the end mark included."""
    kl: float
    """What the code costs; with it, the price of a label that was not given."""
    bits_per_character: float
    """The bound by the characters of the text and its end mark."""
    nats: tuple[float, ...]
    """The reconstruction token by token, the end mark last."""


def scores_of(
    texts: Sequence[str], tokens: np.ndarray, kl: np.ndarray, nats: np.ndarray, end_marks: bool
) -> list[Score]:
    """The scores of texts whose `tokens` (n, T) cost `kl` (n,) and `nats` (n, T), means over the codes drawn; `end_marks`
    says that each text ends with a mark, which counts as a character."""
    # One position after the other: the graph's own sum is float32, and np.sum groups them by the longest text of the batch.
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
