"""Decoding inside Keras: the reference that exported samplers must agree with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kvae.serving.alphabet import END, NEVER_SAMPLED, PAD, START
from kvae.serving.errors import ConfigError

from .configuration import nearest
from .model import TextVAE

FORBIDDEN = -1e9
"""Added to the logit of a symbol that may not be written."""

Chooser = Callable[[Any], Any]
"""From logits (B, V) to the next symbols (B,)."""


def greedy(logits: Any) -> Any:
    """The likeliest symbol."""
    return ops.argmax(logits, axis=-1)


def at_temperature(temperature: float, seed: int | None = None) -> Chooser:
    """Draw from softmax(logits / temperature)."""
    generator = keras.random.SeedGenerator(seed)
    return lambda logits: keras.random.categorical(logits / temperature, 1, seed=generator)[:, 0]


def decode(model: TextVAE, z: Any, choose: Chooser = greedy, step: Any = None, min_length: int = 1) -> Any:
    """Codes (B, code_size) as tokens (B, T) int32, PAD behind each END. Ids in `NEVER_SAMPLED` are never chosen, nor END before
    position `min_length`: no corpus holds an empty text.

    `step` stands in for the head's, as that compiled for many batches.
    """
    step = step or model.head.step
    features = model.expander(z, training=False)
    projected, state = model.head.project(features), model.head.initial_state(features)
    size = model.model_config.vocabulary_size
    before, barrier = writable(size, end=False), writable(size)
    previous = ops.full((ops.shape(z)[0],), START, dtype="int32")
    finished = ops.zeros_like(previous, dtype="bool")
    written = []
    for position in range(model.model_config.length):
        logits, state = step(projected[:, position], previous, state)
        chosen = ops.cast(choose(logits + (barrier if position >= min_length else before)), "int32")
        previous = ops.where(finished, PAD, chosen)
        finished = ops.logical_or(finished, ops.equal(previous, END))
        written.append(previous)
    return ops.stack(written, axis=1)


def writable(vocabulary_size: int, end: bool = True) -> Any:
    """(V,): 0 for symbols a decoder may write, END among them or not, `FORBIDDEN` for the others; added to logits."""
    forbidden = NEVER_SAMPLED if end else (*NEVER_SAMPLED, END)
    return ops.convert_to_tensor([FORBIDDEN if number in forbidden else 0.0 for number in range(vocabulary_size)])


def sample(
    model: TextVAE, count: int, choose: Chooser = greedy, seed: int | None = None, attribute: str | None = None
) -> Any:
    """`count` texts as tokens (count, T): codes from the prior, then `decode`. `attribute` sets the value of the label that
    the texts are conditioned on; without it each text draws its own. Raises `ConfigError` for a value the model lacks."""
    codes = model.codes(keras.random.normal((count, model.parts.noise_size), seed=seed))
    return decode(model, codes if attribute is None else with_attribute(model, codes, attribute), choose)


def with_attribute(model: TextVAE, codes: Any, attribute: str) -> Any:
    """The codes (B, code_size) with another value of the attribute."""
    values = model.model_config.attributes
    if attribute not in values:
        raise ConfigError(
            f"attribute is {attribute!r}{nearest(attribute, values)}"
            if values
            else f"attribute is {attribute!r}, but the model was trained without labels"
        )
    index = ops.full((ops.shape(codes)[0],), values.index(attribute), dtype="int32")
    return ops.concatenate([codes[:, : model.hierarchy.size], ops.one_hot(index, len(values))], axis=-1)
