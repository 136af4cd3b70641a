"""Training and evaluation steps of `TextVAE` on JAX.

The module implements `kvae.steps.Steps`. A step is a function of its state: it takes and returns
the values of all variables as lists, in the order of the model's variables. Within the step,
`keras.StatelessScope` gives these values to the variables, so that the code of the model serves
both backends. All steps run recurrences by `jax_recurrence.over_positions`.
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
from kvae.recurrences import looping
from kvae.replicas import Replica, replica, shard_mean

from .first_batch import call_on_first_batch as call_on_first_batch
from .jax_recurrence import over_positions

Values = Sequence[jax.Array]
"""One array for each variable of a list."""

State = tuple[Values, ...]
"""The values of several lists of variables."""


class Scope(keras.StatelessScope):
    """A scope with values for variables, in which no gradient flows through an assignment.

    TensorFlow behaves in the same way. Without this, the gradient of a VampPrior would flow back
    into the batch, because it reads the moving statistics that the same step has updated.
    """

    def add_update(self, update: tuple[keras.Variable, jax.Array]) -> None:
        variable, value = update
        super().add_update((variable, jax.lax.stop_gradient(value)))


@looping(over_positions)
def train_step(model: TextVAE, state: State, data: Any) -> tuple[dict[str, jax.Array], State]:
    """One training step: the logs and the new state.

    It computes loss and gradients, applies the optimizer (which clips by its own `global_clipnorm`)
    and increments the step counter. `state` are the trainable, non-trainable, optimizer and metrics
    variables, as Keras passes them. Gradients are dense, and zero for weights that the loss does
    not depend on.
    """
    trainable, non_trainable, optimizer, metrics = state
    inputs, text_weights = inputs_of(model.model_config, data)
    part = Replica(weights=text_weights)
    bindings = [
        *zip(model.non_trainable_variables, non_trainable, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
    ]

    def scaled_losses(weights: Values) -> tuple[dict[str, jax.Array], Any]:
        with (
            Scope([*bindings, *zip(model.trainable_variables, weights, strict=True)]) as scope,
            replica(part),
        ):
            terms = model.terms(inputs, training=True)
            scale = model.optimizer.scale_loss(jnp.ones(()))
            model.training_steps.assign_add(1)
            losses = {name: scale * shard_mean(terms[name]) for name in model.weights_of_losses}
        updated = values_after(scope, model.non_trainable_variables, non_trainable)
        return losses, (terms, scale, updated)

    losses, pull_back, (terms, scale, updated) = jax.vjp(
        scaled_losses, list(trainable), has_aux=True
    )
    gradients = gradients_of(model, losses, pull_back)
    apply = update_in_turn if model.objective_config.encoder_updates else update
    trainable, optimizer = apply(model, gradients, trainable, non_trainable, optimizer)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(gradient / scale)) for gradient in gradients))
    logs, metrics = track(model, terms, metrics, part, norm)
    return logs, (trainable, updated, optimizer, metrics)


def gradients_of(
    model: TextVAE, losses: Mapping[str, jax.Array], pull_back: Callable[..., tuple[Values]]
) -> Values:
    """The gradient of each trainable variable, that of its own loss.

    `pull_back` turns gradients of the losses into those of all variables.
    """
    found = {}
    for name in losses:
        upstream = {other: jnp.full_like(loss, other == name) for other, loss in losses.items()}
        (found[name],) = pull_back(upstream)
    loss_of = {
        id(weight): name for name, subset in model.weights_of_losses.items() for weight in subset
    }
    names = [loss_of[id(weight)] for weight in model.trainable_variables]
    return [found[name][index] for index, name in enumerate(names)]


def update(
    model: TextVAE, gradients: Values, trainable: Values, non_trainable: Values, optimizer: Values
) -> tuple[Values, Values]:
    """One optimizer update of all weights: the new weights and optimizer variables."""
    weights, slots = model.optimizer.stateless_apply(optimizer, gradients, trainable)
    return weights, slots


def update_in_turn(
    model: TextVAE, gradients: Values, trainable: Values, non_trainable: Values, optimizer: Values
) -> tuple[Values, Values]:
    """`update` for aggressive training (He et al. 2019, algorithm 1).

    The order of updates is that of `tensorflow_step.update_in_turn`.
    """
    weights = model.trainable_variables
    value_of = dict(zip(map(id, model.non_trainable_variables), non_trainable, strict=True))
    gradient_of = dict(zip(map(id, weights), gradients, strict=True))
    bindings = [
        *zip(weights, trainable, strict=True),
        *zip(model.optimizer.variables, optimizer, strict=True),
    ]

    def update_of(subset: Sequence[keras.Variable]) -> Callable[[], tuple[Values, Values]]:
        def branch() -> tuple[Values, Values]:
            with Scope(bindings) as scope:
                model.optimizer.apply([gradient_of[id(weight)] for weight in subset], list(subset))
            return (
                values_after(scope, weights, trainable),
                values_after(scope, model.optimizer.variables, optimizer),
            )

        return branch

    encoder_updates, step = (
        value_of[id(variable)] for variable in (model.encoder_updates, model.training_steps)
    )
    encoder_turn = step % (encoder_updates + 1) < encoder_updates
    branch_index = jnp.where(encoder_updates == 0, 0, jnp.where(encoder_turn, 1, 2))
    subsets = [weights, model.inference_weights, model.generative_weights]
    new_weights, new_optimizer = jax.lax.switch(
        branch_index, [update_of(subset) for subset in subsets]
    )
    return new_weights, new_optimizer


@looping(over_positions)
def test_step(model: TextVAE, state: State, data: Any) -> tuple[dict[str, jax.Array], State]:
    """The terms of the objective with the model in inference mode: the logs and the new state.

    `state` is that of `train_step` without the optimizer.
    """
    trainable, non_trainable, metrics = state
    bindings = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, non_trainable, strict=True),
    ]
    inputs, weights = inputs_of(model.model_config, data)
    part = Replica(weights=weights)
    with Scope(bindings) as scope, replica(part):
        terms = model.terms(inputs)
    logs, metrics = track(model, terms, metrics, part)
    updated = values_after(scope, model.non_trainable_variables, non_trainable)
    return logs, (trainable, updated, metrics)


@looping(over_positions)
def predict_step(model: TextVAE, state: State, data: Any) -> Any:
    """The outputs of the model in inference mode and the new values of its non-trainable variables.

    `state` are the trainable and non-trainable variables.
    """
    return keras.Model.predict_step(model, state, data)


def track(
    model: TextVAE,
    terms: Mapping[str, jax.Array],
    metrics: Values,
    part: Replica,
    gradient_norm: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Values]:
    """`TextVAE.track` of a batch: the running means and the new values of the metrics variables."""
    with Scope(list(zip(model.metrics_variables, metrics, strict=True))) as scope, replica(part):
        logs = model.track(terms, gradient_norm)
    return logs, values_after(scope, model.metrics_variables, metrics)


def values_after(scope: Scope, variables: Sequence[keras.Variable], before: Values) -> Values:
    """The values of variables at the end of a scope; `before` are their values at its start."""
    current = (scope.get_current_value(variable) for variable in variables)
    return [old if new is None else new for new, old in zip(current, before, strict=True)]


@contextlib.contextmanager
def keeping_weights(model: TextVAE) -> Iterator[None]:
    """Context in which a model gets the values of its variables back if a method of Keras fails.

    Keras empties the variables of a model while it trains. If it fails before the end of the first
    step, they stay empty.
    """
    optimizer = model.optimizer.variables if model.optimizer else []
    before = [
        (variable, variable.value)
        for variable in (*model.variables, *model.metrics_variables, *optimizer)
    ]
    try:
        yield
    except BaseException:
        for variable, value in before:
            if variable._value is None:
                variable.assign(value)
        raise


def compiled(
    model: TextVAE, function: Callable[..., dict[str, Any]], inputs: Sequence[keras.KerasTensor]
) -> Callable[..., dict[str, np.ndarray]]:
    """`function` of arrays with the shapes and types of `inputs`, compiled once per batch size.

    Each call uses the current weights of the model and returns NumPy arrays.
    """

    def stateless(values: Values, *arrays: np.ndarray) -> dict[str, jax.Array]:
        bindings = list(zip(model.variables, values, strict=True))
        with Scope(bindings), looping(over_positions):
            return function(*arrays)

    compiled_function = jax.jit(stateless)

    def run(*arrays: Any) -> dict[str, np.ndarray]:
        arrays = tuple(
            np.asarray(array, spec.dtype) for array, spec in zip(arrays, inputs, strict=True)
        )
        results = compiled_function([variable.value for variable in model.variables], *arrays)
        return {name: np.asarray(value) for name, value in results.items()}

    return run


def accelerators() -> list[str]:
    """The names of the GPUs or TPUs in use."""
    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
