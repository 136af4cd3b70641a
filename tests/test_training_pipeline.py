"""Batches: what is in them, and in which order."""

import numpy as np

from kvae.training.pipeline import ordered_rows, random_windows, shuffled_rows

ROWS = np.arange(70, dtype=np.uint8)[:, None].repeat(5, axis=1)


def content(dataset: object) -> list[np.ndarray]:
    return [np.array(batch) for batch in dataset]  # type: ignore[attr-defined]


def test_every_pass_has_its_own_order_and_a_seed_repeats_all_of_them() -> None:
    dataset = shuffled_rows(ROWS, 10, seed=1)
    first, second = np.concatenate(content(dataset)), np.concatenate(content(dataset))
    assert sorted(first[:, 0]) == sorted(second[:, 0]) == list(range(70))
    assert (first != second).any()
    np.testing.assert_array_equal(np.concatenate(content(shuffled_rows(ROWS, 10, seed=1))), first)


def test_training_batches_are_full_and_int32() -> None:
    batches = content(shuffled_rows(ROWS, 16, seed=0))
    assert [batch.shape for batch in batches] == [(16, 5)] * 4
    assert batches[0].dtype == np.int32


def test_fewer_rows_than_a_batch_make_one_batch() -> None:
    assert [batch.shape for batch in content(shuffled_rows(ROWS[:3], 16, seed=0))] == [(3, 5)]


def test_evaluation_sees_every_row_once_and_in_order() -> None:
    np.testing.assert_array_equal(np.concatenate(content(ordered_rows(ROWS, 16))), ROWS)


def test_windows_are_pieces_of_the_stream_from_random_places_drawn_anew_each_pass() -> None:
    dataset = random_windows(np.arange(200, dtype=np.uint8), 10, 4, seed=0)
    first, second = np.concatenate(content(dataset)), np.concatenate(content(dataset))
    assert first.shape == (20, 10)
    assert (np.diff(first, axis=1) == 1).all()
    assert set(first[:, 0]) != set(second[:, 0])
    assert len(set(np.concatenate([first[:, 0], second[:, 0]]) % 10)) > 5
