"""A character n-gram model with add-one smoothing: the simple rival whose bound every VAE should beat."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

START_MARK, END_MARK = "\x02", "\x03"


@dataclass(frozen=True)
class NGram:
    """p(c | the `order` characters before it) = (count + 1) / (count of those before + V); V counts the end mark."""

    order: int
    symbols: int
    pairs: Counter[tuple[str, str]]
    contexts: Counter[str]

    @classmethod
    def fit(cls, texts: Iterable[str], order: int) -> NGram:
        """Count what follows each `order` characters of `texts`, every text between start marks and an end mark."""
        pairs: Counter[tuple[str, str]] = Counter()
        for text in texts:
            pairs.update(ngrams(text, order))
        contexts: Counter[str] = Counter()
        for (context, _), count in pairs.items():
            contexts[context] += count
        return cls(order, len({symbol for _, symbol in pairs}), pairs, contexts)

    def nats(self, text: str) -> float:
        """-log p(text), its end mark included."""
        return sum(
            math.log((self.contexts[context] + self.symbols) / (self.pairs[context, symbol] + 1))
            for context, symbol in ngrams(text, self.order)
        )

    def mean_nats(self, texts: Sequence[str]) -> float:
        """Nats per text."""
        return sum(map(self.nats, texts)) / len(texts)


def ngrams(text: str, order: int) -> Iterator[tuple[str, str]]:
    """(context, symbol) at every position of `text` and its end."""
    padded = START_MARK * order + text + END_MARK
    for end in range(order, len(padded)):
        yield padded[end - order : end], padded[end]
