"""Random numbers inside an ONNX graph: a pure function of (seed, row, position), the same on every
platform.

Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
section 4.2), the generator of `jax.random`. The key is the seed, the counter is (row, position).
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from kvae.serving.random_numbers import LATENT_POSITIONS, PARITY, ROTATIONS

from .nodes import Nodes


def threefry(g: Nodes, key: tuple[str, str], counter: tuple[str, str]) -> tuple[str, str]:
    """Two uint32 tensors of random bits. `key` and `counter` are pairs of names of uint32 tensors
    that broadcast."""
    parity = g.BitwiseXor(g.BitwiseXor(*key), g.constant(PARITY, np.uint32))
    schedule = (*key, parity)
    left, right = (g.Add(word, part) for word, part in zip(counter, key, strict=True))
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            left = g.Add(left, right)
            right = g.BitwiseXor(rotate_left(g, right, rotation), left)
        left = g.Add(left, schedule[(group + 1) % 3])
        right = g.Add(right, g.Add(schedule[(group + 2) % 3], g.constant(group + 1, np.uint32)))
    return left, right


def rotate_left(g: Nodes, word: str, bits: int) -> str:
    """Rotate uint32 words left by `bits`."""
    high = g.BitShift(word, g.constant(bits, np.uint32), direction="LEFT")
    return g.BitwiseOr(high, g.BitShift(word, g.constant(32 - bits, np.uint32), direction="RIGHT"))


def key_of(g: Nodes, seed: str) -> tuple[str, str]:
    """Split seeds (int64) into two uint32 words, low and high."""
    word = g.Cast(seed, to=TensorProto.UINT64)
    low = g.BitwiseAnd(word, g.constant(0xFFFFFFFF, np.uint64))
    high = g.BitShift(word, g.constant(32, np.uint64), direction="RIGHT")
    return g.Cast(low, to=TensorProto.UINT32), g.Cast(high, to=TensorProto.UINT32)


def row_numbers(g: Nodes, row: str) -> str:
    """Row numbers (int64) as uint32."""
    return g.Cast(row, to=TensorProto.UINT32)


def uniform(g: Nodes, bits: str) -> str:
    """Convert uint32 bits to float32 in [0, 1): the upper 24 bits times 2^-24."""
    upper = g.Cast(
        g.BitShift(bits, g.constant(8, np.uint32), direction="RIGHT"), to=TensorProto.FLOAT
    )
    return g.Mul(upper, g.constant(2.0**-24, np.float32))


def normals(g: Nodes, key: tuple[str, str], rows: str, size: int) -> str:
    """Standard normal noise (rows, size) by Box and Muller (1958): two numbers from each pair of
    words.

    The computation is in double precision and then rounded. At the tail of an array, the vectorised
    logarithm and sine of a runtime differ from the scalar ones in the last bit; without the
    rounding a row would depend on the batch size.
    """
    # At least one pair, also without a code: onnxruntime before 1.29 fails on 0 columns.
    pairs = max(1, -(-size // 2))
    positions = g.constant(
        np.arange(LATENT_POSITIONS, LATENT_POSITIONS + pairs)[None, :], np.uint32
    )
    columns = [g.Unsqueeze(word, g.constant([1], np.int64)) for word in (*key, rows)]
    first, second = threefry(g, (columns[0], columns[1]), (columns[2], positions))
    above_zero, turn = (g.Cast(uniform(g, bits), to=TensorProto.DOUBLE) for bits in (first, second))
    above_zero = g.Sub(g.constant(1.0, np.float64), above_zero)
    radius = g.Sqrt(g.Mul(g.constant(-2.0, np.float64), g.Log(above_zero)))
    angle = g.Mul(g.constant(2 * math.pi, np.float64), turn)
    both = g.Concat(g.Mul(radius, cosine(g, angle)), g.Mul(radius, g.Sin(angle)), axis=1)
    noise = g.Slice(
        both, g.constant([0], np.int64), g.constant([size], np.int64), g.constant([1], np.int64)
    )
    return g.Cast(noise, to=TensorProto.FLOAT)


def cosine(g: Nodes, angle: str) -> str:
    """The cosine of angles (float64) as sin(angle + pi / 2).

    onnxruntime has a sine in double precision in all versions, a cosine only since 1.29. Rounded to
    float32 the two are equal for all 2^24 angles of `normals` except pi / 2 and 3 pi / 2, where
    both are below 1e-15.
    """
    return g.Sin(g.Add(angle, g.constant(math.pi / 2, np.float64)))
