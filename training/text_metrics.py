"""Texts against texts: overlap, distance, variety and novelty. Pure functions; a text is a sequence of words or characters."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Units = Sequence[str]
"""A text cut into words or characters."""

UNIT_SPLITTERS: dict[str, Callable[[str], Units]] = {"words": str.split, "characters": list}
"""How a text becomes units."""


def unit_of(texts: Sequence[str]) -> str:
    """What to count overlap in: `words` where at least half of the texts have two or more, else `characters`."""
    return (
        "words" if 2 * sum(len(text.split()) > 1 for text in texts) >= len(texts) else "characters"
    )


def ngrams(text: Units, size: int) -> Iterator[tuple[str, ...]]:
    """All runs of `size` units."""
    return zip(*(text[start:] for start in range(size)), strict=False)


def ngram_counts(texts: Sequence[Units], size: int) -> list[Counter[tuple[str, ...]]]:
    """How often each run of `size` units occurs in each text."""
    return [Counter(ngrams(text, size)) for text in texts]


def bleu(references: Sequence[Units], hypotheses: Sequence[Units], order: int) -> float:
    """Corpus BLEU of one reference a text, in [0, 1], without smoothing (Papineni et al. 2002).

    Matches and lengths are summed over all texts before they are divided. Orders that no reference is long enough for are
    left out of the mean, so that texts of one unit have a BLEU too.
    """
    precisions = []
    for size in range(1, order + 1):
        wanted, written = ngram_counts(references, size), ngram_counts(hypotheses, size)
        if any(wanted):
            matches = sum(
                (ours & theirs).total() for ours, theirs in zip(written, wanted, strict=True)
            )
            precisions.append(ratio(matches, sum(ours.total() for ours in written)))
    return brevity_penalty(unit_count(hypotheses), unit_count(references)) * geometric_mean(
        precisions
    )


def self_bleu(texts: Sequence[Units], order: int) -> float:
    """Corpus BLEU of each text with all others as its references, in [0, 1]: lower is more diverse (Zhu et al. 2018).

    As in `bleu` everything is summed before it is divided, where they average over texts. Grows with the number of texts.
    """
    if len(texts) < 2:
        return 0.0
    precisions = []
    for size in range(1, order + 1):
        each = ngram_counts(texts, size)
        # What the other texts hold of a run at most: the largest count of all texts, or the next one for its owner.
        largest: dict[tuple[str, ...], tuple[int, int]] = defaultdict(lambda: (0, 0))
        for text in each:
            for gram, count in text.items():
                first, second = largest[gram]
                largest[gram] = (max(first, count), max(second, min(first, count)))
        matches = sum(
            min(count, largest[gram][count == largest[gram][0]])
            for text in each
            for gram, count in text.items()
        )
        if any(each):
            precisions.append(ratio(matches, sum(text.total() for text in each)))
    lengths = Counter(map(len, texts))
    closest = sum(count * closest_length(length, lengths) for length, count in lengths.items())
    return brevity_penalty(unit_count(texts), closest) * geometric_mean(precisions)


def closest_length(length: int, lengths: Counter[int]) -> int:
    """The length nearest to that of a text among all others, the shorter of two."""
    others = lengths - Counter([length])
    return min(others, key=lambda other: (abs(other - length), other))


def brevity_penalty(written: int, wanted: int) -> float:
    """BLEU's factor for texts shorter than their references."""
    if written >= wanted:
        return 1.0
    return math.exp(1.0 - wanted / written) if written else 0.0


def geometric_mean(shares: Sequence[float]) -> float:
    """0 when there are none or one of them is 0."""
    return (
        math.exp(sum(map(math.log, shares)) / len(shares)) if shares and min(shares) > 0.0 else 0.0
    )


def ratio(part: int, whole: int) -> float:
    """part / whole, 0 of nothing."""
    return part / whole if whole else 0.0


def unit_count(texts: Sequence[Units]) -> int:
    """Units of all texts."""
    return sum(map(len, texts))


def rouge_n(references: Sequence[Units], hypotheses: Sequence[Units], size: int) -> float:
    """F1 of the runs of `size` units that two texts share, mean over texts, in [0, 1] (Lin 2004, 2). Equal texts count 1,
    also when they are too short to have such a run."""
    return mean_of_pairs(
        references,
        hypotheses,
        lambda one, other: ratio(
            2 * (Counter(ngrams(one, size)) & Counter(ngrams(other, size))).total(),
            max(0, len(one) - size + 1) + max(0, len(other) - size + 1),
        ),
    )


def rouge_l(references: Sequence[Units], hypotheses: Sequence[Units]) -> float:
    """F1 of the longest common subsequence of two texts, mean over texts, in [0, 1] (Lin 2004, 3)."""
    return mean_of_pairs(
        references,
        hypotheses,
        lambda one, other: ratio(2 * common_subsequence_length(one, other), len(one) + len(other)),
    )


def mean_of_pairs(
    references: Sequence[Units], hypotheses: Sequence[Units], score: Callable[[Units, Units], float]
) -> float:
    """The mean score of a reference and its hypothesis, 1 where they are equal."""
    pairs = zip(references, hypotheses, strict=True)
    return sum(1.0 if one == other else score(one, other) for one, other in pairs) / len(references)


def common_subsequence_length(one: Units, other: Units) -> int:
    """Units of the longest common subsequence: what deletions and insertions alone leave in place."""
    return (len(one) + len(other) - edits(one, other, substitution=2)) // 2


def edits(one: Units, other: Units, substitution: int = 1) -> int:
    """Fewest insertions, deletions and substitutions that make one text the other (Levenshtein 1966)."""
    target = np.array(list(other), object)
    places = np.arange(len(target) + 1)
    row = places
    for number, unit in enumerate(one, start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + substitution * (target != unit))
        # Insertions: best of all places to the left, plus the way from there.
        row = np.minimum.accumulate(np.concatenate([[number], best]) - places) + places
    return int(row[-1])


def edit_distance(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Edits over all texts / characters of all references: the character error rate, 0 when all are equal."""
    return ratio(
        sum(
            edits(list(one), list(other)) for one, other in zip(references, hypotheses, strict=True)
        ),
        unit_count(references),
    )


def exact_match(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Share of texts that are equal."""
    return sum(one == other for one, other in zip(references, hypotheses, strict=True)) / len(
        references
    )


def distinct(texts: Sequence[Units], size: int) -> float:
    """Different runs of `size` units / all runs, over all texts (Li et al. 2016). Falls with the number of texts."""
    found = Counter(gram for text in texts for gram in ngrams(text, size))
    return ratio(len(found), found.total())


def distinct_texts(texts: Sequence[str]) -> float:
    """Different texts / texts."""
    return ratio(len(set(texts)), len(texts))


def novelty(texts: Sequence[str], known: Sequence[str], stream: bool = False) -> float:
    """Share of texts that are none of the `known` ones; of a stream, that stand nowhere in it (its pieces joined)."""
    where: str | set[str] = "".join(known) if stream else set(known)
    return sum(text not in where for text in texts) / len(texts)
