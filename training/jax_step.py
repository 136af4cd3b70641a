"""Training and evaluation steps on JAX, as `TextVAE` calls them: `kvae.steps.Steps`, as in `tensorflow_step`.

A step is a function of its state here: the values of all variables go in and come out as lists, in the order in which the
model names the variables. `keras.StatelessScope` lends them to the variables meanwhile, so that the model's own code serves
both backends. Recurrences run in Keras' loop: under XLA alone a gradient by hand is no faster (`docs/decisions.md`, 72).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from kvae.inputs import inputs_of
from kvae.model import TextVAE
from kvae.replicas import Replica, replica, shard_mean

from .first_batch import call_on_first_batch as call_on_first_batch

Values = Sequence[Any]
"""One array for each variable of a list."""


class Scope(keras.StatelessScope):
    """Values lent to variables. What is assigned to one is a number from then on, as on TensorFlow: else the gradient of a
    vamp prior, which reads the moving statistics that the same step has updated, would flow back into the batch."""

    def add_update(self, update: tuple[Any, Any]) -> None:
        variable, value = update
        super().add_update((variable, jax.lax.stop_gradient(value)))


def train_step(model: TextVAE, state: tuple[Values, ...], data: Any) -> tuple[dict[str, Any], tuple[Values, ...]]:
    """Forward, backward, one optimizer update (which clips by its own `global_clipnorm`), one more on the step counter.

    `state` is trainable, non-trainable, optimizer and metrics variables, as Keras passes them. Gradients are dense here and
    zero where the loss does not reach.
    """
    trainable, others, optimizer, metrics = state
    inputs, of_texts = inputs_of(model.model_config, data)
    part = Replica(weights=of_texts)
    lent = [
        *zip(model.non_trainable_variables, others, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
    ]

    def scaled_loss(weights: Values) -> tuple[Any, Any]:
        with Scope([*lent, *zip(model.trainable_variables, weights, strict=True)]) as scope, replica(part):
            terms = model.terms(inputs, training=True)
            scale = model.optimizer.scale_loss(jnp.ones(()))
            model.training_steps.assign_add(1)
            loss = scale * shard_mean(terms["loss"])
        return loss, (terms, scale, after(scope, model.non_trainable_variables, others))

    (_, (terms, scale, updated)), gradients = jax.value_and_grad(scaled_loss, has_aux=True)(list(trainable))
    apply = update_in_turn if model.objective_config.encoder_updates else update
    trainable, optimizer = apply(model, gradients, trainable, others, optimizer)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient / scale)) for gradient in gradients))
    logs, metrics = tracked(model, terms, metrics, part, norm)
    return logs, (trainable, updated, optimizer, metrics)


def update(
    model: TextVAE, gradients: Values, trainable: Values, others: Values, optimizer: Values
) -> tuple[Values, Values]:
    """The optimizer's update of all weights: weights and optimizer variables after it."""
    return model.optimizer.stateless_apply(optimizer, gradients, trainable)


def update_in_turn(
    model: TextVAE, gradients: Values, trainable: Values, others: Values, optimizer: Values
) -> tuple[Values, Values]:
    """Aggressive training (He et al. 2019, algorithm 1), as in `tensorflow_step`."""
    weights = model.trainable_variables
    value_of = dict(zip(map(id, model.non_trainable_variables), others, strict=True))
    gradient_of = dict(zip(map(id, weights), gradients, strict=True))
    lent = [*zip(weights, trainable, strict=True), *zip(model.optimizer.variables, optimizer, strict=True)]

    def updating(some: Sequence[Any]) -> Callable[[], tuple[Values, Values]]:
        def branch() -> tuple[Values, Values]:
            with Scope(lent) as scope:
                model.optimizer.apply([gradient_of[id(weight)] for weight in some], list(some))
            return after(scope, weights, trainable), after(scope, model.optimizer.variables, optimizer)

        return branch

    ahead, step = value_of[id(model.encoder_updates)], value_of[id(model.training_steps)]
    whose = jnp.where(ahead == 0, 0, jnp.where(step % (ahead + 1) < ahead, 1, 2))
    parts = [weights, model.inference_weights, model.generative_weights]
    return jax.lax.switch(whose, [updating(some) for some in parts])


def test_step(model: TextVAE, state: tuple[Values, ...], data: Any) -> tuple[dict[str, Any], tuple[Values, ...]]:
    """The objective's terms with the model in inference mode; `state` is that of `train_step` without the optimizer."""
    trainable, others, metrics = state
    lent = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, others, strict=True),
    ]
    inputs, weights = inputs_of(model.model_config, data)
    part = Replica(weights=weights)
    with Scope(lent) as scope, replica(part):
        terms = model.terms(inputs)
    logs, metrics = tracked(model, terms, metrics, part)
    return logs, (trainable, after(scope, model.non_trainable_variables, others), metrics)


def predict_step(model: TextVAE, state: tuple[Values, ...], data: Any) -> Any:
    """The outputs with the model in inference mode, and what is not trained after it; `state` is the values of trainable and
    non-trainable variables."""
    return keras.Model.predict_step(model, state, data)


def tracked(
    model: TextVAE, terms: Mapping[str, Any], metrics: Values, part: Replica, gradient_norm: Any = None
) -> tuple[dict[str, Any], Values]:
    """`TextVAE.track` of that batch: the running means, and the metrics variables after it."""
    with Scope(list(zip(model.metrics_variables, metrics, strict=True))) as scope, replica(part):
        logs = model.track(terms, gradient_norm)
    return logs, after(scope, model.metrics_variables, metrics)


def after(scope: Scope, variables: Sequence[Any], before: Values) -> Values:
    """What the variables hold at the end of a scope."""
    found = (scope.get_current_value(variable) for variable in variables)
    return [old if new is None else new for new, old in zip(found, before, strict=True)]


@contextlib.contextmanager
def keeping_weights(model: TextVAE) -> Iterator[None]:
    """Keras takes the values out of a model's variables while it trains: where it fails before the first step is done, they are
    put back."""
    optimizer = model.optimizer.variables if model.optimizer else []
    before = [(variable, variable.value) for variable in (*model.variables, *model.metrics_variables, *optimizer)]
    try:
        yield
    except BaseException:
        for variable, value in before:
            if variable._value is None:
                variable.assign(value)
        raise


def compiled(
    model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[Any]
) -> Callable[..., dict[str, np.ndarray]]:
    """`function` of arrays like the symbolic `inputs`, compiled for each batch size; it always sees the model's weights of
    the moment."""

    @jax.jit
    def stateless(values: Values, *arrays: Any) -> dict[str, Any]:
        with Scope(list(zip(model.variables, values, strict=True))):
            return function(*arrays)

    def run(*arrays: Any) -> dict[str, np.ndarray]:
        arrays = tuple(np.asarray(array, spec.dtype) for array, spec in zip(arrays, inputs, strict=True))
        found = stateless([variable.value for variable in model.variables], *arrays)
        return {name: np.asarray(value) for name, value in found.items()}

    return run


def accelerators() -> list[str]:
    """The names of the GPUs or TPUs in use."""
    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
