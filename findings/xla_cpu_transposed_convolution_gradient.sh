#!/usr/bin/env bash
# JAX 0.10.2 on a CPU: the gradient of a transposed convolution with kernel 3 and stride 2.
#
# A good engineer guesses: XLA computes `jax.lax.conv_transpose` and its gradient about as fast as the matrix products that
# they consist of, because each output is a sum of at most two products of a row with a tap of the kernel.
# What happens: values are equal, but value and gradient take several times as long as with three products written out. The
# gradient convolves with a dilated kernel, for which XLA's CPU backend falls back to a plain loop.
# Keras' Conv1DTranspose on the JAX backend meets it too. Writing the products out is the way around it.
# Seen on Linux x86_64, Python 3.11, two cores, 2026-11-29 (64 texts, 30 positions, 128 channels to 200):
#
#     largest difference of the values below 0.001: True
#     convolution at least 3 times slower than products: True (152 and 18 ms)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PROGRAM'
import statistics
import time

import jax
import jax.numpy as jnp

rows = jax.random.normal(jax.random.key(0), (64, 30, 128))
kernel = jax.random.normal(jax.random.key(1), (3, 128, 200))


def convolution(rows, kernel):
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_transpose(rows, kernel, (2,), "SAME", dimension_numbers=layout)


def products(rows, kernel):
    previous = jnp.pad(rows[:, :-1], ((0, 0), (1, 0), (0, 0)))
    even, odd = previous @ kernel[0] + rows @ kernel[2], rows @ kernel[1]
    return jnp.stack([even, odd], axis=2).reshape(64, 60, 200)


def milliseconds(function):
    """Median of five values with gradient."""
    both = jax.jit(jax.value_and_grad(lambda *given: (function(*given) ** 2).sum(), (0, 1)))
    jax.block_until_ready(both(rows, kernel))
    found = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(both(rows, kernel))
        found.append(1e3 * (time.perf_counter() - started))
    return statistics.median(found)


equal = bool(jnp.abs(convolution(rows, kernel) - products(rows, kernel)).max() < 1e-3)
slow, fast = milliseconds(convolution), milliseconds(products)
print(f"largest difference of the values below 0.001: {equal}")
print(f"convolution at least 3 times slower than products: {slow > 3 * fast} ({slow:.0f} and {fast:.0f} ms)")
if not (equal and slow > 3 * fast):
    raise SystemExit("changed: the gradient of a transposed convolution takes about as long as its products")
PROGRAM
