"""Metrics of texts: overlap, edit distance, diversity and novelty.

Pure functions. A text is a string or a sequence of units, which are words or characters.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Units = Sequence[str]
"""A text as a sequence of words or characters."""

UNIT_SPLITTERS: dict[str, Callable[[str], Units]] = {"words": str.split, "characters": list}
"""The functions that split a text into units, by the name of the unit."""


def unit_of(texts: Sequence[str]) -> str:
    """The unit to compare texts in: `words` if half of them have two or more, else `characters`."""
    return (
        "words" if 2 * sum(len(text.split()) > 1 for text in texts) >= len(texts) else "characters"
    )


def ngrams(text: Units, size: int) -> Iterator[tuple[str, ...]]:
    """All n-grams of a text with n = `size`, in order."""
    return zip(*(text[start:] for start in range(size)), strict=False)


def ngram_counts(texts: Sequence[Units], size: int) -> list[Counter[tuple[str, ...]]]:
    """For each text, the counts of its n-grams with n = `size`."""
    return [Counter(ngrams(text, size)) for text in texts]


def bleu(references: Sequence[Units], hypotheses: Sequence[Units], order: int) -> float:
    """Corpus BLEU up to n-grams of `order`, in [0, 1], without smoothing (Papineni et al. 2002).

    Every text has one reference. Matches and lengths are summed over all texts before the division.
    A size of n-grams that no reference is long enough for is left out of the mean, so that texts of
    one unit have a BLEU too.
    """
    precisions = []
    for size in range(1, order + 1):
        expected, produced = ngram_counts(references, size), ngram_counts(hypotheses, size)
        if any(expected):
            matches = sum(
                (ours & theirs).total() for ours, theirs in zip(produced, expected, strict=True)
            )
            precisions.append(ratio(matches, sum(ours.total() for ours in produced)))
    return brevity_penalty(unit_count(hypotheses), unit_count(references)) * geometric_mean(
        precisions
    )


def self_bleu(texts: Sequence[Units], order: int) -> float:
    """Self-BLEU: corpus BLEU of each text against all others, in [0, 1] (Zhu et al. 2018).

    Lower is more diverse. Matches and lengths are summed over the texts before the division, as in
    `bleu`; Zhu et al. average over texts. Self-BLEU grows with the number of texts. It is 0 for
    fewer than two texts.
    """
    if len(texts) < 2:
        return 0.0
    precisions = []
    for size in range(1, order + 1):
        counts = ngram_counts(texts, size)
        # The two largest counts of each n-gram over all texts. The largest count among the *other*
        # texts is the first of them, or the second for the text that has the first.
        largest: dict[tuple[str, ...], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for of_text in counts:
            for ngram, count in of_text.items():
                first, second = largest[ngram]
                largest[ngram] = (max(first, count), max(second, min(first, count)))
        matches = sum(
            min(count, largest[ngram][count == largest[ngram][0]])
            for of_text in counts
            for ngram, count in of_text.items()
        )
        if any(counts):
            precisions.append(ratio(matches, sum(of_text.total() for of_text in counts)))
    lengths = Counter(map(len, texts))
    closest = sum(count * closest_length(length, lengths) for length, count in lengths.items())
    return brevity_penalty(unit_count(texts), closest) * geometric_mean(precisions)


def closest_length(length: int, lengths: Counter[int]) -> int:
    """The length nearest to `length` among the other texts', the shorter one of a tie.

    `lengths` counts the lengths of all texts, this one included.
    """
    others = lengths - Counter([length])
    return min(others, key=lambda other: (abs(other - length), other))


def brevity_penalty(produced: int, expected: int) -> float:
    """The brevity penalty of BLEU: a factor below 1 if texts are shorter than their references."""
    if produced >= expected:
        return 1.0
    return math.exp(1.0 - expected / produced) if produced else 0.0


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean; 0 if there are no values or one of them is 0."""
    return (
        math.exp(sum(map(math.log, values)) / len(values)) if values and min(values) > 0.0 else 0.0
    )


def ratio(part: int, whole: int) -> float:
    """part / whole, or 0 if `whole` is 0."""
    return part / whole if whole else 0.0


def unit_count(texts: Sequence[Units]) -> int:
    """The number of units in all texts together."""
    return sum(map(len, texts))


def rouge_n(references: Sequence[Units], hypotheses: Sequence[Units], size: int) -> float:
    """ROUGE-N: F1 of the n-grams with n = `size`, mean over texts, in [0, 1] (Lin 2004, 2).

    Equal texts count 1 even if they are too short for an n-gram.
    """
    return mean_of_pairs(
        references,
        hypotheses,
        lambda one, other: ratio(
            2 * (Counter(ngrams(one, size)) & Counter(ngrams(other, size))).total(),
            max(0, len(one) - size + 1) + max(0, len(other) - size + 1),
        ),
    )


def rouge_l(references: Sequence[Units], hypotheses: Sequence[Units]) -> float:
    """ROUGE-L: F1 of the longest common subsequence, mean over texts, in [0, 1] (Lin 2004, 3)."""
    return mean_of_pairs(
        references,
        hypotheses,
        lambda one, other: ratio(2 * common_subsequence_length(one, other), len(one) + len(other)),
    )


def mean_of_pairs(
    references: Sequence[Units], hypotheses: Sequence[Units], score: Callable[[Units, Units], float]
) -> float:
    """The mean over texts of `score`(reference, hypothesis); equal pairs score 1."""
    pairs = zip(references, hypotheses, strict=True)
    return sum(1.0 if one == other else score(one, other) for one, other in pairs) / len(references)


def common_subsequence_length(one: Units, other: Units) -> int:
    """The length of the longest common subsequence, from the fewest deletions and insertions."""
    return (len(one) + len(other) - edits(one, other, substitution=2)) // 2


def edits(one: Units, other: Units, substitution: int = 1) -> int:
    """The Levenshtein distance: fewest insertions, deletions and substitutions (Levenshtein 1966).

    `substitution` is the cost of a substitution; insertions and deletions cost 1.
    """
    target = np.array(list(other), object)
    columns = np.arange(len(target) + 1)
    row = columns
    for deletions, unit in enumerate(one, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + substitution * (target != unit))
        # Insertions: the minimum over all columns to the left, plus the distance from there.
        row = np.minimum.accumulate(np.concatenate([[deletions], best]) - columns) + columns
    return int(row[-1])


def edit_distance(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """The character error rate: edits over all texts / characters of all references."""
    return ratio(
        sum(
            edits(list(one), list(other)) for one, other in zip(references, hypotheses, strict=True)
        ),
        unit_count(references),
    )


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """The share of texts that equal their reference."""
    return sum(one == other for one, other in zip(references, hypotheses, strict=True)) / len(
        references
    )


def distinct(texts: Sequence[Units], size: int) -> float:
    """Distinct-n: different n-grams / all n-grams over all texts, n = `size` (Li et al. 2016).

    It falls with the number of texts.
    """
    counts = Counter(ngram for text in texts for ngram in ngrams(text, size))
    return ratio(len(counts), counts.total())


def distinct_texts(texts: Sequence[str]) -> float:
    """The number of different texts / the number of texts."""
    return ratio(len(set(texts)), len(texts))


def novelty(texts: Sequence[str], known: Sequence[str], stream: bool = False) -> float:
    """The share of texts that are not among the `known` texts.

    If `stream`, the known texts are the pieces of one stream, and a text is novel if the joined
    stream does not contain it.
    """
    searched: str | set[str] = "".join(known) if stream else set(known)
    return sum(text not in searched for text in texts) / len(texts)
