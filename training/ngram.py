"""Character n-gram models: a baseline for bounds, and the model that scores samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

START_MARK, END_MARK = "\x02", "\x03"


@dataclass(frozen=True)
class NGram:
    """p(c | the `order` characters before it), a character n-gram model.

    Smoothing is interpolated Witten-Bell (Chen and Goodman 1999):

        p_k(c | h) = (count(h c) + kinds(h) p_(k-1)(c | h')) / (count(h) + kinds(h))
        p_(-1)(c) = 1 / V

    h is a context of k characters and h' its last k - 1 characters. kinds(h) is the number of
    different symbols that followed h in the training texts. A context that never occurred has the
    probabilities of the next shorter one. V is the number of symbols, with the end mark if texts
    have one.
    """

    order: int
    symbols: int
    """V."""
    end_marks: bool
    """Whether every text ends with an end mark."""
    ngram_counts: Counter[str]
    """count(h c), by h c."""
    context_counts: Counter[str]
    """count(h), by h."""
    kinds: Counter[str]
    """kinds(h), by h."""

    @classmethod
    def fit(
        cls, texts: Iterable[str], order: int, symbols: int | None = None, end_marks: bool = True
    ) -> NGram:
        """Fit a model: count the n-grams of 1 to `order` + 1 characters in `texts`.

        Every text has `order` start marks before it and, if `end_marks`, an end mark behind it.
        `symbols` is V, by default the number of symbols in `texts`; give it if the model will score
        texts with other characters.
        """
        longest = (
            context + symbol for text in texts for context, symbol in ngrams(text, order, end_marks)
        )
        ngram_counts = Counter(ngram[start:] for ngram in longest for start in range(order + 1))
        context_counts: Counter[str] = Counter()
        kinds: Counter[str] = Counter()
        for ngram, count in ngram_counts.items():
            context_counts[ngram[:-1]] += count
            kinds[ngram[:-1]] += 1
        return cls(order, symbols or kinds[""], end_marks, ngram_counts, context_counts, kinds)

    def probability(self, context: str, symbol: str) -> float:
        """p(symbol | context); the context has `order` characters."""
        probability = 1.0 / self.symbols
        for start in range(self.order, -1, -1):
            suffix = context[start:]
            kinds = self.kinds[suffix]
            if not kinds:
                break  # longer contexts never occurred either
            probability = (self.ngram_counts[suffix + symbol] + kinds * probability) / (
                self.context_counts[suffix] + kinds
            )
        return probability

    def nats(self, text: str) -> float:
        """-log p(text), with its end mark if texts have one."""
        return -sum(
            math.log(self.probability(context, symbol))
            for context, symbol in ngrams(text, self.order, self.end_marks)
        )

    def mean_nats(self, texts: Sequence[str]) -> float:
        """Nats per text, mean over the texts."""
        return sum(map(self.nats, texts)) / len(texts)

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp(nats per character), where end marks count as characters if texts have them."""
        return math.exp(sum(map(self.nats, texts)) / character_count(texts, self.end_marks))


def character_count(texts: Sequence[str], end_marks: bool) -> int:
    """The number of characters in all texts, plus one end mark for each text if `end_marks`."""
    return sum(map(len, texts)) + end_marks * len(texts)


def ngrams(text: str, order: int, end_marks: bool = True) -> Iterator[tuple[str, str]]:
    """(context, symbol) at every position of `text` and, if `end_marks`, at its end."""
    padded = START_MARK * order + text + END_MARK * end_marks
    for end in range(order, len(padded)):
        yield padded[end - order : end], padded[end]
