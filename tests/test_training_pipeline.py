"""Batches: what is in them, and in which order."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kvae.configuration import Config
from kvae.training.data.pipeline import (
    Order,
    ordered_rows,
    random_windows,
    shuffled_rows,
    steps_of_a_pass,
    training_batches,
    training_stream,
)
from kvae.training.data.prepare import Prepared
from kvae.training.data.rows import Rows

ROWS = np.arange(70, dtype=np.uint8)[:, None].repeat(5, axis=1)


def corpus(rows: np.ndarray = ROWS, batch_size: int = 10, seed: int = 1) -> Prepared:
    settings: dict[str, Any] = {
        "training.batch_size": batch_size,
        "training.seed": seed,
        "model.length": rows.shape[1],
    }
    alphabet: Any = None
    return Prepared(Config().with_settings(settings), alphabet, Rows.of(rows), rows[:3], [], [], ())


def content(dataset: tf.data.Dataset, count: int | None = None) -> list[np.ndarray]:
    return [np.array(batch) for batch in islice(dataset, count)]


def places(order: Order, steps: Sequence[int]) -> np.ndarray:
    return np.stack([order.places(tf.constant(step, tf.int64)) for step in steps])


def test_a_pass_reads_every_row_once_in_an_order_of_its_own() -> None:
    order = shuffled_rows(70, 10, seed=1)
    first, second = places(order, range(7)).ravel(), places(order, range(7, 14)).ravel()
    assert sorted(first) == sorted(second) == list(range(70))
    assert (first != second).any()
    assert (first != places(shuffled_rows(70, 10, seed=2), range(7)).ravel()).any()


@pytest.mark.parametrize("rows", [2, 3, 17, 1000])
def test_an_order_prefers_no_row(rows: int) -> None:
    """The mean place of each row over many passes is the middle, within 6 standard errors."""
    order, passes = shuffled_rows(rows, rows, seed=3), 400
    where = np.argsort(places(order, range(passes)), axis=1).mean(axis=0)
    error = np.sqrt((rows**2 - 1) / 12 / passes)
    assert np.abs(where - (rows - 1) / 2).max() < 6 * error


def test_a_dataset_for_fit_is_one_pass_drawn_anew_each_time() -> None:
    dataset = training_batches(corpus())
    assert int(dataset.cardinality()) == steps_of_a_pass(corpus()) == 7
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
    first, second = (places(order, steps).reshape(-1, 10) for steps in (range(5), range(5, 10)))
    assert (np.diff(first, axis=1) == 1).all()
    assert first.min() >= 0
    assert first.max() < 200
    assert set(first[:, 0]) != set(second[:, 0])
    assert len(set(np.concatenate([first[:, 0], second[:, 0]]) % 10)) > 5


def test_the_first_and_the_last_window_are_drawn_too() -> None:
    starts = places(random_windows(12, 10, 1, seed=0), range(60))[:, 0, 0]
    assert set(starts) == {0, 1, 2}
