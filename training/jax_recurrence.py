"""The recurrences of heads on JAX, with a gradient of their own.

Automatic differentiation of a scan stores whatever an operation has read, and adds up the gradient
of the kernel position by position. Here the forward scan stores the states and one product per
position. The backward scan computes a position again, differentiates it by itself, and stores the
gradient of its product. One matrix product after the scan gives the gradient of the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras

from kvae.recurrences import keras_loop

from .positions import Position, position_of, vectors_of

States = list[jax.Array]
"""The states of a cell, (B, units) each."""


def over_positions(
    recurrence: keras.layers.RNN, inputs: jax.Array, states: States, training: bool
) -> jax.Array:
    """Outputs (B, T, units) of a recurrence for inputs (B, T, gates), from its initial states.

    Matrix products are computed in the precision of `inputs`, everything else in float32. Cells
    that are not those of kvae run in Keras' loop.
    """
    cell = recurrence.cell
    position = position_of(cell)
    if position is None:
        return keras_loop(recurrence, inputs, states, training)
    kernel, *vectors = (
        keras.ops.cast(weight, jnp.float32) for weight in (cell.kernel, *vectors_of(cell))
    )
    initial = [state.astype(jnp.float32) for state in states]
    return outputs_of(position, inputs, initial, kernel, vectors)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def outputs_of(
    position: Position,
    inputs: jax.Array,
    states: States,
    kernel: jax.Array,
    vectors: Sequence[jax.Array],
) -> jax.Array:
    """`over_positions` of arrays; kernel and vectors are the weights of the cell."""
    return forward(position, inputs, states, kernel, vectors, save=False)[0]


def forward(
    position: Position,
    inputs: jax.Array,
    states: States,
    kernel: jax.Array,
    vectors: Sequence[jax.Array],
    save: bool,
) -> tuple[jax.Array, Any]:
    """Outputs (B, T, units), and with `save` the products (T, B, gates) of hidden states and kernel
    and the states before each position, (T, B, units) each."""
    batch, positions, _ = inputs.shape
    half = kernel.astype(inputs.dtype)

    def step(carry: tuple[States, jax.Array], index: jax.Array) -> tuple[Any, Any]:
        states, outputs = carry
        product = matrix_product(states[0], half)
        new = position(inputs_at(inputs, index), product, states, vectors)
        outputs = jax.lax.dynamic_update_index_in_dim(
            outputs, new[0].astype(inputs.dtype), index, axis=1
        )
        return (new, outputs), (product, states) if save else None

    outputs = jnp.zeros((batch, positions, states[0].shape[-1]), inputs.dtype)
    (_, outputs), saved = jax.lax.scan(step, (states, outputs), jnp.arange(positions))
    return outputs, saved


def forward_and_saved(
    position: Position,
    inputs: jax.Array,
    states: States,
    kernel: jax.Array,
    vectors: Sequence[jax.Array],
) -> tuple[jax.Array, Any]:
    """Outputs (B, T, units) and what `backward` needs."""
    outputs, saved = forward(position, inputs, states, kernel, vectors, save=True)
    return outputs, (inputs, kernel, vectors, *saved)


def backward(position: Position, saved: Any, upstream: jax.Array) -> tuple[Any, ...]:
    """Gradients of inputs, initial states, kernel and vectors, from that of the outputs."""
    inputs, kernel, vectors, products, before = saved
    transposed = kernel.T.astype(inputs.dtype)

    def step(carry: tuple[Any, ...], index: jax.Array) -> tuple[Any, Any]:
        (grad_hidden, *others), totals, grad_inputs = carry
        grad_states = [grad_hidden + inputs_at(upstream, index), *others]
        arguments = (inputs_at(inputs, index), products[index], [s[index] for s in before], vectors)
        _, pull_back = jax.vjp(position, *arguments)
        grad_input, grad_product, (grad_hidden, *others), terms = pull_back(grad_states)
        grad_hidden = grad_hidden + matrix_product(grad_product, transposed)
        totals = [total + term for total, term in zip(totals, terms, strict=True)]
        grad_inputs = jax.lax.dynamic_update_index_in_dim(
            grad_inputs, grad_input.astype(inputs.dtype), index, axis=1
        )
        return ([grad_hidden, *others], totals, grad_inputs), grad_product.astype(inputs.dtype)

    zeros = [jnp.zeros_like(state[0]) for state in before], [jnp.zeros_like(v) for v in vectors]
    (grad_states, grad_vectors, grad_inputs), grad_products = jax.lax.scan(
        step, (*zeros, jnp.zeros_like(inputs)), jnp.arange(inputs.shape[1]), reverse=True
    )
    grad_kernel = kernel_gradient(before[0], grad_products)
    return grad_inputs, grad_states, grad_kernel, grad_vectors


outputs_of.defvjp(forward_and_saved, backward)


def kernel_gradient(hidden: jax.Array, grad_products: jax.Array) -> jax.Array:
    """The gradient of the kernel (units, gates), in one matrix product over all positions.

    `hidden` (T, B, units) are the hidden states before each position, `grad_products` (T, B, gates)
    the gradients of their products with the kernel.
    """
    rows, columns = (values.reshape(-1, values.shape[-1]) for values in (hidden, grad_products))
    return matrix_product(rows.T, columns)


def matrix_product(values: jax.Array, kernel: jax.Array) -> jax.Array:
    """`values` @ `kernel`, computed in the precision of the kernel and returned in float32."""
    return (values.astype(kernel.dtype) @ kernel).astype(jnp.float32)


def inputs_at(values: jax.Array, index: jax.Array) -> jax.Array:
    """The values (B, n) of one position of (B, T, n), in float32."""
    return jax.lax.dynamic_index_in_dim(values, index, 1, keepdims=False).astype(jnp.float32)
