"""The rival is a probability distribution, and the one that was meant."""

import math

import pytest

from kvae.training.ngram import NGram, ngrams


def test_probabilities_are_counts_plus_one() -> None:
    model = NGram.fit(["ab", "ac"], order=1)
    assert model.symbols == 4  # a, b, c and the end
    expected = (2 + 1) / (2 + 4) * (1 + 1) / (2 + 4) * (1 + 1) / (1 + 4)
    assert model.nats("ab") == pytest.approx(-math.log(expected))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_after_any_context_the_probabilities_of_all_symbols_sum_to_one(order: int) -> None:
    model = NGram.fit(["ab", "ba", "a"], order)
    for context in ("", "a", "ab", "bbb"):
        ends = math.exp(-model.nats(context))
        continues = (model.nats(context + symbol) - last_nats(model, context + symbol) for symbol in "ab")
        before = math.exp(-(model.nats(context) - last_nats(model, context)))
        steps = [math.exp(-nats) / before for nats in continues]
        assert ends / before + sum(steps) == pytest.approx(1.0)


def last_nats(model: NGram, text: str) -> float:
    """-log p(the end mark after `text`)."""
    *_, (context, symbol) = ngrams(text, model.order)
    return math.log((model.contexts[context] + model.symbols) / (model.pairs[context, symbol] + 1))


def test_a_higher_order_fits_its_own_text_better() -> None:
    texts = ["LATIN SMALL LETTER A", "LATIN SMALL LETTER B"] * 10
    nats = [NGram.fit(texts, order).mean_nats(texts) for order in (1, 3)]
    assert nats[1] < nats[0]
