"""Output biases that start at the frequencies of the training tokens."""

from __future__ import annotations

import numpy as np
from keras import layers

from kvae.model import TextVAE
from kvae.serving.alphabet import PAD

from .data.prepare import Prepared
from .data.rows import Stream

TOKENS = 2_000_000
"""About how many training tokens are counted at most."""


def set_biases_to_frequencies(model: TextVAE, prepared: Prepared) -> None:
    """Set the bias (V,) of each layer that predicts tokens to the log frequencies of the training
    tokens, so that training need not learn them first.

    Each token counts once more than it occurs. Special tokens that are never predicted keep the
    frequency of a token that does not occur.
    """
    counts = np.bincount(counted_tokens(prepared), minlength=len(prepared.alphabet)) + 1.0
    if not prepared.config.objective.count_padding:
        counts[PAD] = 1.0
    log_frequencies = np.log(counts / counts.sum()).astype(np.float32)
    for layer in (getattr(model.head, "classify", None), model.parts.auxiliary):
        bias = getattr(layer, "bias", None)
        if isinstance(layer, layers.Layer) and bias is not None:
            bias.assign(log_frequencies)


def counted_tokens(prepared: Prepared) -> np.ndarray:
    """The ids of about `TOKENS` training tokens: rows at equal distances, or the beginning of a
    stream."""
    train, length = prepared.train, prepared.config.model.length
    if isinstance(train, Stream):
        size = min(len(train) // length * length, TOKENS)
        return np.asarray(train.take(np.arange(0, size, length), length)).ravel()
    step = -(-len(train) * length // TOKENS)
    return np.asarray(train.take(np.arange(0, len(train), step))).ravel()
