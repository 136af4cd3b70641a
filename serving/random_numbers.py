"""The random numbers of a bundle's graphs, in numpy: Threefry-2x32 with 20 rounds (Salmon et al.
2011).

`kvae.export.random_numbers` builds the same computation as ONNX nodes.
"""

from __future__ import annotations

import numpy as np

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA
LATENT_POSITIONS = 2**31
"""Positions from here on belong to the latent code; smaller ones belong to the tokens of the
text."""


def normals(seeds: int | np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Standard normal noise (n, size), float32, for rows (n,) of one seed or of a seed each; equal
    to that of the graphs up to rounding."""
    pairs = -(-size // 2)
    positions = np.arange(LATENT_POSITIONS, LATENT_POSITIONS + pairs, dtype=np.uint64)
    first, second = (as_uniform(bits) for bits in threefry(seeds, rows, positions))
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - first)), 2 * np.pi * second
    both = np.concatenate([radius * np.sin(angle + np.pi / 2), radius * np.sin(angle)], axis=1)
    return both[:, :size].astype(np.float32)


def uniforms(seeds: int | np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (n, length) float32, for the tokens at positions 0 to length - 1;
    bit-equal to those of the graphs."""
    bits, _ = threefry(seeds, rows, np.arange(length, dtype=np.uint64))
    return as_uniform(bits).astype(np.float32)


def as_uniform(bits: np.ndarray) -> np.ndarray:
    """Random words as numbers in [0, 1): the upper 24 bits times 2^-24, float64."""
    return np.asarray((bits >> np.uint64(8)) * 2.0**-24)


def threefry(
    seeds: int | np.ndarray, rows: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two words of 32 random bits, (n, positions) uint64 each, for rows (n,) of one seed or of a
    seed each, and positions below 2^32."""
    word, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    seed = np.broadcast_to(np.asarray(seeds, np.uint64), rows.shape)[:, None]
    key = (seed & word, seed >> half)
    schedule = (*key, key[0] ^ key[1] ^ np.uint64(PARITY))
    left, right = np.broadcast_arrays(rows.astype(np.uint64)[:, None], positions[None, :])
    left, right = (left + schedule[0]) & word, (right + schedule[1]) & word
    for turn in range(20):
        bits = np.uint64(ROTATIONS[turn // 4 % 2][turn % 4])
        left = (left + right) & word
        right = ((right << bits | right >> half - bits) & word) ^ left
        if turn % 4 == 3:
            group = turn // 4 + 1
            left = (left + schedule[group % 3]) & word
            right = (right + schedule[(group + 1) % 3] + np.uint64(group)) & word
    return left, right
