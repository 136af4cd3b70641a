"""Encoding and scoring texts: the methods of a `Sampler` that read texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from .bundle_graphs import BundleGraphs
from .checks import as_int, as_texts
from .errors import ConfigError, DataError
from .limits import Cancellation, cancellable, limited
from .results import Score, scores_of

CHUNK = 128
"""Rows decoded at once, which limits the memory of a call of any size."""

MAXIMA = {"seed": 2**63 - 1, "row": 2**32 - 1}

Unknown = Literal["refuse", "replace"]
TooLong = Literal["refuse", "cut"]


class Encoding(BundleGraphs):
    """The graphs of a bundle that read texts."""

    @limited
    def encode(
        self,
        texts: Sequence[str] | str,
        unknown: Unknown = "refuse",
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> np.ndarray:
        """The latent codes of texts: the posterior means, (n, d).

        With a model that was trained with labels, the last columns are the label that it infers:
        one column for each value of `attributes`, 1 for the inferred value and 0 for the others.
        Raises `DataError` for texts that the model cannot read.
        """
        return self.posterior(texts, unknown)[0]

    @limited
    def posterior(
        self,
        texts: Sequence[str] | str,
        unknown: Unknown = "refuse",
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and log variances of q(z|x) for each text, (n, d) each."""
        if self.manifest["latent"]["kind"] == "none":
            raise ConfigError(
                "this model is a language model and has no code of a text: "
                "sample from it, or score texts"
            )
        return self.posterior_of_tokens(self._tokens(as_texts(texts), unknown))

    @limited
    def posterior_of_tokens(
        self,
        tokens: np.ndarray,
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `posterior`, for rows of ids (n, T)."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != self.length or tokens.dtype.kind not in "iu":
            raise DataError(
                f"tokens must be whole numbers of shape (n, {self.length}), "
                f"got {tokens.dtype} {tokens.shape}"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self.alphabet):
            raise DataError(
                f"tokens must be ids from 0 to {len(self.alphabet) - 1}, "
                f"got {tokens.min()} to {tokens.max()}"
            )
        parts = [
            self._run("encoder", tokens=tokens[start : start + count].astype(np.int32))
            for start, count in chunks(len(tokens))
        ]
        empty = np.zeros((0, self.latent_size), np.float32)
        mean, log_variance = (
            np.concatenate([empty, *(part[i] for part in parts)]) for i in range(2)
        )
        return mean, log_variance

    @limited
    def score(
        self,
        texts: Sequence[str] | str,
        samples: int = 1,
        seed: int = 0,
        *,
        attribute: str | None = None,
        unknown: Unknown = "replace",
        too_long: TooLong = "refuse",
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[Score]:
        """An upper bound on -log p(text) of each text, in nats, averaged over `samples` latent
        codes per text.

        The score of a text depends only on the text and `seed`. Texts of similar length are scored
        together, since a batch takes as many steps as its longest text has tokens. Units that the
        model does not know count as the unknown symbol, or are refused (`unknown="refuse"`). Texts
        that are too long are refused, or cut (`too_long="cut"`). `attribute` is the label of all
        texts. Without it, a model that was trained with labels infers the label of each text, and
        the cost of that is part of `kl`.
        """
        samples = as_int("samples", samples, 1, MAXIMA["row"])
        seed = as_int("seed", seed, 0, MAXIMA["seed"])
        self._check_attribute(attribute)
        texts = as_texts(texts)
        tokens = self._tokens(texts, unknown, too_long)
        order, scores = longest_first(tokens), dict[int, Score]()
        for start, count in chunks(len(tokens)):
            places = order[start : start + count]
            batch = [texts[place] for place in places]
            found = self._score(batch, tokens[places], samples, seed, attribute)
            scores |= zip(places.tolist(), found, strict=True)
        return [scores[place] for place in range(len(texts))]

    def _score(
        self, texts: list[str], tokens: np.ndarray, samples: int, seed: int, attribute: str | None
    ) -> list[Score]:
        seeds = np.full(len(texts), seed)
        kl, nats = np.zeros(()), np.zeros(())  # sums in double precision
        for row in range(samples):
            _, sample_kl, sample_nats = self.score_tokens(
                tokens, seeds, np.full(len(texts), row), attribute
            )
            kl, nats = kl + sample_kl, nats + sample_nats
        kl, nats = kl / samples, nats / samples
        return scores_of(texts, tokens, kl, nats, self.manifest["mode"] == "lines")


def longest_first(tokens: np.ndarray) -> np.ndarray:
    """The places of rows of ids (n, T) in the order of their lengths, the longest first; equal ones
    in their order."""
    return np.argsort(-np.count_nonzero(tokens, axis=1), kind="stable")


def chunks(n: int, copies: int = 1) -> Iterator[tuple[int, int]]:
    """(start, count) of chunks of at most `CHUNK` rows, or fewer if there are `copies` of each;
    raises `Cancelled` between chunks if the call must stop."""
    most = CHUNK // copies
    return ((start, min(most, n - start)) for start in cancellable(range(0, n, most)))
