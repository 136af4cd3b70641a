"""Training and evaluation steps on TensorFlow, as `TextVAE` calls them; another backend would have the same names."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kvae.model import TextVAE, tokens_of


def train_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """Forward, backward, one optimizer update (which clips by its own `global_clipnorm`), one more on the step counter."""
    tokens = tokens_of(data)
    with tf.GradientTape() as tape:
        terms = model.loss_terms(tokens, model(tokens, training=True))
        loss = model.optimizer.scale_loss(tf.reduce_mean(terms["loss"]))
    # Dense: an embedding's gradient comes as slices, whose norm is not the gradient's where a row occurs twice.
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, model.trainable_weights)]
    model.optimizer.apply(gradients, model.trainable_weights)
    model.training_steps.assign_add(1)
    return model.track(terms, gradient_norm=tf.linalg.global_norm(gradients))


def test_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """The objective's terms with the model in inference mode."""
    tokens = tokens_of(data)
    return model.track(model.loss_terms(tokens, model(tokens, training=False)))
