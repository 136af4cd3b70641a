"""Random orders and positions that depend only on a seed and a step, in numpy.

The numbers are those of TensorFlow's `index_shuffle` and `stateless_uniform`, which runs of earlier
versions have used. A shuffle is a small Simon cipher (Beaulieu et al. 2013) that is repeated until
the index is in range. Positions come from the generator Philox (Salmon et al. 2011).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

FIRST_WORD = 498247692
"""The first of the three words of a cipher's key; TensorFlow puts it before the seed."""

SMALL = 2**16
"""Number of values of the smallest cipher. Its results are kept in a table."""

ROUND_FACTORS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = np.array([0x9E3779B9, 0xBB67AE85], np.uint32)
SEED_KEY = np.array([0x3EC8F720, 0x02461E29], np.uint32)
"""Constants of Philox, and the key with which TensorFlow mixes a seed."""

LOW, WORD = np.uint64(0xFFFFFFFF), np.uint64(32)


def shuffled(positions: np.ndarray, seed: int, number: int, size: int) -> np.ndarray:
    """The numbers from 0 to `size - 1` at `positions` of an order of them, as int64.

    Each pair of `seed` and `number` has an order of its own.
    """
    largest = size - 1
    if largest == 0:
        return np.zeros_like(positions, np.int64)
    if block_bits(largest) == 16:
        found: np.ndarray = small_shuffle(seed, number, largest)[positions % SMALL]
        return found
    return walk(np.asarray(positions, np.int64), seed, number, largest)


def block_bits(largest: int) -> int:
    """Bits of the cipher for indices up to `largest`: even, and at least 16."""
    bits = math.ceil(math.log2(largest))
    return max(bits + bits % 2, 16)


@lru_cache(maxsize=4)
def small_shuffle(seed: int, number: int, largest: int) -> np.ndarray:
    """The shuffled indices of 0 .. `largest`, with the smallest cipher.

    Each turn doubles the steps of all walks. Walks that start beyond `largest` may never end.
    """
    table = encrypted(np.arange(SMALL), seed, number, 8)
    while (table[: largest + 1] > largest).any():
        table = np.where(table > largest, table[table], table)
    return table[: largest + 1]


def walk(positions: np.ndarray, seed: int, number: int, largest: int) -> np.ndarray:
    """Encrypt the positions until each of them is at most `largest`."""
    bits = block_bits(largest) // 2
    found = encrypted(positions.ravel(), seed, number, bits)
    beyond = np.flatnonzero(found > largest)
    while len(beyond):
        values = encrypted(found[beyond], seed, number, bits)
        found[beyond] = values
        beyond = beyond[values > largest]
    return found.reshape(positions.shape)


def encrypted(values: np.ndarray, seed: int, number: int, bits: int) -> np.ndarray:
    """`values` (N,) after four rounds of the cipher on words of `bits` bits, as int64."""
    kind = np.min_scalar_type(2**bits - 1)
    mask = kind.type(2**bits - 1)

    def mixed(word: np.ndarray) -> np.ndarray:
        """The function of a round: two rotations, their logical and, and a third rotation."""
        return np.asarray(rotated(word, 1) & rotated(word, 8) ^ rotated(word, 2))

    def rotated(word: np.ndarray, by: int) -> np.ndarray:
        return np.asarray((word << kind.type(by) | word >> kind.type(bits - by)) & mask)

    left, right = ((values >> shift).astype(kind) & mask for shift in (bits, 0))
    keys = [kind.type(key) for key in round_keys(seed, number, bits)]
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left ^= mixed(right) ^ first
        right ^= mixed(left) ^ second
    return np.asarray(left.astype(np.int64) << bits | right)


def round_keys(seed: int, number: int, bits: int) -> list[int]:
    """The keys of the four rounds, each of `bits` bits. The fourth follows from the others."""
    mask = 2**bits - 1
    keys = [word & 0xFFFFFFFF & mask for word in (FIRST_WORD, seed, number)]
    turned = [(keys[2] >> by | keys[2] << bits - by) & mask for by in (3, 4)]
    return [*keys, 0xFFFFFFFC & mask ^ 1 ^ keys[0] ^ turned[0] ^ turned[1]]


def uniform(seed: int, steps: np.ndarray, count: int, end: int) -> np.ndarray:
    """`count` random integers from 0 to `end - 1` for each of the steps (G,), as (G, count)."""
    steps = np.asarray(steps, np.int64).view(np.uint64)
    seeds = np.broadcast_to(np.uint64(seed), steps.shape)
    words = [seeds & LOW, seeds >> WORD, steps & LOW, steps >> WORD]
    mixed = philox(np.stack(words).astype(np.uint32), SEED_KEY[:, None])
    blocks = np.arange(-(-count // 2), dtype=np.uint32)
    counter = np.zeros((4, len(steps), len(blocks)), np.uint32)
    counter[0], counter[2:] = blocks, mixed[2:, :, None]
    drawn = philox(counter, mixed[:2, :, None]).astype(np.uint64)
    pairs = np.stack([drawn[0] | drawn[1] << WORD, drawn[2] | drawn[3] << WORD], axis=-1)
    return (pairs.reshape(len(steps), -1)[:, :count] % np.uint64(end)).astype(np.int64)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """The four random words of counters (4, ...) with keys (2, ...), after ten rounds."""
    for turn in range(10):
        first, second = key + KEY_STEPS.reshape(2, *[1] * (key.ndim - 1)) * np.uint32(turn)
        products = [
            word.astype(np.uint64) * factor
            for word, factor in zip(counter[::2], ROUND_FACTORS, strict=True)
        ]
        high = [(product >> WORD).astype(np.uint32) for product in products]
        low = [product.astype(np.uint32) for product in products]
        counter = np.stack(
            [high[1] ^ counter[1] ^ first, low[1], high[0] ^ counter[3] ^ second, low[0]]
        )
    return counter
