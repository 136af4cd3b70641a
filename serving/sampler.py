"""The Sampler: texts from a bundle with numpy and onnxruntime alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .alphabet import END
from .bundle import read_bundle
from .bundle_graphs import BundleGraphs
from .checks import as_float, as_int, as_matrix, as_texts, check_one_of
from .choices import DRAWING, choices
from .errors import BundleError, ConfigError, DataError
from .limits import Cancellation, cancellable, limited, limited_options
from .manifest import ENDPOINTS
from .random_numbers import normals
from .results import Sample, Score, scores_of
from .tokenizers import REPLACEMENT
from .walks import PATHS

CHUNK = 128
"""Rows decoded at once, which limits the memory of a call of any size."""

MAXIMA = {"seed": 2**63 - 1, "row": 2**32 - 1}

MAX_WALK_TEXTS = 100_000
"""Largest number of texts of one `interpolate` or `variations`."""

Unknown = Literal["refuse", "replace"]
TooLong = Literal["refuse", "cut"]


class Sampler(BundleGraphs):
    """A trained text VAE: `Sampler.load("bundle").sample(5, seed=0)`.

    Latent codes are (n, d) float32. All methods raise only errors of the `KvaeError` tree and may
    be called from many threads. Methods that compute also take `deadline`, in seconds from now,
    after which they raise `DeadlineError`, and `cancel`, a `Cancellation` whose `cancel()` stops
    them from another thread with `Cancelled`.

    A pickled sampler holds the bundle's path and `threads`. Unpickling or copying it opens the
    bundle again; graphs are loaded on first use.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (type(self), self.bundle.path, self.threads, self.manifest["model_id"])

    @classmethod
    def load(
        cls, path: str | Path, threads: int | None = None, endpoints: Sequence[str] = ("sampler",)
    ) -> Sampler:
        """Open the bundle at `path`, on all usable cores or on `threads` of them.

        The graphs of `endpoints` are verified and loaded now, the others on first use.
        """
        sampler = cls(read_bundle(path), threads)
        for name in endpoints:
            check_one_of("endpoints", name, ENDPOINTS)
            sampler._session(name)
        return sampler

    # --- sampling --------------------------------------------------------------------------------

    def sample(self, n: int, seed: int | None = None, **options: Any) -> list[str]:
        """`n` new texts. Row i of a seed is the same text for every `n`, machine and number of
        threads. Without a seed, a random one is used.

        Options: `greedy=True` or `temperature=0.8` (default 1), `top_k=40`, `top_p=0.95`,
        `min_length` (default 1, since no corpus contains an empty text), `max_length`, `first_row`,
        and `attribute="positive"` for a model that was trained with labels.
        """
        return [sample.text for sample in self.generate(n, seed, **options)]

    @limited
    def generate(self, n: int, seed: int | None = None, **options: Any) -> list[Sample]:
        """As `sample`, with seed, row, log-probability and whether each text is finished."""
        return list(self.iterate(n, seed, **options))

    def iterate(
        self,
        n: int,
        seed: int | None = None,
        *,
        first_row: int = 0,
        attribute: str | None = None,
        **options: Any,
    ) -> Iterator[Sample]:
        """As `generate`, one sample after another: memory does not grow with `n`."""
        n = as_int("n", n, 0, MAXIMA["row"])
        seed = secrets.randbits(32) if seed is None else as_int("seed", seed, 0, MAXIMA["seed"])
        first_row = as_int("first_row", first_row, 0, MAXIMA["row"] - n)
        self._check_attribute(attribute)
        write = partial(
            self._sample_rows, attribute=attribute, choice_inputs=choices(self.manifest, **options)
        )
        return (
            sample
            for start, count in chunks(n)
            for sample in write(np.full(count, seed), np.arange(count) + first_row + start)
        )

    @limited
    def generate_rows(
        self,
        seeds: Sequence[int],
        rows: Sequence[int],
        *,
        attribute: str | None = None,
        **options: Any,
    ) -> list[Sample]:
        """Text i is row `rows[i]` of seed `seeds[i]`: one batch for requests with different
        seeds."""
        if len(seeds) != len(rows):
            raise ConfigError(
                f"seeds and rows must be equally many, got {len(seeds)} and {len(rows)}; "
                "give one row per seed"
            )
        all_seeds = np.array(
            [as_int("seed", seed, 0, MAXIMA["seed"]) for seed in cancellable(seeds)], np.int64
        )
        all_rows = np.array(
            [as_int("row", row, 0, MAXIMA["row"]) for row in cancellable(rows)], np.int64
        )
        self._check_attribute(attribute)
        choice_inputs = choices(self.manifest, **options)
        places = (
            (all_seeds[start : start + count], all_rows[start : start + count])
            for start, count in chunks(len(rows))
        )
        return [
            sample
            for place in places
            for sample in self._sample_rows(*place, attribute, choice_inputs)
        ]

    def stream(
        self,
        seed: int | None = None,
        row: int = 0,
        *,
        attribute: str | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """The text of a row of a seed in pieces, each as soon as it is sampled; joined, they are
        the text of `sample`."""
        seed = secrets.randbits(32) if seed is None else as_int("seed", seed, 0, MAXIMA["seed"])
        row = as_int("row", row, 0, MAXIMA["row"])
        self._check_attribute(attribute)
        choice_inputs = choices(self.manifest, **options)
        return self._stream(seed, row, attribute, choice_inputs, deadline, cancel)

    def _stream(
        self,
        seed: int,
        row: int,
        attribute: str | None,
        choice_inputs: dict[str, Any],
        deadline: float | None,
        cancel: Cancellation | None,
    ) -> Iterator[str]:
        with limited_options(deadline, cancel) as stop:
            seeds, rows = np.array([seed]), np.array([row])
            z = self._with_attribute(self._codes(seeds, rows, stop), attribute)
            tokens: list[int] = []
            streamed = ""
            for (token,) in self.write_steps(z, seeds, rows, choice_inputs, stop):
                if token == END:
                    break
                tokens.append(int(token))
                # An incomplete character, such as half of its bytes, waits for the next token.
                complete = self.alphabet.decode(np.array([tokens]))[0].rstrip(REPLACEMENT)
                if len(complete) > len(streamed):
                    yield complete[len(streamed) :]
                    streamed = complete
            rest = self.alphabet.decode(np.array([tokens], np.int64))[0][len(streamed) :]
            if rest:
                yield rest

    @limited
    def draw_codes(self, n: int, seed: int, first_row: int = 0) -> np.ndarray:
        """The latent codes (n, d) of rows first_row, first_row + 1, ... of `seed`, sampled from the
        prior."""
        n, seed = as_int("n", n, 0, MAXIMA["row"]), as_int("seed", seed, 0, MAXIMA["seed"])
        first_row = as_int("first_row", first_row, 0, MAXIMA["row"] - n)
        codes = (
            self._codes(np.full(count, seed), np.arange(count) + first_row + start)
            for start, count in chunks(n)
        )
        return np.concatenate([np.zeros((0, self.latent_size), np.float32), *codes])

    # --- encoding and scoring --------------------------------------------------------------------

    @limited
    def encode(self, texts: Sequence[str] | str, unknown: Unknown = "refuse") -> np.ndarray:
        """The latent codes of texts: the posterior means, (n, d). Raises `DataError` for texts that
        the model cannot read."""
        return self.posterior(texts, unknown)[0]

    @limited
    def posterior(
        self, texts: Sequence[str] | str, unknown: Unknown = "refuse"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and log variances of q(z|x) for each text, (n, d) each."""
        if self.manifest["latent"]["kind"] == "none":
            raise ConfigError(
                "this model is a language model and has no code of a text: "
                "sample from it, or score texts"
            )
        return self.posterior_of_tokens(self._tokens(as_texts(texts), unknown))

    @limited
    def posterior_of_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    ) -> list[Score]:
        """An upper bound on -log p(text) of each text, in nats, averaged over `samples` latent
        codes per text.

        The score of a text depends only on the text and `seed`. Units that the model does not know
        count as the unknown symbol, or are refused (`unknown="refuse"`). Texts that are too long
        are refused, or cut (`too_long="cut"`). `attribute` is the label of all texts. Without it, a
        model that was trained with labels infers the label of each text, and the cost of that is
        part of `kl`.
        """
        samples = as_int("samples", samples, 1, MAXIMA["row"])
        seed = as_int("seed", seed, 0, MAXIMA["seed"])
        self._check_attribute(attribute)
        texts = as_texts(texts)
        tokens = self._tokens(texts, unknown, too_long)
        scores: list[Score] = []
        for start, count in chunks(len(tokens)):
            chunk = slice(start, start + count)
            scores += self._score(texts[chunk], tokens[chunk], samples, seed, attribute)
        return scores

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

    # --- decoding and walks in the latent space --------------------------------------------------

    @limited
    def decode(self, codes: np.ndarray, seed: int = 0, **options: Any) -> list[str]:
        """The texts of latent codes (n, d), greedy unless `temperature`, `top_k` or `top_p` is
        given; then `seed` is used."""
        codes = as_matrix("codes", codes, self.latent_size)
        seed = as_int("seed", seed, 0, MAXIMA["seed"])
        options = {"greedy": not options.keys() & set(DRAWING), **options}
        choice_inputs = choices(self.manifest, **options)
        texts: list[str] = []
        for start, count in chunks(len(codes)):
            rows = np.arange(start, start + count)
            texts += [
                sample.text
                for sample in self._decode(codes[rows], np.full(count, seed), rows, choice_inputs)
            ]
        return texts

    @limited
    def reconstruct(self, texts: Sequence[str] | str, unknown: Unknown = "refuse") -> list[str]:
        """Each text encoded and decoded greedily."""
        return self.decode(self.encode(texts, unknown))

    @limited
    def interpolate(
        self,
        first: str,
        last: str,
        steps: int = 7,
        path: Literal["linear", "spherical"] = "linear",
        unknown: Unknown = "refuse",
    ) -> list[str]:
        """Texts at `steps` evenly spaced points from the latent code of `first` to that of `last`,
        ends included. The path is a straight line, or an arc around the origin, whose codes have
        norms typical of the prior (White 2016)."""
        return self.decode(self._codes_between(first, last, steps, path, unknown))

    def _codes_between(
        self, first: str, last: str, steps: int, path: str, unknown: Unknown
    ) -> np.ndarray:
        check_one_of("path", path, PATHS)
        steps = as_int("steps", steps, 2, MAX_WALK_TEXTS)
        start, stop = self.encode([first, last], unknown)
        fractions = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
        return PATHS[path](start, stop, fractions)

    @limited
    def variations(
        self, text: str, n: int = 10, scale: float = 1.0, seed: int = 0, unknown: Unknown = "refuse"
    ) -> list[str]:
        """`n` texts decoded from codes around that of `text`: the posterior mean plus normal noise
        of `scale` posterior standard deviations."""
        scale = as_float("scale", scale)
        if not 0 <= scale <= 1e6:
            raise ConfigError(f"scale must be at least 0, got {scale}")
        n, seed = as_int("n", n, 0, MAX_WALK_TEXTS), as_int("seed", seed, 0, MAXIMA["seed"])
        mean, log_variance = self.posterior([text], unknown)
        deviation, texts = np.float32(scale) * np.exp(log_variance / 2), []
        for start, count in chunks(n):
            noise = normals(seed, np.arange(start, start + count), self.latent_size)
            texts += self.decode(mean + deviation * noise)
        return texts

    @limited
    def neighbours(
        self, text: str, among: Sequence[str], n: int = 10, unknown: Unknown = "refuse"
    ) -> list[tuple[str, float]]:
        """The `n` texts of `among` whose latent codes are closest to that of `text`, with their
        Euclidean distances."""
        among = as_texts(among)
        n = as_int("n", n, 0, MAXIMA["row"])
        code, codes = self.encode([text], unknown), self.encode(among, unknown)
        distances = np.linalg.norm(codes - code, axis=1)
        nearest = np.argsort(distances, kind="stable")[:n]
        return [(among[place], float(distances[place])) for place in nearest]

    @limited
    def arithmetic(
        self,
        plus: Sequence[str] | str,
        minus: Sequence[str] | str = (),
        unknown: Unknown = "refuse",
    ) -> str:
        """The text of the sum of the codes of `plus` minus those of `minus`. For "a is to b as c is
        to what" use plus=[b, c], minus=[a]."""
        plus, minus = as_texts(plus), as_texts(minus)
        if not plus:
            raise ConfigError("plus must hold at least one text, got none")
        codes = self.encode([*plus, *minus], unknown)
        return self.decode(
            codes[: len(plus)].sum(axis=0, keepdims=True) - codes[len(plus) :].sum(axis=0)
        )[0]

    def info(self) -> dict[str, Any]:
        """The manifest: vocabulary, latent code, limits, training summary, versions and the parity
        record."""
        return dict(self.manifest)

    # --- internals -------------------------------------------------------------------------------

    def _sample_rows(
        self,
        seeds: np.ndarray,
        rows: np.ndarray,
        attribute: str | None,
        choice_inputs: dict[str, Any],
    ) -> list[Sample]:
        """Samples of the prior. The sampler graph draws the codes itself, unless they contain
        labels."""
        if self._attributes:
            z = self._with_attribute(self._codes(seeds, rows), attribute)
        else:
            z = np.zeros((0, self.latent_size), np.float32)
        return self._decode(z, seeds, rows, choice_inputs)

    def _decode(
        self, z: np.ndarray, seeds: np.ndarray, rows: np.ndarray, choice_inputs: dict[str, Any]
    ) -> list[Sample]:
        ids, log_probability = self.write_ids(z, seeds, rows, choice_inputs)
        finished = (ids == END).any(axis=1)
        if self.manifest["mode"] == "fixed":
            finished |= ids.shape[1] == self.length
        values = self._attributes
        labels = (
            [values[i] for i in z[:, z.shape[1] - len(values) :].argmax(axis=1)]
            if values
            else [None] * len(rows)
        )
        return [
            Sample(
                text,
                int(seeds[i]),
                int(rows[i]),
                float(log_probability[i]),
                bool(finished[i]),
                labels[i],
            )
            for i, text in enumerate(self.alphabet.decode(ids))
        ]


def reopened(kind: type[Sampler], path: Path, threads: int | None, model_id: str) -> Sampler:
    """The sampler that a pickle stands for; raises `BundleError` if another model is at its path
    now."""
    sampler = kind.load(path, threads, endpoints=())
    found = sampler.manifest["model_id"]
    if found != model_id:
        raise BundleError(
            f"{path}: holds the model {found} now, the pickled sampler had {model_id}; "
            "load it again"
        )
    return sampler


def chunks(n: int) -> Iterator[tuple[int, int]]:
    """(start, count) of chunks of at most `CHUNK` rows; raises `Cancelled` between chunks if the
    call must stop."""
    return ((start, min(CHUNK, n - start)) for start in cancellable(range(0, n, CHUNK)))
