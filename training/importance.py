"""The importance-weighted bound of texts with any number of codes, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from kvae.blocks import repeated_rows
from kvae.model import TextVAE
from kvae.objectives import bound_terms, guessed_attribute_nats
from kvae.steps import backend_steps
from kvae.tensors import Tensor

from .measuring import labelled_batches, noise_of, text_inputs
from .messages import Pace, Say, quiet

CODES_TOGETHER = 16
"""Largest number of codes of a text that are decoded together. The encoder runs once for them."""


class ImportanceBound(NamedTuple):
    """The bounds of N texts on -log p(x), nats."""

    nats: np.ndarray
    """With all codes, (N,)."""
    with_half: np.ndarray | None
    """With half of the codes: the mean of both halves, (N,). None if there is one code only."""

    def numbers(self, samples: int) -> dict[str, Any]:
        """The metrics of the bound with `samples` codes a text, as `evaluation.UNITS` names them.

        `importance_weighted_error` is the standard error of the mean over the texts. It includes
        the chance of the drawn codes. `importance_weighted_bias` is the difference to half of the
        codes. The mean of the bound is -log p(x) + a / K + O(1 / K^2) (Nowozin 2018), so the
        difference is a / K too: what is still above -log p(x).
        """
        found: dict[str, Any] = {"importance_weighted_nll": float(self.nats.mean())}
        if len(self.nats) > 1:
            error = self.nats.std(ddof=1) / math.sqrt(len(self.nats))
            found["importance_weighted_error"] = float(error)
        if self.with_half is not None:
            found["importance_weighted_bias"] = float((self.with_half - self.nats).mean())
        return {**found, "importance_samples": samples}


class LogSums:
    """Logarithms of running sums of importance weights, of the even and the odd codes of n texts.

    Two numbers a text are kept, however many weights are added.
    """

    def __init__(self, texts: int) -> None:
        self.sums = np.full((2, texts), -np.inf)
        self.counts = np.zeros(2, int)

    def add(self, log_weights: np.ndarray) -> None:
        """Add the weights of the next codes, logarithms (S, n)."""
        for weights in log_weights.astype(np.float64):
            half = int(self.counts.sum()) % 2
            self.sums[half] = np.logaddexp(self.sums[half], weights)
            self.counts[half] += 1

    def bound(self) -> ImportanceBound:
        """-log of the mean weight (Burda et al. 2016, eq. 8)."""
        nats = math.log(self.counts.sum()) - np.logaddexp(*self.sums)
        if not self.counts.all():
            return ImportanceBound(nats, None)
        return ImportanceBound(nats, (np.log(self.counts)[:, None] - self.sums).mean(axis=0))


def importance_weighted(
    model: TextVAE,
    rows: np.ndarray,
    samples: int,
    batch_size: int = 128,
    seed: int = 0,
    attribute: np.ndarray | None = None,
    say: Say = quiet,
) -> ImportanceBound:
    """The importance-weighted bounds of rows of tokens (N, T) with `samples` codes a text.

    `attribute` (N,) are their labels, -1 if unknown. `batch_size` codes are decoded at a time, and
    the memory does not depend on `samples`. `say` gets a line of progress every half minute. The
    same arguments give the same numbers.
    """
    pace, done, bounds = Pace(say, "codes", len(rows) * samples), 0, []
    for index, (_, tokens, labels) in enumerate(labelled_batches(rows, attribute, batch_size)):
        sums = LogSums(len(tokens))
        for first in range(0, samples, CODES_TOGETHER):
            codes = range(first, min(first + CODES_TOGETHER, samples))
            shape = len(tokens), model.parts.noise_size
            seeds = [(seed + 1 + code, index) for code in codes]
            noise = np.stack([noise_of(each, shape) for each in seeds], axis=1)
            sums.add(log_weights_of(model, tokens, noise, labels, batch_size))
            done += len(tokens) * len(codes)
            pace.done(done)
        bounds.append(sums.bound())
    with_half = [bound.with_half for bound in bounds if bound.with_half is not None]
    return ImportanceBound(
        np.concatenate([bound.nats for bound in bounds]),
        np.concatenate(with_half) if with_half else None,
    )


def log_weights_of(
    model: TextVAE, tokens: np.ndarray, noise: np.ndarray, labels: np.ndarray, batch_size: int
) -> np.ndarray:
    """log p(x, z) - log q(z|x) of tokens (n, T) for S codes each, from noise (n, S, noise_size):
    nats, (S, n). `batch_size` codes are decoded at a time."""
    texts, samples, size = noise.shape
    together = max(1, batch_size // samples)
    pieces = []
    for start in range(0, texts, together):
        stop = min(start + together, texts)
        rows = noise[start:stop].reshape((stop - start) * samples, size)
        found = compiled_log_weights(model)(tokens[start:stop], rows, labels[start:stop])
        pieces.append(found["log_weights"].reshape(stop - start, samples))
    return np.concatenate(pieces).T


@lru_cache(maxsize=1)
def compiled_log_weights(model: TextVAE) -> Callable[..., dict[str, np.ndarray]]:
    """The function that `log_weights_of` runs, compiled once for the model evaluated last."""

    def log_weights(tokens: Tensor, noise: Tensor, attribute: Tensor) -> dict[str, Tensor]:
        samples = ops.shape(noise)[0] // ops.shape(tokens)[0]
        outputs = model.parts.outputs(tokens, noise, attribute, training=False, samples=samples)
        terms = bound_terms(repeated_rows(tokens, samples), outputs)
        nats = terms["reconstruction"] + outputs["log_ratio"]
        if model.model_config.attributes:
            guess = guessed_attribute_nats(attribute, len(model.model_config.attributes))
            nats += repeated_rows(guess, samples)
        return {"log_weights": -nats}

    return backend_steps().compiled(model, log_weights, text_inputs(model, model.parts.noise_size))
