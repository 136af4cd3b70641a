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


def normals(seed: int, rows: np.ndarray, size: int) -> np.ndarray:
    """Standard normal noise (n, size), float32, for rows (n,) of a seed; equal to that of the
    graphs up to rounding."""
    pairs = -(-size // 2)
    positions = np.arange(LATENT_POSITIONS, LATENT_POSITIONS + pairs, dtype=np.uint64)
    left, right = np.broadcast_arrays(rows.astype(np.uint64)[:, None], positions[None, :])
    key = (seed & 0xFFFFFFFF, seed >> 32)
    schedule = (*key, key[0] ^ key[1] ^ PARITY)
    word = np.uint64(0xFFFFFFFF)
    left, right = (left + schedule[0]) & word, (right + schedule[1]) & word
    for turn in range(20):
        bits = ROTATIONS[turn // 4 % 2][turn % 4]
        left = (left + right) & word
        right = ((right << np.uint64(bits) | right >> np.uint64(32 - bits)) & word) ^ left
        if turn % 4 == 3:
            group = turn // 4 + 1
            left = (left + schedule[group % 3]) & word
            right = (right + schedule[(group + 1) % 3] + group) & word
    first, second = ((bits >> np.uint64(8)) * 2.0**-24 for bits in (left, right))
    radius, angle = np.sqrt(-2.0 * np.log(1.0 - first)), 2 * np.pi * second
    both = np.concatenate([radius * np.sin(angle + np.pi / 2), radius * np.sin(angle)], axis=1)
    return both[:, :size].astype(np.float32)
