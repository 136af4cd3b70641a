"""Multinomial logistic regression with an L2 penalty, for probes of features.

The loss is convex, and Newton's method with conjugate gradients reaches its minimum (Nocedal and
Wright 2006, algorithm 7.1). Features are a dense array or a `SparseMatrix`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

PENALTIES = tuple(10.0**-power for power in range(8))
"""L2 penalties that are tried, strongest first. Features have a root mean square norm of 1."""

PATIENCE = 2
"""Weaker penalties that are tried after the best one."""

MAX_STEPS, MAX_INNER_STEPS = 100, 100
"""Newton steps, and conjugate-gradient steps within one."""

TOLERANCE = 1e-5
"""The largest norm of the gradient at the minimum. The gradient at zero weights is about 1."""


@dataclass(frozen=True)
class SparseMatrix:
    """A matrix (N, M) as its entries, each with its row and its column, (entries,) each."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    @property
    def T(self) -> SparseMatrix:  # noqa: N802 (the name that numpy has for it)
        """The transposed matrix, (M, N)."""
        return SparseMatrix(self.columns, self.rows, self.values, self.shape[::-1])

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        """The product with a dense matrix (M, K), (N, K) float64."""
        sums = [
            np.bincount(self.rows, self.values * column[self.columns], minlength=self.shape[0])
            for column in np.asarray(other, np.float64).T
        ]
        return np.stack(sums, axis=1)

    def scaled(self, factor: float) -> SparseMatrix:
        """The matrix times a number."""
        return SparseMatrix(self.rows, self.columns, self.values * factor, self.shape)


Features: TypeAlias = np.ndarray | SparseMatrix
"""Features of N texts, (N, M)."""


@dataclass(frozen=True)
class Classifier:
    """A linear classifier: `weights` (M + 1, K), the last row the intercepts, and its penalty."""

    weights: np.ndarray
    penalty: float
    scale: float = 1.0
    """What features are multiplied by."""

    def log_probabilities(self, features: Features) -> np.ndarray:
        """log p(class), nats (N, K), of features (N, M)."""
        return log_softmax(self.scale * (features @ self.weights[:-1]) + self.weights[-1])

    def predict(self, features: Features) -> np.ndarray:
        """The most probable class of each row of features (N, M): (N,) int64."""
        return np.asarray(self.log_probabilities(features).argmax(axis=1))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log softmax over the last axis, nats (N, K)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def cross_entropy(log_probabilities: np.ndarray, classes: np.ndarray) -> float:
    """The mean of -log p(class), nats, of log-probabilities (N, K) and classes (N,)."""
    return -float(log_probabilities[np.arange(len(classes)), classes].mean())


def fit(
    train: tuple[Features, np.ndarray],
    validation: tuple[Features, np.ndarray],
    classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> Classifier:
    """The classifier of the penalty with the lowest cross-entropy on the validation part.

    Both parts are features (N, M) and classes (N,) in [0, K). Penalties are tried from strong to
    weak, each from the weights of the one before, until `PATIENCE` of them in a row are worse than
    the best. The classifier is not fitted again to both parts.
    """
    features, labels = train
    scale = 1.0 / max(root_mean_square_norm(features), 1e-12)
    scaled = features.scaled(scale) if isinstance(features, SparseMatrix) else features * scale
    weights = np.zeros((features.shape[1] + 1, classes))
    best, lowest, worse = Classifier(weights, math.inf, scale), math.inf, 0
    for penalty in sorted(penalties, reverse=True):
        weights = minimum(scaled, labels, penalty, weights)
        found = Classifier(weights, penalty, scale)
        loss = cross_entropy(found.log_probabilities(validation[0]), validation[1])
        if loss < lowest:
            best, lowest, worse = found, loss, 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    return best


def root_mean_square_norm(features: Features) -> float:
    """The root of the mean squared Euclidean norm of the rows of features (N, M)."""
    values = features.values if isinstance(features, SparseMatrix) else features
    return math.sqrt(float(np.square(values, dtype=np.float64).sum()) / features.shape[0])


def objective(
    features: Features, classes: np.ndarray, penalty: float, weights: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss in nats, its gradient (M + 1, K), and the probabilities (N, K).

    The loss is the mean cross-entropy + `penalty` / 2 * the sum of the squared weights without the
    intercepts.
    """
    log_probabilities = log_softmax(features @ weights[:-1] + weights[-1])
    probabilities = np.exp(log_probabilities)
    error = probabilities.copy()
    error[np.arange(len(classes)), classes] -= 1.0
    loss = cross_entropy(log_probabilities, classes)
    return (
        loss + 0.5 * penalty * float((weights[:-1] ** 2).sum()),
        backward(features, error / len(classes), penalty, weights),
        probabilities,
    )


def backward(
    features: Features, error: np.ndarray, penalty: float, weights: np.ndarray
) -> np.ndarray:
    """The gradient (M + 1, K) of weights whose logits have the gradient `error` (N, K)."""
    return np.concatenate(
        [features.T @ error + penalty * weights[:-1], error.sum(axis=0, keepdims=True)]
    )


def minimum(
    features: Features, classes: np.ndarray, penalty: float, start: np.ndarray
) -> np.ndarray:
    """The weights (M + 1, K) of the lowest loss, from the weights `start`."""
    weights = start
    loss, gradient, probabilities = objective(features, classes, penalty, weights)
    for _ in range(MAX_STEPS):
        if np.linalg.norm(gradient) <= TOLERANCE:
            break

        def curvature(direction: np.ndarray, p: np.ndarray = probabilities) -> np.ndarray:
            logits = features @ direction[:-1] + direction[-1]
            change = p * (logits - (p * logits).sum(axis=1, keepdims=True))
            return backward(features, change / len(classes), penalty, direction)

        step = newton_step(curvature, gradient)
        slope, size = float((gradient * step).sum()), 1.0
        while True:
            new = weights + size * step
            found = objective(features, classes, penalty, new)
            if found[0] <= loss + 1e-4 * size * slope:
                break
            size /= 2.0
            if size < 1e-10:  # rounding: no step makes the loss lower
                return weights
        weights, (loss, gradient, probabilities) = new, found
    return weights


def newton_step(curvature: Callable[[np.ndarray], np.ndarray], gradient: np.ndarray) -> np.ndarray:
    """The solution of `curvature(step)` = -`gradient` by conjugate gradients.

    It is as exact as Newton's method needs: the residual is at most min(0.5, |gradient|^0.5) times
    the gradient.
    """
    norm = float(np.linalg.norm(gradient))
    target = min(0.5, math.sqrt(norm)) * norm
    step, residual = np.zeros_like(gradient), -gradient
    direction, squared = residual, norm * norm
    for _ in range(MAX_INNER_STEPS):
        product = curvature(direction)
        bend = float((direction * product).sum())
        if bend <= 1e-16 * squared:  # a direction that changes no probability
            return step if step.any() else residual
        size = squared / bend
        step = step + size * direction
        residual = residual - size * product
        previous, squared = squared, float((residual**2).sum())
        if math.sqrt(squared) <= target:
            break
        direction = residual + (squared / previous) * direction
    return step
