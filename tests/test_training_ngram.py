"""The rival is a probability distribution, and the one that was meant."""

import itertools
import math

import pytest

from kvae.training.ngram import NGram


def test_probabilities_are_counts_plus_one() -> None:
    model = NGram.fit(["ab", "ac"], order=1)
    assert model.symbols == 4  # a, b, c and the end
    expected = (2 + 1) / (2 + 4) * (1 + 1) / (2 + 4) * (1 + 1) / (1 + 4)
    assert model.nats("ab") == pytest.approx(-math.log(expected))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_probabilities_of_all_texts_of_bounded_length_sum_to_the_chance_to_end_in_time(order: int) -> None:
    model = NGram.fit(["ab", "ba", "a"], order)
    ended = sum(math.exp(-model.nats("".join(text))) for n in range(9) for text in itertools.product("ab", repeat=n))
    longer = sum(math.exp(-model.nats("".join(text))) for text in itertools.product("ab", repeat=9))
    assert 0.9 < ended < 1.0
    assert longer < 1.0 - ended


def test_a_higher_order_fits_its_own_text_better() -> None:
    texts = ["LATIN SMALL LETTER A", "LATIN SMALL LETTER B"] * 10
    nats = [NGram.fit(texts, order).mean_nats(texts) for order in (1, 3)]
    assert nats[1] < nats[0]
