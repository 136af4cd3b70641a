"""The rival is a probability distribution, and the one that was meant."""

import math

import pytest

from kvae.training.ngram import NGram, character_count


def test_probabilities_are_those_of_witten_and_bell() -> None:
    """Behind b, only the end was seen, once.

    Without context there are 6 symbols of four kinds: a 2, b 1, c 1, end 2.
    """
    model = NGram.fit(["ab", "ac"], order=1)
    assert model.symbols == 4
    end = (2 + 4 / 4) / (6 + 4)
    b = (1 + 4 / 4) / (6 + 4)
    assert model.probability("b", "\x03") == pytest.approx((1 + 1 * end) / (1 + 1))
    assert model.probability("a", "b") == pytest.approx((1 + 2 * b) / (2 + 2))
    assert model.probability("x", "b") == pytest.approx(b)
    start = (2 + 1 * end) / (2 + 1)  # a and the end mark are equally frequent
    expected = start * (1 + 2 * b) / (2 + 2) * (1 + end) / 2
    assert model.nats("ab") == pytest.approx(-math.log(expected))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("symbols", [None, 7])
def test_after_any_context_the_probabilities_of_all_symbols_sum_to_one(
    order: int, symbols: int | None
) -> None:
    model = NGram.fit(["ab", "ba", "a"], order, symbols)
    for context in ("\x02\x02\x02", "\x02\x02a", "abb", "xyz"):
        seen = sum(model.probability(context[3 - order :], symbol) for symbol in "ab\x03")
        unseen = model.probability(context[3 - order :], "?")
        assert seen + unseen * (model.symbols - 3) == pytest.approx(1.0)


def test_a_higher_order_fits_its_own_text_better() -> None:
    texts = ["LATIN SMALL LETTER A", "LATIN SMALL LETTER B"] * 10
    nats = [NGram.fit(texts, order).mean_nats(texts) for order in (1, 3)]
    assert nats[1] < nats[0]


def test_what_no_model_can_know_has_the_perplexity_of_its_choices() -> None:
    """Digits drawn with equal frequency, without end marks: 4 choices each."""
    texts = [a + b for a in "0123" for b in "0123"] * 50
    assert NGram.fit(texts, 1, end_marks=False).perplexity(texts) == pytest.approx(4.0, rel=0.01)


def test_perplexity_counts_the_end_marks_that_are_there() -> None:
    texts = ["ab", "a"]
    for ended, count in ((True, 5), (False, 3)):
        model = NGram.fit(texts, 1, end_marks=ended)
        assert character_count(texts, ended) == count
        assert model.perplexity(texts) == pytest.approx(
            math.exp(2 * model.mean_nats(texts) / count)
        )
