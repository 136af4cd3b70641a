"""Training and evaluation steps of `TextVAE` on TensorFlow.

The module implements `kvae.steps.Steps`. All steps run recurrences by `over_positions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.cells import GRUCell, LSTMCell
from kvae.inputs import inputs_of
from kvae.model import TextVAE
from kvae.recurrences import keras_loop, looping
from kvae.replicas import Replica, replica, shard_fraction, shard_mean

from .first_batch import call_on_first_batch as call_on_first_batch
from .tensorflow_gru import gru
from .tensorflow_recurrence import lstm


def over_positions(
    recurrence: keras.layers.RNN, inputs: tf.Tensor, states: list[tf.Tensor], training: bool
) -> tf.Tensor:
    """Outputs (B, T, units) of a recurrence for inputs (B, T, ...), from its initial states.

    The cells of kvae have a gradient of their own (`tensorflow_recurrence`,
    `tensorflow_gru`); others run in Keras' loop.
    """
    for cell, loop in ((LSTMCell, lstm), (GRUCell, gru)):
        if isinstance(recurrence.cell, cell):
            return loop(recurrence.cell, inputs, states, training)
    return keras_loop(recurrence, inputs, states, training)


@looping(over_positions)
def train_step(model: TextVAE, data: Any) -> dict[str, tf.Tensor]:
    """One training step: the logs.

    It computes loss and gradients, applies the optimizer (which clips by its own `global_clipnorm`)
    and increments the step counter. If a batch is split between replicas, each runs this step on
    its part; gradients, their norm and the update are those of the whole batch.
    """
    context = tf.distribute.get_replica_context()
    parts = context.num_replicas_in_sync
    inputs, text_weights = inputs_of(model.model_config, data)
    part = part_of_batch(context, text_weights)
    weights_of_losses = model.weights_of_losses
    with tf.GradientTape(persistent=len(weights_of_losses) > 1) as tape, replica(part):
        terms = model.terms(inputs, training=True)
        scale = model.optimizer.scale_loss(tf.ones(()))
        losses = {
            name: scale * shard_mean(terms[name]) * shard_fraction() for name in weights_of_losses
        }
    gradient_of = {
        id(weight): gradient
        for name, subset in weights_of_losses.items()
        for weight, gradient in zip(subset, tape.gradient(losses[name], subset), strict=True)
    }
    weights = model.trainable_weights
    gradients = [dense_gradient(gradient_of[id(weight)], weight) for weight in weights]
    if parts > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(gradients) / scale
    if parts > 1:
        # in float16 a loss-scaling optimizer wraps the one that clips
        inner: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        gradients = gradient_shares(gradients, norm, inner.global_clipnorm, parts)
    if model.objective_config.encoder_updates:
        update_in_turn(model, gradients, weights)
    else:
        model.optimizer.apply(gradients, weights)
    model.training_steps.assign_add(1)
    with replica(part):
        return with_worker_axis(model.track(terms, gradient_norm=norm), context)


def dense_gradient(gradient: Any, weight: keras.Variable) -> tf.Tensor:
    """The gradient of a weight as one tensor.

    Gradients of embeddings come as slices, whose norm is wrong if a row occurs twice. Weights that
    the loss does not depend on get zeros; an example is the embedding of previous tokens in a
    decoder that does not read them.
    """
    return tf.zeros_like(weight.value) if gradient is None else tf.convert_to_tensor(gradient)


def part_of_batch(context: tf.distribute.ReplicaContext, weights: tf.Tensor | None) -> Replica:
    """The part of the batch that this replica has; `weights` (B,) are the weights of its texts."""

    def mean(values: tf.Tensor) -> tf.Tensor:
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)

    parts = context.num_replicas_in_sync
    if parts == 1:
        return Replica(weights=weights)
    return Replica(context.replica_id_in_sync_group, parts, mean, weights)


def gradient_shares(
    gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float | None, parts: int
) -> list[tf.Tensor]:
    """The gradients of the whole batch, clipped to the norm `limit` and divided by `parts`.

    Keras clips the gradients of each replica and adds them up. The sum of these shares is the
    clipped gradient.
    """
    clipped = tf.minimum(1.0, limit / norm) if limit else 1.0
    return [gradient * clipped / parts for gradient in gradients]


def update_in_turn(
    model: TextVAE, gradients: Sequence[tf.Tensor], weights: Sequence[keras.Variable]
) -> None:
    """One optimizer update for aggressive training (He et al. 2019, algorithm 1).

    Of `encoder_updates` + 1 steps the last one updates p(x, z), the others q(z|x), each on a batch
    of its own. If `model.encoder_updates` is 0, every step updates both.
    """
    gradient_of = {
        id(weight): gradient for weight, gradient in zip(weights, gradients, strict=True)
    }

    def update_of(subset: Sequence[keras.Variable]) -> Callable[[], None]:
        return lambda: model.optimizer.apply(
            [gradient_of[id(weight)] for weight in subset], list(subset)
        )

    encoder_updates = tf.convert_to_tensor(model.encoder_updates)
    turn = tf.math.floormod(tf.convert_to_tensor(model.training_steps), encoder_updates + 1)
    branch_index = tf.where(encoder_updates == 0, 0, tf.where(turn < encoder_updates, 1, 2))
    subsets = [weights, model.inference_weights, model.generative_weights]
    tf.switch_case(branch_index, [update_of(subset) for subset in subsets])


@looping(over_positions)
def test_step(model: TextVAE, data: Any) -> dict[str, tf.Tensor]:
    """The terms of the objective with the model in inference mode."""
    context = tf.distribute.get_replica_context()
    inputs, weights = inputs_of(model.model_config, data)
    with replica(part_of_batch(context, weights)):
        return with_worker_axis(model.track(model.terms(inputs)), context)


@looping(over_positions)
def predict_step(model: TextVAE, data: Any) -> Any:
    """The outputs of the model in inference mode."""
    return keras.Model.predict_step(model, data)


def with_worker_axis(
    logs: dict[str, tf.Tensor], context: tf.distribute.ReplicaContext
) -> dict[str, tf.Tensor]:
    """Logs in the shape that Keras averages: (1,) with several workers, () otherwise."""
    several_workers = isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return {name: value[None] for name, value in logs.items()} if several_workers else logs


@contextlib.contextmanager
def keeping_weights(model: TextVAE) -> Iterator[None]:
    """A context that does nothing: on TensorFlow variables keep their values while Keras trains."""
    yield


def compiled(
    model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[keras.KerasTensor]
) -> Callable[..., dict[str, np.ndarray]]:
    """`function` of arrays with the shapes and types of `inputs`, traced once for all batch sizes.

    Each call uses the current weights of the model and returns NumPy arrays.
    """
    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]
    traced = tf.function(
        looping(over_positions)(function), autograph=False, input_signature=signature
    )
    return lambda *arrays: {name: value.numpy() for name, value in traced(*arrays).items()}


def accelerators() -> list[str]:
    """The names of the GPUs in use."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [device.get("device_name", "GPU") for device in details]
