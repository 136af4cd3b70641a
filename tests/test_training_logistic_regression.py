"""Logistic regression against scipy; sparse products and singular vectors against numpy."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from kvae.training.logistic_regression import (
    SparseMatrix,
    cross_entropy,
    fit,
    log_softmax,
    minimum,
    objective,
)
from kvae.training.text_features import (
    inverse_document_frequencies,
    log_counts,
    right_singular_vectors,
    tf_idf,
    vocabulary,
)


def problem(
    texts: int = 200, features: int = 5, classes: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, M) of different sizes, and classes (N,) drawn from a softmax of them."""
    generator = np.random.default_rng(seed)
    values = generator.standard_normal((texts, features)) * np.logspace(-1, 0.5, features) + 0.3
    logits = values @ np.random.default_rng(99).standard_normal((features, classes))
    noisy = logits + generator.gumbel(size=logits.shape)
    return values, noisy.argmax(axis=1)


def sparse(matrix: np.ndarray) -> SparseMatrix:
    rows, columns = np.nonzero(matrix)
    return SparseMatrix(rows, columns, matrix[rows, columns], matrix.shape)  # type: ignore[arg-type]


def loss_by_hand(flat: np.ndarray, values: np.ndarray, classes: np.ndarray, penalty: float) -> Any:
    """The loss written text by text, without anything of the module."""
    weights = flat.reshape(values.shape[1] + 1, -1)
    total = 0.0
    for row, label in zip(values, classes, strict=True):
        logits = [row @ column[:-1] + column[-1] for column in weights.T]
        total += np.logaddexp.reduce(logits) - logits[label]
    return total / len(values) + 0.5 * penalty * (weights[:-1] ** 2).sum()


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-5])
@pytest.mark.parametrize("make", [np.asarray, sparse], ids=["dense", "sparse"])
def test_the_minimum_is_that_of_scipy(penalty: float, make: Any) -> None:
    values, classes = problem(60, 4)
    weights = minimum(make(values), classes, penalty, np.zeros((5, 3)))
    expected = minimize(
        loss_by_hand,
        np.zeros(15),
        (values, classes, penalty),
        method="BFGS",
        options={"gtol": 1e-7, "maxiter": 2000},
    )
    assert loss_by_hand(weights, values, classes, penalty) == pytest.approx(expected.fun, abs=1e-6)
    found = log_softmax(values @ weights[:-1] + weights[-1])
    theirs = expected.x.reshape(5, 3)
    np.testing.assert_allclose(
        np.exp(found), np.exp(log_softmax(values @ theirs[:-1] + theirs[-1])), atol=2e-3
    )


def test_the_gradient_is_that_of_finite_differences() -> None:
    values, classes = problem(20, 3)
    weights = np.random.default_rng(1).standard_normal((4, 3))
    gradient = objective(values, classes, 0.3, weights)[1]
    for place in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[place] = 1e-5
        difference = (
            objective(values, classes, 0.3, weights + step)[0]
            - objective(values, classes, 0.3, weights - step)[0]
        )
        assert gradient[place] == pytest.approx(difference / 2e-5, abs=1e-6)


def test_separable_classes_end_too() -> None:
    values = np.concatenate([np.full((20, 1), -1.0), np.full((20, 1), 1.0)])
    classes = np.repeat([0, 1], 20)
    weights = minimum(values, classes, 1e-9, np.zeros((2, 2)))
    assert np.isfinite(weights).all()
    assert ((values @ weights[:-1] + weights[-1]).argmax(axis=1) == classes).all()


def test_the_penalty_is_the_best_on_the_validation_part() -> None:
    generator = np.random.default_rng(3)
    train, validation = problem(60, 5, seed=3), problem(4000, 5, seed=4)
    noise = generator.standard_normal((60, 40)), generator.standard_normal((4000, 40))
    train = np.hstack([train[0], noise[0]]), train[1]
    validation = np.hstack([validation[0], noise[1]]), validation[1]
    penalties = [1.0, 1e-1, 1e-2, 1e-3, 1e-4]
    chosen = fit(train, validation, 3, penalties)
    losses = {
        penalty: cross_entropy(
            fit(train, validation, 3, [penalty]).log_probabilities(validation[0]), validation[1]
        )
        for penalty in penalties
    }
    assert chosen.penalty == min(losses, key=lambda penalty: losses[penalty])
    assert chosen.penalty not in (1.0, 1e-4)  # else the test would not see the choice


def test_the_unit_of_features_does_not_change_predictions() -> None:
    values, classes = problem()
    parts = [
        fit((unit * values[:150], classes[:150]), (unit * values[150:], classes[150:]), 3)
        for unit in (1.0, 1000.0)
    ]
    assert parts[0].penalty == parts[1].penalty
    np.testing.assert_allclose(
        parts[0].log_probabilities(values), parts[1].log_probabilities(1000.0 * values), atol=1e-3
    )


def test_products_of_a_sparse_matrix_are_those_of_the_dense_one() -> None:
    generator = np.random.default_rng(0)
    dense = generator.standard_normal((6, 4)) * (generator.random((6, 4)) < 0.4)
    other, rows = generator.standard_normal((4, 3)), generator.standard_normal((6, 2))
    np.testing.assert_allclose(sparse(dense) @ other, dense @ other)
    np.testing.assert_allclose(sparse(dense).T @ rows, dense.T @ rows)


def test_singular_vectors_are_those_of_numpy() -> None:
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.standard_normal((n, 20)))[0] for n in (80, 50))
    dense = left * 0.8 ** np.arange(20) @ right.T
    found = right_singular_vectors(sparse(dense), 6)
    expected = np.linalg.svd(dense)[2][:6].T
    assert found.shape == (50, 6)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_more_dimensions_than_the_matrix_has_are_left_out() -> None:
    assert right_singular_vectors(sparse(np.ones((3, 5))), 9).shape == (5, 3)


def test_features_of_texts_are_those_by_hand() -> None:
    texts = ["a b b", "b c", "d"]
    columns = vocabulary(texts, "words", most=3)
    assert columns == {"b": 0, "a": 1, "c": 2}
    counts = log_counts([*texts, "a x"], "words", columns)
    dense = counts @ np.eye(3)
    np.testing.assert_allclose(
        dense, np.log1p([[2, 1, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]]), atol=1e-12
    )
    weights = inverse_document_frequencies(log_counts(texts, "words", columns))
    np.testing.assert_allclose(weights, np.log([4 / 3, 4 / 2, 4 / 2]) + 1)
    weighted = tf_idf(counts, weights) @ np.eye(3)
    np.testing.assert_allclose(np.linalg.norm(weighted, axis=1), [1, 1, 0, 1])
    np.testing.assert_allclose(
        weighted[0] / weighted[0, 1], dense[0] * weights / dense[0, 1] / 2**0 / weights[1]
    )
