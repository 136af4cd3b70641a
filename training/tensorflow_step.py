"""Training and evaluation steps on TensorFlow. `TextVAE` calls these; `jax_step.py` has the same names for JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from kvae.model import TextVAE


def train_step(model: TextVAE, tokens: Any) -> dict[str, Any]:
    """Forward, backward, one optimizer update (which clips by its own `global_clipnorm`), one more on the step counter."""
    with tf.GradientTape() as tape:
        terms = model.loss_terms(tokens, model(tokens, training=True))
        loss = model.optimizer.scale_loss(tf.reduce_mean(terms["loss"]))
    gradients = tape.gradient(loss, model.trainable_weights)
    model.optimizer.apply(gradients, model.trainable_weights)
    model.training_steps.assign_add(1)
    return model.track(terms, gradient_norm=tf.linalg.global_norm(gradients))


def test_step(model: TextVAE, tokens: Any) -> dict[str, Any]:
    """The objective's terms with the model in inference mode."""
    return model.track(model.loss_terms(tokens, model(tokens, training=False)))
