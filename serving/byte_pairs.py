"""Byte-pair encoding: the pair of pieces with the smallest rank is merged, again and again.

Sennrich et al. 2016; on bytes, Radford et al. 2019. The order is that of the package `tokenizers`:
of pairs with equal ranks, the first in the word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

from .wordpieces import MAX_UNITS

WORD_END = " "
"""End of a symbol that ends a word, if the symbols are not bytes."""


def bytes_of(text: str) -> str:
    """The UTF-8 bytes of a text, each as the character with that code point."""
    return text.encode("utf-8", "surrogatepass").decode("latin-1")


def text_of_bytes(symbols: Iterable[str]) -> str:
    """The text with these bytes, the inverse of `bytes_of`; invalid UTF-8 is replaced."""
    return "".join(symbols).encode("latin-1").decode("utf-8", "replace")


def text_of_word_ends(symbols: Iterable[str]) -> str:
    """Symbols joined; those that end a word have a blank behind them, except the last one."""
    return "".join(symbols).removesuffix(WORD_END)


class BytePairIds(dict[str, tuple[int, ...]]):
    """The ids of each unit's pieces, computed on first use.

    A piece begins as a byte or, if `of_bytes` is false, as a character; the last character of a
    unit has `WORD_END` behind it.
    """

    def __init__(
        self,
        id_of: Mapping[str, int],
        merges: Sequence[tuple[int, int]],
        unknown: int,
        of_bytes: bool,
    ) -> None:
        super().__init__()
        self.id_of, self.unknown_id, self.of_bytes = id_of, unknown, of_bytes
        symbols = tuple(id_of)
        self.merges = {
            (id_of[symbols[left]], id_of[symbols[right]]): (
                rank,
                id_of[symbols[left] + symbols[right]],
            )
            for rank, (left, right) in enumerate(merges)
        }

    def __missing__(self, unit: str) -> tuple[int, ...]:
        if len(self) >= MAX_UNITS:
            self.clear()
        self[unit] = found = merged(
            [self.id_of.get(symbol, self.unknown_id) for symbol in self.symbols(unit)], self.merges
        )
        return found

    def symbols(self, unit: str) -> Sequence[str]:
        """The symbols that a unit is first split into."""
        return bytes_of(unit) if self.of_bytes else [*unit[:-1], unit[-1] + WORD_END]

    def unknown(self, unit: str) -> list[str]:
        """The characters of a unit that the alphabet lacks."""
        if self.of_bytes:
            return [it for it in unit if any(byte not in self.id_of for byte in bytes_of(it))]
        return [
            symbol.removesuffix(WORD_END)
            for symbol in self.symbols(unit)
            if symbol not in self.id_of
        ]


def merged(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> tuple[int, ...]:
    """The ids after all merges; `merges` has the rank and the id of the result for each pair.

    The waiting pairs are in a heap. An entry is not removed when another merge changes its pair. It
    is skipped when its turn comes, unless the pair at its place then has the same result.
    """
    size = len(ids)
    before, behind = list(range(-1, size - 1)), list(range(1, size + 1))
    gone = [False] * size
    waiting = [
        (merges[pair][0], place, merges[pair][1])
        for place, pair in enumerate(pairwise(ids))
        if pair in merges
    ]
    heapify(waiting)
    while waiting:
        _, place, result = heappop(waiting)
        right = behind[place]
        if gone[place] or right >= size:
            continue
        if merges.get((ids[place], ids[right]), (0, -1))[1] != result:
            continue
        ids[place], gone[right], behind[place] = result, True, behind[right]
        if behind[place] < size:
            before[behind[place]] = place
        for left in (before[place], place):
            if left >= 0 and behind[left] < size:
                rank_and_id = merges.get((ids[left], ids[behind[left]]))
                if rank_and_id:
                    heappush(waiting, (rank_and_id[0], left, rank_and_id[1]))
    return tuple(number for number, is_gone in zip(ids, gone, strict=True) if not is_gone)
