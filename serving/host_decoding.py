"""Decoding on the host with the plain step of a bundle. Its logits allow what a graph does badly:
beam search, and constraints on the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .alphabet import END, PAD, START
from .choices import DRAWING
from .constraints import Constraint
from .errors import ConfigError
from .limits import cancellable
from .logit_masks import MASKED_LOGIT, logit_mask
from .random_numbers import uniforms


@dataclass(frozen=True)
class Search:
    """How texts are decoded on the host: `beam` texts are kept at each position, or with None each
    token is sampled as in the graph; `constraint` excludes tokens."""

    beam: int | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class PlainStep:
    """The plain step of a bundle, with the sampling options of a call."""

    run: Callable[..., Sequence[np.ndarray]]
    """Inputs by name -> the outputs of the graph `step_plain`."""
    choice_inputs: Mapping[str, Any]
    """The result of `choices`."""

    def __call__(
        self,
        projected: np.ndarray,
        previous: np.ndarray,
        states: Sequence[np.ndarray],
        uniform: np.ndarray,
        mask: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
        """Features (n, P) of a position, previous tokens (n,), states, uniform numbers (n,) and a
        mask (n or 1, V) -> tokens (n,), log-probabilities (n,), logits (n, V) and states."""
        drawing = {name: self.choice_inputs[name] for name in DRAWING}
        memory = {f"state_{number}": state for number, state in enumerate(states)}
        symbol, log_probability, logits, *new_states = self.run(
            projected=projected, previous=previous, uniform=uniform, mask=mask, **memory, **drawing
        )
        return symbol, log_probability, logits, new_states

    @property
    def max_length(self) -> int:
        """The largest number of tokens of a text."""
        return int(self.choice_inputs["max_length"])


class Masks:
    """The logit masks of texts in progress: those of the model, and a constraint."""

    def __init__(
        self, size: int, choice_inputs: Mapping[str, Any], constraint: Constraint | None = None
    ) -> None:
        self.with_end, self.without_end = logit_mask(size), logit_mask(size, end=False)
        self.min_length, self.constraint = int(choice_inputs["min_length"]), constraint

    def at(self, position: int, ids: np.ndarray) -> np.ndarray:
        """Masks for the tokens after ids (n, position): (1, V), or (n, V) with a constraint, which
        finished texts do not have."""
        base = (self.with_end if position >= self.min_length else self.without_end)[None]
        if self.constraint is None:
            return base
        masks = np.repeat(base, len(ids), axis=0)
        for mask, before in zip(masks, ids.tolist(), strict=True):
            if END not in before:
                mask[~self.constraint(before)] = MASKED_LOGIT
        return masks


def check_allowed(is_stuck: np.ndarray, position: int) -> None:
    """Raise `ConfigError` if a constraint leaves no token to a text."""
    if is_stuck.any():
        raise ConfigError(
            f"text {int(is_stuck.argmax())}: after {position} tokens the pattern or the list "
            "allows no token of the model; allow more tokens, or shorter texts (min_length)"
        )


def sampled_steps(
    step: PlainStep,
    start: Sequence[np.ndarray],
    places: tuple[np.ndarray, np.ndarray],
    masks: Masks,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens (n,) and their log-probabilities (n,) position by position, until all texts have
    ended: the loop of the sampler on the host.

    `start` are the projected features (n, T, P) and the first states, `places` the seeds and rows
    (n,). Without a constraint the texts are those of the sampler.
    """
    (projected, *states), length = start, step.max_length
    drawn = uniforms(*places, length)
    ids = np.full((len(projected), length), PAD)
    previous, sampling = np.full(len(projected), START), np.ones(len(projected), bool)
    for position in cancellable(range(length)):
        mask = masks.at(position, ids[:, :position])
        check_allowed(sampling & (mask == MASKED_LOGIT).all(axis=1), position)
        chosen, nats, _, states = step(
            projected[:, position], previous, states, drawn[:, position], mask
        )
        previous = ids[:, position] = np.where(sampling, chosen, PAD)
        yield previous, np.where(sampling, nats, np.float32(0.0))
        sampling = previous > END
        if not sampling.any():
            return


def sum_of_nats(log_probabilities: np.ndarray) -> np.ndarray:
    """The log-probability (n,) of texts from those of their tokens (n, time), as in the sampler:
    added in double precision."""
    total: np.ndarray = log_probabilities.sum(axis=1, dtype=np.float64)
    return total.astype(np.float32)


def beam_search(
    step: PlainStep, start: Sequence[np.ndarray], beam: int, masks: Masks
) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n, time) and log-probabilities (n,) of the most probable text that a beam search finds
    for each code.

    `beam` beginnings of a text are kept at each position. The search of a text ends when no
    unfinished beginning is more probable than its best finished text. Probabilities are not
    divided by the length.
    """
    projected, *states = (np.repeat(array, beam, axis=0) for array in start)
    n, length = len(start[0]), step.max_length
    ids = np.full((n, beam, length), PAD)
    scores = np.full((n, beam), -np.inf)
    scores[:, 0] = 0.0  # all beginnings are equal at first: only one of them may go on
    first, zeros = np.arange(n)[:, None] * beam, np.zeros(n * beam, np.float32)
    previous = np.full(n * beam, START)
    for position in cancellable(range(length)):
        flat = ids[:, :, :position].reshape(n * beam, position)
        mask = masks.at(position, flat)
        _, _, logits, states = step(projected[:, position], previous, states, zeros, mask)
        finished = (flat == END).any(axis=1)
        ahead = scores[..., None] + next_scores(logits, finished).reshape(n, beam, -1)
        kept = best(ahead.reshape(n, -1), beam)
        parents, tokens = np.divmod(kept, ahead.shape[-1])
        scores = np.take_along_axis(ahead.reshape(n, -1), kept, axis=1)
        check_allowed(np.isneginf(scores[:, 0]), position)
        ids = np.take_along_axis(ids, parents[..., None], axis=1)
        ids[:, :, position] = tokens
        states = [state[(first + parents).ravel()] for state in states]
        previous = tokens.ravel()
        # The best is first, and a text only loses probability as it grows.
        if (ids[:, 0, : position + 1] == END).any(axis=1).all():
            return ids[:, 0, : position + 1], scores[:, 0].astype(np.float32)
    return ids[:, 0], scores[:, 0].astype(np.float32)


def next_scores(logits: np.ndarray, finished: np.ndarray) -> np.ndarray:
    """Log-probabilities (n, V) in nats of the next tokens, float64. A finished text goes on with
    PAD, which costs nothing."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    scores[logits <= MASKED_LOGIT / 2] = -np.inf
    scores[finished] = -np.inf
    scores[finished, PAD] = 0.0
    return np.asarray(scores)


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """The places (n, count) of the largest scores (n, m), the largest first; of equal ones the
    first."""
    places = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)
