"""The name that annotations use for tensors."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of the Keras backend in use: `tf.Tensor` or `jax.Array`.

While a model is built it is a `keras.KerasTensor`. Keras 3 has no common type of these. The
docstring of a function gives the shape.
"""
