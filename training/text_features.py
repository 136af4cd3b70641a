"""Features of texts that need no model: bags of words and latent semantic analysis."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from .logistic_regression import SparseMatrix
from .text_metrics import UNIT_SPLITTERS

MAX_WORDS = 10_000
"""Largest vocabulary of a bag of words."""

OVERSAMPLING, POWER_ITERATIONS = 10, 8
"""Extra dimensions of the subspace iteration, and its number of passes."""


def vocabulary(texts: Sequence[str], unit: str, most: int = MAX_WORDS) -> dict[str, int]:
    """The columns of the `most` most frequent words of texts; `unit` is `words` or `characters`."""
    split = UNIT_SPLITTERS[unit]
    counts = Counter(itertools.chain.from_iterable(map(split, texts)))
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:most]
    return {word: column for column, word in enumerate(frequent)}


def log_counts(texts: Sequence[str], unit: str, columns: Mapping[str, int]) -> SparseMatrix:
    """log(1 + count) of each known word in each text, (N, words)."""
    split = UNIT_SPLITTERS[unit]
    counts = [Counter(word for word in split(text) if word in columns) for text in texts]
    return SparseMatrix(
        np.repeat(np.arange(len(texts)), [len(each) for each in counts]),
        np.array([columns[word] for each in counts for word in each], np.int64),
        np.log1p(np.array([n for each in counts for n in each.values()], np.float64)),
        (len(texts), len(columns)),
    )


def inverse_document_frequencies(counts: SparseMatrix) -> np.ndarray:
    """log((1 + N) / (1 + texts with the word)) + 1 of each word, (words,)."""
    texts = np.bincount(counts.columns, minlength=counts.shape[1])
    return np.asarray(np.log((1 + counts.shape[0]) / (1 + texts)) + 1.0)


def tf_idf(counts: SparseMatrix, weights: np.ndarray) -> SparseMatrix:
    """Log-counts times the weights of the words, each text with Euclidean norm 1."""
    values = counts.values * weights[counts.columns]
    norms = np.sqrt(np.bincount(counts.rows, values**2, minlength=counts.shape[0]))
    return SparseMatrix(counts.rows, counts.columns, values / norms[counts.rows], counts.shape)


def right_singular_vectors(matrix: SparseMatrix, dimensions: int, seed: int = 0) -> np.ndarray:
    """The first right singular vectors of a matrix (N, M), as columns (M, dimensions).

    Fewer if the matrix has fewer rows or columns. They are found by subspace iteration from random
    vectors (Halko et al. 2011, algorithm 4.4).
    """
    dimensions = min(dimensions, *matrix.shape)
    width = min(dimensions + OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], width))
    for _ in range(POWER_ITERATIONS):
        basis, _ = np.linalg.qr(matrix.T @ (matrix @ basis))
    _, _, right = np.linalg.svd(matrix @ basis, full_matrices=False)
    return np.asarray(basis @ right.T[:, :dimensions])
