"""A character n-gram model: the simple rival to measure a bound against, and the judge of samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

START_MARK, END_MARK = "\x02", "\x03"


@dataclass(frozen=True)
class NGram:
    """p(c | the `order` characters before it) with interpolated Witten-Bell smoothing (Chen and Goodman 1999):

        p_k(c | h) = (count(h c) + kinds(h) p_(k-1)(c | h')) / (count(h) + kinds(h)),    p_(-1)(c) = 1 / V

    h are k characters, h' the last k - 1 of them, kinds(h) how many different symbols were seen behind h. A context that was
    never seen says what the shorter one says. V counts the end mark, where texts have one.
    """

    order: int
    symbols: int
    ended: bool
    runs: Counter[str]
    contexts: Counter[str]
    kinds: Counter[str]

    @classmethod
    def fit(
        cls, texts: Iterable[str], order: int, symbols: int | None = None, ended: bool = True
    ) -> NGram:
        """Count what follows the last 0 to `order` characters in `texts`, every text behind start marks and, if `ended`, with
        an end mark. `symbols` is V, for texts with characters that these lack (default: what is counted)."""
        places = (
            context + symbol for text in texts for context, symbol in ngrams(text, order, ended)
        )
        runs = Counter(run[start:] for run in places for start in range(order + 1))
        contexts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for run, count in runs.items():
            contexts[run[:-1]] += count
            kinds[run[:-1]] += 1
        return cls(order, symbols or kinds[""], ended, runs, contexts, kinds)

    def probability(self, context: str, symbol: str) -> float:
        """p(symbol | context), the context of `order` characters."""
        found = 1.0 / self.symbols
        for start in range(self.order, -1, -1):
            before = context[start:]
            kinds = self.kinds[before]
            if not kinds:
                break  # longer contexts were not seen either
            found = (self.runs[before + symbol] + kinds * found) / (self.contexts[before] + kinds)
        return found

    def nats(self, text: str) -> float:
        """-log p(text), its end mark included where texts have one."""
        return -sum(
            math.log(self.probability(*place)) for place in ngrams(text, self.order, self.ended)
        )

    def mean_nats(self, texts: Sequence[str]) -> float:
        """Nats per text."""
        return sum(map(self.nats, texts)) / len(texts)

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the nats per character, end marks included where texts have them."""
        return math.exp(sum(map(self.nats, texts)) / character_count(texts, self.ended))


def character_count(texts: Sequence[str], ended: bool) -> int:
    """Characters of all texts, and an end mark of each where they have one."""
    return sum(map(len, texts)) + ended * len(texts)


def ngrams(text: str, order: int, ended: bool = True) -> Iterator[tuple[str, str]]:
    """(context, symbol) at every position of `text` and its end."""
    padded = START_MARK * order + text + END_MARK * ended
    for end in range(order, len(padded)):
        yield padded[end - order : end], padded[end]
