"""Batches: what is in them, and in which order."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np
import pytest

from kvae.configuration import Config
from kvae.training.data.batches import ordered_rows, training_feed, validation_feed
from kvae.training.data.draws import shuffled, uniform
from kvae.training.data.orders import Order, random_windows, shuffled_rows, steps_of_a_pass
from kvae.training.data.pipeline import Batches, training_batches, training_stream
from kvae.training.data.prepare import Prepared
from kvae.training.data.rows import Rows

from .conftest import everyday, random_tokens

ROWS = np.arange(70, dtype=np.uint8)[:, None].repeat(5, axis=1)


def corpus(rows: np.ndarray = ROWS, batch_size: int = 10, seed: int = 1) -> Prepared:
    settings: dict[str, Any] = {
        "training.batch_size": batch_size,
        "training.seed": seed,
        "model.length": rows.shape[1],
    }
    alphabet: Any = None
    return Prepared(Config().with_settings(settings), alphabet, Rows.of(rows), rows[:3], [], [], ())


def content(dataset: Any, count: int | None = None) -> list[np.ndarray]:
    return [np.array(batch) for batch in islice(dataset, count)]


def places(order: Order, steps: Sequence[int]) -> np.ndarray:
    return order.places(np.array(steps))


def test_a_pass_reads_every_row_once_in_an_order_of_its_own() -> None:
    order = shuffled_rows(70, 10, seed=1)
    first, second = places(order, range(7)).ravel(), places(order, range(7, 14)).ravel()
    assert sorted(first) == sorted(second) == list(range(70))
    assert (first != second).any()
    assert (first != places(shuffled_rows(70, 10, seed=2), range(7)).ravel()).any()


@pytest.mark.parametrize("rows", everyday([2, 3, 17, 1000], 3))
def test_an_order_prefers_no_row(rows: int) -> None:
    """The mean place of each row over many passes is the middle, within 6 standard errors."""
    order, passes = shuffled_rows(rows, rows, seed=3), 400
    where = np.argsort(places(order, range(passes)), axis=1).mean(axis=0)
    error = np.sqrt((rows**2 - 1) / 12 / passes)
    assert np.abs(where - (rows - 1) / 2).max() < 6 * error


def test_a_dataset_for_fit_is_one_pass_drawn_anew_each_time() -> None:
    dataset = training_batches(corpus())
    assert len(dataset) == steps_of_a_pass(corpus()) == 7
    first, second = np.concatenate(content(dataset)), np.concatenate(content(dataset))
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(70))
    assert (first != second).any()
    np.testing.assert_array_equal(np.concatenate(content(training_batches(corpus()))), first)


def test_a_stream_that_starts_later_goes_on_with_the_same_batches() -> None:
    whole = content(training_stream(corpus()), 20)
    np.testing.assert_array_equal(whole[9:], content(training_stream(corpus(), first_step=9), 11))


def test_training_batches_are_full_and_int32() -> None:
    batches = content(training_batches(corpus(batch_size=16)))
    assert [batch.shape for batch in batches] == [(16, 5)] * 4
    assert batches[0].dtype == np.int32


def test_fewer_rows_than_a_batch_make_one_batch() -> None:
    assert [batch.shape for batch in content(training_batches(corpus(ROWS[:3], 16)))] == [(3, 5)]


def test_evaluation_sees_every_row_once_and_in_order() -> None:
    np.testing.assert_array_equal(np.concatenate(content(ordered_rows(ROWS, 16))), ROWS)


def test_windows_are_pieces_of_the_stream_from_random_places_drawn_anew_each_pass() -> None:
    order = random_windows(200, 10, 4, seed=0)
    assert order.steps == 5
    first, second = (places(order, steps).ravel() for steps in (range(5), range(5, 10)))
    assert first.min() >= 0
    assert first.max() <= 190
    assert set(first) != set(second)
    assert len(set(np.concatenate([first, second]) % 10)) > 5


def test_the_first_and_the_last_window_are_drawn_too() -> None:
    starts = places(random_windows(12, 10, 1, seed=0), range(60))[:, 0]
    assert set(starts) == {0, 1, 2}


def test_orders_are_those_of_tensorflow() -> None:
    """Runs of earlier versions continue with the batches that TensorFlow drew for them."""
    tf = pytest.importorskip("tensorflow")
    generator = np.random.default_rng(5)
    sizes = [1, 2, 3, 70, 2**16 + 1, 2**18, 2**18 + 2, 2**20 + 1, 2**32, 2**34 + 5]
    for size in [*sizes, *(2 ** generator.uniform(4, 36, 40)).astype(int).tolist()]:
        seed, number = int(generator.integers(2**32)), int(generator.integers(2**50))
        places = np.append(generator.integers(0, size, 20), [0, size - 1])
        theirs = tf.random.experimental.index_shuffle(
            places, tf.stack([seed, tf.constant(number, tf.int64)]), size - 1
        )
        np.testing.assert_array_equal(shuffled(places, seed, number, size), theirs)
        steps = generator.integers(0, 2**50, 3)
        drawn = [
            tf.random.stateless_uniform(
                (size % 37 + 1,), tf.stack([seed, tf.constant(step)]), 0, size**2, tf.int64
            )
            for step in steps
            if size**2 < 2**63
        ]
        if drawn:
            np.testing.assert_array_equal(uniform(seed, steps, size % 37 + 1, size**2), drawn)


@pytest.mark.parametrize("attribute", [None, np.arange(70) % 3])
@pytest.mark.parametrize("trim", [False, True])
def test_tensorflow_and_other_backends_get_the_same_batches(
    trim: bool, attribute: np.ndarray | None
) -> None:
    from kvae.training.data.tensorflow_pipeline import dataset_of

    rows = random_tokens(70, 30, seed=1)
    settings: dict[str, Any] = {
        "training.batch_size": 9,
        "training.length_buckets": trim,
        "model.length": 30,
    }
    alphabet: Any = None
    held_out = attribute if attribute is None else attribute[:20]
    data = Prepared(
        Config().with_settings(settings),
        alphabet,
        *(Rows.of(rows), rows[:20], [], [], (), attribute, held_out),
    )
    for feed in (training_feed(data), training_feed(data, 5), validation_feed(data, 8, 1)):
        theirs, plain = dataset_of(feed), Batches(feed)
        for _ in range(2):  # two passes
            both = list(zip(islice(theirs, 40), islice(plain, 40), strict=True))
            assert len(both) == (feed.count or 40)
            for pair in both:
                parts = [[*map(np.asarray, keras.tree.flatten(batch))] for batch in pair]
                for one, other in zip(*parts, strict=True):
                    assert one.dtype == other.dtype == np.int32
                    np.testing.assert_array_equal(one, other)


def test_keras_gets_a_pass_an_epoch_and_a_look_takes_nothing_away() -> None:
    batches, passes = Batches(training_feed(corpus())), Batches(training_feed(corpus()))
    wanted = [content(passes), content(passes)]
    for epoch in wanted:
        np.testing.assert_array_equal(batches[0], epoch[0])  # a look
        batches.on_epoch_begin()
        np.testing.assert_array_equal([batches[index] for index in range(7)], epoch)
        batches.on_epoch_end()
    batches.on_epoch_begin()
    shuffled_indices = [0, 3, 1, 2, 6, 5, 4]
    rows = np.concatenate([batches[index] for index in shuffled_indices])
    assert sorted(rows[:, 0]) == list(range(70))
