"""What measurements of a model on many texts share: batches, noise, and inputs to compile for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np

from kvae.model import TextVAE
from kvae.tensors import Tensor

from .data.batches import ordered_rows


class Batch(NamedTuple):
    """Some of N texts."""

    places: slice
    tokens: np.ndarray
    """(B, T) int32."""
    labels: np.ndarray
    """(B,) int32, -1 if unknown."""


def labelled_batches(
    rows: np.ndarray, attribute: np.ndarray | None, batch_size: int
) -> Iterator[Batch]:
    """Batches with every row of tokens (N, T) once, in order, and its label of `attribute` (N,) or
    -1; the last one may be smaller."""
    start = 0
    for tokens in ordered_rows(rows, batch_size):
        places = slice(start, start + len(tokens))
        known = None if attribute is None else attribute[places].astype(np.int32)
        yield Batch(places, tokens, np.full(len(tokens), -1, np.int32) if known is None else known)
        start = places.stop


def noise_of(seed: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal noise that depends on the seed alone, and not on the backend."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def text_inputs(model: TextVAE, size: int) -> list[Tensor]:
    """Inputs of a function that is compiled for a model: tokens (B, T), noise or codes (B, `size`)
    and labels (B,)."""
    return [
        keras.Input((model.model_config.length,), dtype="int32"),
        keras.Input((size,)),
        keras.Input((), dtype="int32"),
    ]
