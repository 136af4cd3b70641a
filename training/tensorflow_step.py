"""Training and evaluation steps on TensorFlow, as `TextVAE` calls them; the same names as in `jax_step`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kvae.model import TextVAE, inputs_of


def train_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """Forward, backward, one optimizer update (which clips by its own `global_clipnorm`), one more on the step counter."""
    with tf.GradientTape() as tape:
        terms = model.terms(inputs_of(model, data), training=True)
        scale = model.optimizer.scale_loss(tf.ones(()))
        loss = scale * tf.reduce_mean(terms["loss"])
    weights = model.trainable_weights
    # Dense: an embedding's gradient comes as slices, whose norm is not the gradient's where a row occurs twice.
    # Zero where the loss does not reach, as the rows of previous symbols that a historyless decoder never reads.
    gradients = [
        tf.zeros_like(weight.value) if gradient is None else tf.convert_to_tensor(gradient)
        for gradient, weight in zip(tape.gradient(loss, weights), weights, strict=True)
    ]
    if model.objective_config.encoder_updates:
        update_in_turn(model, gradients, weights)
    else:
        model.optimizer.apply(gradients, weights)
    model.training_steps.assign_add(1)
    return model.track(terms, gradient_norm=tf.linalg.global_norm(gradients) / scale)


def update_in_turn(model: TextVAE, gradients: Sequence[tf.Tensor], weights: Sequence[Any]) -> None:
    """Aggressive training (He et al. 2019, algorithm 1): of `encoder_updates` + 1 steps the last updates p(x, z), the others
    q(z|x), each on a batch of its own. When the model's counter of updates is 0, every step updates both.
    """
    gradient_of = {id(weight): gradient for weight, gradient in zip(weights, gradients, strict=True)}

    def updating(some: Sequence[Any]) -> Any:
        return lambda: model.optimizer.apply([gradient_of[id(weight)] for weight in some], list(some))

    ahead = tf.convert_to_tensor(model.encoder_updates)
    turn = tf.math.floormod(tf.convert_to_tensor(model.training_steps), ahead + 1)
    whose = tf.where(ahead == 0, 0, tf.where(turn < ahead, 1, 2))
    tf.switch_case(whose, [updating(weights), updating(model.inference_weights), updating(model.generative_weights)])


def test_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """The objective's terms with the model in inference mode."""
    return model.track(model.terms(inputs_of(model, data)))


def compiled(
    model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[Any]
) -> Callable[..., dict[str, np.ndarray]]:
    """`function` of arrays like the symbolic `inputs`, traced once for all batch sizes; it always sees the model's weights of
    the moment."""
    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]
    traced = tf.function(function, autograph=False, input_signature=signature)
    return lambda *arrays: {name: value.numpy() for name, value in traced(*arrays).items()}
