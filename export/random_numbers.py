"""Random numbers inside an ONNX graph: a pure function of (seed, row, position), the same on every
platform.

Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
section 4.2), the generator of `jax.random`. The key is the seed, the counter is (row, position).

OpenVINO computes on a CPU with signed 32-bit integers and shifts to the right by a division in
float32. So no constant has the highest of its 32 bits set, and in a graph with `signed_words` no
more bits of a word are shifted than float32 holds. This costs two nodes or more for each shift.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from kvae.serving.random_numbers import LATENT_POSITIONS, PARITY, ROTATIONS

from .nodes import Nodes, part

EXACT_BITS = 24
"""Bits of a whole number that float32 holds exactly."""


@part("threefry")
def threefry(g: Nodes, key: tuple[str, str], counter: tuple[str, str]) -> tuple[str, str]:
    """Two uint32 tensors of random bits. `key` and `counter` are pairs of names of uint32 tensors
    that broadcast."""
    parity = g.BitwiseXor(g.BitwiseXor(*key), g.constant(PARITY, np.uint32))
    schedule = (*key, parity)
    left, right = (g.Add(word, half) for word, half in zip(counter, key, strict=True))
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
    return g.BitwiseOr(high, shift_right(g, word, 32 - bits))


def shift_right(g: Nodes, word: str, bits: int) -> str:
    """Shift uint32 words right by `bits`.

    With `signed_words` the lowest bits, which are lost, are cleared first. Then a division is exact
    if at most `EXACT_BITS` bits are left; with more, both halves of a word are shifted. Clearing
    the highest bits afterwards removes the sign of a quotient.
    """
    by = g.constant(bits, np.uint32)
    if not g.signed_words:
        return g.BitShift(word, by, direction="RIGHT")
    lowest = bits if 32 - bits <= EXACT_BITS else 16
    upper = g.BitwiseAnd(word, g.BitwiseNot(g.constant(2**lowest - 1, np.uint32)))
    upper = g.BitShift(upper, by, direction="RIGHT")
    upper = g.BitwiseAnd(upper, g.constant(2 ** (32 - bits) - 1, np.uint32))
    if lowest == bits:
        return upper
    lower = g.BitwiseAnd(word, g.constant(2**lowest - 2**bits, np.uint32))
    return g.BitwiseOr(upper, g.BitShift(lower, by, direction="RIGHT"))


def key_of(g: Nodes, seed: str) -> tuple[str, str]:
    """Split seeds (int64) into two uint32 words, low and high.

    Two shifts make the high word 0 also where 2^32 is no whole number.
    """
    high, half = g.Cast(seed, to=TensorProto.UINT64), g.constant(16, np.uint64)
    for _ in range(2):
        high = g.BitShift(high, half, direction="RIGHT")
    return g.Cast(seed, to=TensorProto.UINT32), g.Cast(high, to=TensorProto.UINT32)


def row_numbers(g: Nodes, row: str) -> str:
    """Row numbers (int64) as uint32."""
    return g.Cast(row, to=TensorProto.UINT32)


def uniform(g: Nodes, bits: str) -> str:
    """Convert uint32 bits to float32 in [0, 1): the upper 24 bits times 2^-24."""
    upper = g.Cast(shift_right(g, bits, 32 - EXACT_BITS), to=TensorProto.FLOAT)
    return g.Mul(upper, g.constant(2.0**-24, np.float32))


@part("random")
def noise_of(g: Nodes, size: int) -> str:
    """Standard normal noise (batch, size) of the inputs `seed` and `row` (batch,)."""
    return normals(g, words_at(g, latent_positions(g, size)), size)


@part("random")
def uniforms_at(g: Nodes, position: str) -> str:
    """Uniform numbers (batch, 1) of the inputs `seed` and `row` (batch,) at a position."""
    counter = (row_numbers(g, "row"), g.Cast(position, to=TensorProto.UINT32))
    word, _ = threefry(g, key_of(g, "seed"), counter)
    return uniform(g, g.Unsqueeze(word, g.constant([1], np.int64)))


@part("random")
def noise_and_uniforms(g: Nodes, size: int, positions: str) -> tuple[str, str]:
    """The results of `noise_of` and, for positions (1, T), of `uniforms_at` in one tensor (T,
    batch, 1).

    Both come from one Threefry, which halves its nodes: the first positions are those of the noise.
    """
    positions = g.Cast(positions, to=TensorProto.UINT32)
    words = words_at(g, g.Concat(latent_positions(g, size), positions, axis=1))
    start, border, end, axis = (
        g.constant([place], np.int64) for place in (0, pairs_of(size), 2**31 - 1, 1)
    )
    first, second = (g.Slice(word, start, border, axis) for word in words)
    drawn = uniform(g, g.Transpose(g.Slice(words[0], border, end, axis), perm=[1, 0]))
    return normals(g, (first, second), size), g.Unsqueeze(drawn, g.constant([2], np.int64))


def words_at(g: Nodes, positions: str) -> tuple[str, str]:
    """Two random words (batch, n) of the inputs `seed` and `row` (batch,) at positions (1, n)."""
    columns = [
        g.Unsqueeze(word, g.constant([1], np.int64))
        for word in (*key_of(g, "seed"), row_numbers(g, "row"))
    ]
    return threefry(g, (columns[0], columns[1]), (columns[2], positions))


def latent_positions(g: Nodes, size: int) -> str:
    """The positions (1, pairs) of the words from which `size` normal numbers are made. They begin
    at 2^31 and are written as complements of smaller numbers."""
    positions = LATENT_POSITIONS + np.arange(pairs_of(size))[None, :]
    return g.BitwiseNot(g.constant(2**32 - 1 - positions, np.uint32))


def pairs_of(size: int) -> int:
    """The number of pairs of words for `size` normal numbers: at least one, also without a code,
    since onnxruntime before 1.29 fails on 0 columns."""
    return max(1, -(-size // 2))


@part("noise")
def normals(g: Nodes, words: tuple[str, str], size: int) -> str:
    """Standard normal noise (batch, size) by Box and Muller (1958): two numbers from each pair of
    uint32 words (batch, pairs).

    The computation is in double precision and then rounded. At the tail of an array, the vectorised
    logarithm and sine of a runtime differ from the scalar ones in the last bit; without the
    rounding a row would depend on the batch size.
    """
    above_zero, turn = (g.Cast(uniform(g, bits), to=TensorProto.DOUBLE) for bits in words)
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
