"""Training and evaluation steps on TensorFlow, as `TextVAE` calls them: `kvae.steps.Steps`, as in `jax_step`.

All of them run recurrences by `over_positions`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kvae.heads import LSTMCell
from kvae.inputs import inputs_of
from kvae.model import TextVAE
from kvae.recurrences import keras_loop, looping
from kvae.replicas import Replica, replica, shard_fraction, shard_mean

from .first_batch import call_on_first_batch as call_on_first_batch
from .tensorflow_recurrence import lstm


def over_positions(recurrence: keras.layers.RNN, inputs: Any, states: list[Any], training: bool) -> Any:
    """Outputs (B, T, units) of a recurrence for inputs (B, T, ...) from its first states: our LSTM with a gradient of its own,
    any other in Keras' loop."""
    if isinstance(recurrence.cell, LSTMCell):
        return lstm(recurrence.cell, inputs, states, training)
    return keras_loop(recurrence, inputs, states, training)


@looping(over_positions)
def train_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """Forward, backward, one optimizer update (which clips by its own `global_clipnorm`), one more on the step counter.

    Of a batch that is split between replicas each takes this step with its part, and gradients, norm and update are those
    of the whole batch.
    """
    context = tf.distribute.get_replica_context()
    parts = context.num_replicas_in_sync
    inputs, of_texts = inputs_of(model.model_config, data)
    part = part_of_batch(context, of_texts)
    with tf.GradientTape() as tape, replica(part):
        terms = model.terms(inputs, training=True)
        scale = model.optimizer.scale_loss(tf.ones(()))
        loss = scale * shard_mean(terms["loss"]) * shard_fraction()
    weights = model.trainable_weights
    # Dense: an embedding's gradient comes as slices, whose norm is not the gradient's where a row occurs twice.
    # Zero where the loss does not reach, as the rows of previous symbols that a historyless decoder never reads.
    gradients = [
        tf.zeros_like(weight.value) if gradient is None else tf.convert_to_tensor(gradient)
        for gradient, weight in zip(tape.gradient(loss, weights), weights, strict=True)
    ]
    if parts > 1:
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
    norm = tf.linalg.global_norm(gradients) / scale
    if parts > 1:
        clipping: Any = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # float16 wraps it
        gradients = equal_shares(gradients, norm, clipping.global_clipnorm, parts)
    if model.objective_config.encoder_updates:
        update_in_turn(model, gradients, weights)
    else:
        model.optimizer.apply(gradients, weights)
    model.training_steps.assign_add(1)
    with replica(part):
        return reducible(model.track(terms, gradient_norm=norm), context)


def part_of_batch(context: tf.distribute.ReplicaContext, weights: Any) -> Replica:
    """Which part of the batch this replica has, its texts of `weights` (B,) or None."""

    def mean(values: tf.Tensor) -> tf.Tensor:
        return context.all_reduce(tf.distribute.ReduceOp.MEAN, values)

    parts = context.num_replicas_in_sync
    if parts == 1:
        return Replica(weights=weights)
    return Replica(context.replica_id_in_sync_group, parts, mean, weights)


def equal_shares(gradients: Sequence[tf.Tensor], norm: tf.Tensor, limit: float | None, parts: int) -> list[tf.Tensor]:
    """Keras clips the gradients of each replica and adds them up: what it must be given so that the clipped sum comes out."""
    clipped = tf.minimum(1.0, limit / norm) if limit else 1.0
    return [gradient * clipped / parts for gradient in gradients]


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


@looping(over_positions)
def test_step(model: TextVAE, data: Any) -> dict[str, Any]:
    """The objective's terms with the model in inference mode."""
    context = tf.distribute.get_replica_context()
    inputs, weights = inputs_of(model.model_config, data)
    with replica(part_of_batch(context, weights)):
        return reducible(model.track(model.terms(inputs)), context)


@looping(over_positions)
def predict_step(model: TextVAE, data: Any) -> Any:
    """The outputs with the model in inference mode."""
    return keras.Model.predict_step(model, data)


def reducible(logs: dict[str, Any], context: tf.distribute.ReplicaContext) -> dict[str, Any]:
    """Logs as Keras can average them: between several workers it does so along their first axis."""
    together = isinstance(context.strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return {name: value[None] for name, value in logs.items()} if together else logs


@contextlib.contextmanager
def keeping_weights(model: TextVAE) -> Iterator[None]:
    """Nothing is to be done: variables keep their values here while Keras trains."""
    yield


def compiled(
    model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[Any]
) -> Callable[..., dict[str, np.ndarray]]:
    """`function` of arrays like the symbolic `inputs`, traced once for all batch sizes; it always sees the model's weights of
    the moment."""
    signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in inputs]
    traced = tf.function(looping(over_positions)(function), autograph=False, input_signature=signature)
    return lambda *arrays: {name: value.numpy() for name, value in traced(*arrays).items()}


def accelerators() -> list[str]:
    """The names of the GPUs in use."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [each.get("device_name", "GPU") for each in details]
