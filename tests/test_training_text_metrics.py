"""Numbers about texts against values by hand, brute force and keras_nlp."""

import math
from functools import cache

import numpy as np
import pytest

from kvae.training.data.named_corpora import unicode_names
from kvae.training.text_metrics import (
    bleu,
    common_subsequence_length,
    distinct,
    distinct_texts,
    edit_distance,
    edits,
    exact_match,
    novelty,
    rouge_l,
    rouge_n,
    self_bleu,
    unit_of,
)

NAMES = unicode_names()[:4000:40]


def damaged(texts: list[str], seed: int = 0) -> list[str]:
    """Texts with words left out, doubled and swapped, and a letter changed."""
    generator = np.random.default_rng(seed)
    result = []
    for text in texts:
        words = text.split()
        place = int(generator.integers(len(words)))
        change = int(generator.integers(4))
        if change == 0 and len(words) > 1:
            del words[place]
        elif change == 1:
            words.insert(place, words[place])
        elif change == 2:
            words.reverse()
        else:
            words[place] = "X" + words[place][1:]
        result.append(" ".join(words))
    return result


def words(texts: list[str]) -> list[list[str]]:
    return [text.split() for text in texts]


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bleu_is_that_of_keras_nlp_on_real_names(order: int) -> None:
    import tensorflow as tf
    from keras_nlp.metrics import Bleu

    theirs = Bleu(tokenizer=tf.strings.split, max_order=order)
    theirs.update_state([[name] for name in NAMES], damaged(NAMES))
    assert 0.1 < float(theirs.result()) < 0.95
    assert bleu(words(NAMES), words(damaged(NAMES)), order) == pytest.approx(
        float(theirs.result()), rel=1e-5
    )


def test_bleu_by_hand() -> None:
    """3 of 4 words, 1 of 3 pairs, and a reference one word longer."""
    found = bleu([["a", "b", "c", "d", "e"]], [["a", "b", "d", "d"]], 2)
    assert found == pytest.approx(math.exp(1 - 5 / 4) * math.sqrt(3 / 4 * 1 / 3))


def test_bleu_of_texts_of_one_word_counts_the_words() -> None:
    assert bleu([["a"], ["b"], ["c"]], [["a"], ["b"], ["x"]], 4) == pytest.approx(2 / 3)
    assert bleu([["a"], ["b"]], [[], []], 4) == 0.0


def test_a_short_text_beside_long_ones_does_not_remove_an_order() -> None:
    long = ["a", "b", "c", "d"]
    assert bleu([["x"], long], [["x"], long], 4) == 1.0
    assert bleu([["x"], long], [["x"], ["d", "c", "b", "a"]], 4) == 0.0


def test_self_bleu_is_bleu_against_all_others() -> None:
    import tensorflow as tf
    from keras_nlp.metrics import Bleu

    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(list("abc"), 5)) for _ in range(12)]
    theirs = Bleu(tokenizer=tf.strings.split, max_order=3)
    theirs.update_state([texts[:place] + texts[place + 1 :] for place in range(len(texts))], texts)
    assert 0.3 < float(theirs.result()) < 1.0
    assert self_bleu(words(texts), 3) == pytest.approx(float(theirs.result()), rel=1e-5)


def test_self_bleu_takes_the_closest_length_of_another_text() -> None:
    """The last text is the longest: its reference is shorter, so it has no brevity penalty.

    The reference of the first text is longer.
    """
    assert self_bleu([["a"], ["a", "a"], ["a", "a"]], 1) == pytest.approx(math.exp(1 - 6 / 5))
    assert self_bleu([["a", "a"], ["a", "a"], ["a", "a", "b"]], 1) == pytest.approx(6 / 7)


def test_self_bleu_tells_copies_from_strangers() -> None:
    assert self_bleu([["a", "b"]] * 3, 2) == 1.0
    assert self_bleu([["a", "b"], ["c", "d"]], 2) == 0.0
    assert self_bleu([["a", "b"]], 2) == 0.0


def test_edit_distance_is_that_of_keras_nlp_on_real_names() -> None:
    import tensorflow as tf
    from keras_nlp.metrics import EditDistance

    theirs = EditDistance()
    theirs.update_state(
        tf.strings.unicode_split(NAMES, "UTF-8"), tf.strings.unicode_split(damaged(NAMES), "UTF-8")
    )
    assert edit_distance(NAMES, damaged(NAMES)) == pytest.approx(float(theirs.result()), rel=1e-5)


def test_edits_of_a_known_pair() -> None:
    assert edits("kitten", "sitting") == 3
    assert (edits("", "abc"), edits("abc", ""), edits("", "")) == (3, 3, 0)


def test_the_common_subsequence_is_that_of_the_recursion() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        one, other = (
            "".join(generator.choice(list("abc"), generator.integers(0, 9))) for _ in range(2)
        )

        @cache
        def longest(i: int, j: int, one: str = one, other: str = other) -> int:
            if i == 0 or j == 0:
                return 0
            if one[i - 1] == other[j - 1]:
                return longest(i - 1, j - 1) + 1
            return max(longest(i - 1, j), longest(i, j - 1))

        assert common_subsequence_length(one, other) == longest(len(one), len(other))


def test_rouge_by_hand() -> None:
    """Lin 2004, 3.1.

    The reference is "police killed the gunman". The candidates are "police kill the gunman" and
    "the gunman kill police".
    """
    reference, near, far = words(
        ["police killed the gunman", "police kill the gunman", "the gunman kill police"]
    )
    assert rouge_l([reference], [near]) == pytest.approx(3 / 4)
    assert rouge_l([reference], [far]) == pytest.approx(2 / 4)
    assert rouge_n([reference], [near], 2) == rouge_n([reference], [far], 2) == pytest.approx(1 / 3)
    assert rouge_l([reference] * 2, [near, far]) == pytest.approx(5 / 8)
    assert rouge_l([["a", "b"]], [["a", "c", "d"]]) == pytest.approx(2 / 5)


def test_rouge_of_equal_texts_is_one_however_short() -> None:
    assert rouge_n([["a"], []], [["a"], []], 2) == 1.0
    assert rouge_n([["a"]], [["b"]], 2) == 0.0


def test_variety_and_novelty_by_hand() -> None:
    texts = ["a b", "a b", "b a c"]
    assert distinct(words(texts), 1) == pytest.approx(3 / 7)
    assert distinct(words(texts), 2) == pytest.approx(3 / 4)
    assert distinct(words(["a", "b"]), 2) == 0.0
    assert distinct_texts(texts) == pytest.approx(2 / 3)
    assert exact_match(texts, ["a b", "b a", "b a c"]) == pytest.approx(2 / 3)
    assert novelty(texts, ["a b", "x"]) == pytest.approx(1 / 3)


def test_a_piece_of_a_stream_is_new_when_it_stands_nowhere_in_it() -> None:
    assert novelty(["cd", "bc", "ca"], ["ab", "cd"], stream=True) == pytest.approx(1 / 3)


def test_overlap_is_counted_in_words_where_texts_have_some() -> None:
    assert unit_of(NAMES) == "words"
    assert unit_of(["KAMITO", "RUNEKA", "TO RU"]) == "characters"
