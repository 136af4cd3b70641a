"""Sampling and decoding in Keras, the reference for exported samplers."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from kvae.serving.alphabet import END, PAD, START
from kvae.serving.errors import ConfigError
from kvae.serving.logit_masks import logit_mask

from .model import TextVAE
from .sections import nearest
from .tensors import Tensor

Chooser = Callable[[Tensor], Tensor]
"""Logits (B, V) -> next tokens (B,)."""

DecodingStep = Callable[[Tensor, Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]]
"""`head.step`: projected features (B, P), previous tokens (B,), state -> logits (B, V), state."""


def greedy(logits: Tensor) -> Tensor:
    """Argmax of logits (B, V): the most likely tokens, (B,)."""
    return ops.argmax(logits, axis=-1)


def at_temperature(temperature: float, seed: int | None = None) -> Chooser:
    """A chooser that samples from softmax(logits / temperature)."""
    generator = keras.random.SeedGenerator(seed)
    return lambda logits: keras.random.categorical(logits / temperature, 1, seed=generator)[:, 0]


def decode(
    model: TextVAE,
    z: Tensor,
    choose: Chooser = greedy,
    step: DecodingStep | None = None,
    min_length: int = 1,
) -> Tensor:
    """Decode latent codes (B, code_size) to tokens (B, T) int32, with PAD after each END.

    Ids in `NEVER_SAMPLED` of `kvae.serving.alphabet` are never chosen, and END not before position
    `min_length`: no corpus holds an empty text. `step` replaces `model.head.step`, for instance
    by a compiled one that serves many batches.
    """
    step = step or model.head.step
    features = model.expander(z, training=False)
    projected, state = model.head.project(features), model.head.initial_state(features)
    size = model.model_config.vocabulary_size
    without_end, with_end = logit_mask(size, end=False), logit_mask(size)
    previous = ops.full((ops.shape(z)[0],), START, dtype="int32")
    finished = ops.zeros_like(previous, dtype="bool")
    tokens = []
    for position in range(model.model_config.length):
        logits, state = step(projected[:, position], previous, state)
        mask = with_end if position >= min_length else without_end
        chosen = ops.cast(choose(logits + mask), "int32")
        previous = ops.where(finished, PAD, chosen)
        finished = ops.logical_or(finished, ops.equal(previous, END))
        tokens.append(previous)
    return ops.stack(tokens, axis=1)


def sample(
    model: TextVAE,
    count: int,
    choose: Chooser = greedy,
    seed: int | None = None,
    attribute: str | None = None,
) -> Tensor:
    """Sample `count` texts as tokens (count, T): latent codes from the prior, then `decode`.

    `attribute` is the label that the texts are conditioned on; without it each text draws a label.
    Raises `ConfigError` for a label that the model does not have.
    """
    codes = model.codes(keras.random.normal((count, model.parts.noise_size), seed=seed))
    codes = codes if attribute is None else with_attribute(model, codes, attribute)
    return decode(model, codes, choose)


def with_attribute(model: TextVAE, codes: Tensor, attribute: str) -> Tensor:
    """The codes (B, code_size) with their attribute replaced; raises `ConfigError` if unknown."""
    values = model.model_config.attributes
    if attribute not in values:
        raise ConfigError(
            f"attribute is {attribute!r}{nearest(attribute, values)}"
            if values
            else f"attribute is {attribute!r}, but the model was trained without labels"
        )
    index = ops.full((ops.shape(codes)[0],), values.index(attribute), dtype="int32")
    one_hot = ops.one_hot(index, len(values))
    return ops.concatenate([codes[:, : model.hierarchy.size], one_hot], axis=-1)
