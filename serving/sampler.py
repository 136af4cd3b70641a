"""Sampler: texts from a bundle, with numpy and onnxruntime alone."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .alphabet import END, REPLACEMENT, START, Alphabet
from .bundle import ENDPOINTS, Bundle, read_bundle
from .checks import listed, numbers, one_of, real, whole
from .choices import DRAWING, choices
from .errors import BundleError, ConfigError, DataError
from .limits import Cancellation, checking, current_options, limited, stopping
from .random_numbers import normals
from .reading import tokens_of
from .results import Sample, Score, scores_of
from .runtime import InferenceSession, bundle_session, run
from .walks import PATHS

CHUNK = 128
"""Rows decoded at once: what bounds the memory of a call, whatever its size."""

LARGEST = {"seed": 2**63 - 1, "row": 2**32 - 1}

MOST_AROUND = 100_000
"""Texts of one `interpolate` or `variations`."""

Unknown = Literal["refuse", "replace"]
TooLong = Literal["refuse", "cut"]


class Sampler:
    """A trained text VAE: `Sampler.load("bundle").sample(5, seed=0)`.

    Codes are (n, d) float32. All methods raise errors of the `KvaeError` tree only, and may be called from many threads.
    Those that compute also take `deadline`, seconds from now, after which they raise `DeadlineError`, and `cancel`, a
    `Cancellation` whose `cancel()` ends them from another thread with `Cancelled`.

    A pickled sampler is the bundle's path and `threads`: where it is unpickled or copied, the bundle is opened again, and
    the graphs start when they are first needed.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.alphabet = Alphabet.from_dict(bundle.manifest["vocabulary"])
        self.length: int = bundle.manifest["length"]
        self.latent_size: int = bundle.manifest["latent"]["size"]
        self.threads = None if threads is None else whole("threads", threads, 1, 1024)
        self._sessions: dict[str, InferenceSession] = {}
        self._starting = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return reopened, (type(self), self.bundle.path, self.threads, self.manifest["model_id"])

    @classmethod
    def load(
        cls, path: str | Path, threads: int | None = None, endpoints: Sequence[str] = ("sampler",)
    ) -> Sampler:
        """Open the bundle at `path`, on all usable cores or on `threads` of them.

        The graphs named by `endpoints` are verified and started now, the others when they are first needed.
        """
        sampler = cls(read_bundle(path), threads)
        for name in endpoints:
            one_of("endpoints", name, ENDPOINTS)
            sampler._session(name)
        return sampler

    # --- writing -----------------------------------------------------------------------------------------------------

    def sample(self, n: int, seed: int | None = None, **options: Any) -> list[str]:
        """`n` new texts. Row i of a seed is the same text whatever `n`, machine or threads; without a seed one is drawn.

        Options: `greedy=True` or `temperature=0.8` (default 1), `top_k=40`, `top_p=0.95`, `min_length` (default 1, since no
        corpus holds an empty text), `max_length`, `first_row`, and `attribute="positive"` for a model that was trained with
        labels.
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
        """As `generate`, but one after the other: memory does not grow with `n`."""
        n = whole("n", n, 0, LARGEST["row"])
        seed = secrets.randbits(32) if seed is None else whole("seed", seed, 0, LARGEST["seed"])
        first_row = whole("first_row", first_row, 0, LARGEST["row"] - n)
        self._check_attribute(attribute)
        write = partial(self._write, attribute=attribute, chosen=choices(self.manifest, **options))
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
        """Text i is row `rows[i]` of seed `seeds[i]`: what many callers asked for, written together."""
        if len(seeds) != len(rows):
            raise ConfigError(
                f"seeds and rows must be equally many, got {len(seeds)} and {len(rows)}"
            )
        all_seeds = np.array(
            [whole("seed", seed, 0, LARGEST["seed"]) for seed in checking(seeds)], np.int64
        )
        all_rows = np.array(
            [whole("row", row, 0, LARGEST["row"]) for row in checking(rows)], np.int64
        )
        self._check_attribute(attribute)
        chosen = choices(self.manifest, **options)
        places = (
            (all_seeds[start : start + count], all_rows[start : start + count])
            for start, count in chunks(len(rows))
        )
        return [sample for place in places for sample in self._write(*place, attribute, chosen)]

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
        """The text of a row of a seed in pieces, each as soon as it is written; joined they are `sample`'s text."""
        seed = secrets.randbits(32) if seed is None else whole("seed", seed, 0, LARGEST["seed"])
        row = whole("row", row, 0, LARGEST["row"])
        self._check_attribute(attribute)
        chosen = choices(self.manifest, **options)
        return self._stream(seed, row, attribute, chosen, deadline, cancel)

    def _stream(
        self,
        seed: int,
        row: int,
        attribute: str | None,
        chosen: dict[str, Any],
        deadline: float | None,
        cancel: Cancellation | None,
    ) -> Iterator[str]:
        with stopping(deadline, cancel) as stop:
            seeds, rows = np.array([seed]), np.array([row])
            z = self._with_attribute(self._codes(seeds, rows, stop), attribute)
            written: list[int] = []
            shown = ""
            for (symbol,) in self.write_steps(z, seeds, rows, chosen, stop):
                if symbol == END:
                    break
                written.append(int(symbol))
                # What may still change, as half a character in bytes, waits for the next token.
                ready = self.alphabet.decode(np.array([written]))[0].rstrip(REPLACEMENT)
                if len(ready) > len(shown):
                    yield ready[len(shown) :]
                    shown = ready
            yield from filter(
                None, [self.alphabet.decode(np.array([written], np.int64))[0][len(shown) :]]
            )

    def write_steps(
        self,
        z: np.ndarray,
        seeds: np.ndarray,
        rows: np.ndarray,
        chosen: Mapping[str, Any],
        stop: Any = None,
    ) -> Iterator[np.ndarray]:
        """Symbols (n,) of codes (n, d), position after position up to `max_length`, whatever has ended: the sampler's loop with
        its turns outside the graph. `chosen` is what `choices` makes."""
        projected, *states = self._run("expand", stop, z=z)
        previous = np.full(len(z), START)
        step = {name: value for name, value in chosen.items() if name != "max_length"}
        for position in range(int(chosen["max_length"])):
            memory = {f"state_{number}": state for number, state in enumerate(states)}
            place = {"position": np.int64(position), "seed": seeds, "row": rows}
            here = projected[:, position]
            previous, _, *states = self._run(
                "step", stop, projected=here, previous=previous, **memory, **place, **step
            )
            yield previous

    def write_ids(
        self, z: np.ndarray, seeds: np.ndarray, rows: np.ndarray, chosen: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """ids (n, time) and log-probabilities (n,) of codes (n, d), or of the prior's where `z` has no rows."""
        ids, _, log_probability = self._run("sampler", z=z, seed=seeds, row=rows, **chosen)
        return ids, log_probability

    @limited
    def draw_codes(self, n: int, seed: int, first_row: int = 0) -> np.ndarray:
        """The codes (n, d) behind rows first_row, first_row + 1, ... of `seed`: samples of the prior."""
        n, seed = whole("n", n, 0, LARGEST["row"]), whole("seed", seed, 0, LARGEST["seed"])
        first_row = whole("first_row", first_row, 0, LARGEST["row"] - n)
        drawn = (
            self._codes(np.full(count, seed), np.arange(count) + first_row + start)
            for start, count in chunks(n)
        )
        return np.concatenate([np.zeros((0, self.latent_size), np.float32), *drawn])

    # --- reading -----------------------------------------------------------------------------------------------------

    @limited
    def encode(self, texts: Sequence[str] | str, unknown: Unknown = "refuse") -> np.ndarray:
        """The codes of texts: the posterior's means, (n, d). Raises `DataError` for texts that the model cannot read."""
        return self.posterior(texts, unknown)[0]

    @limited
    def posterior(
        self, texts: Sequence[str] | str, unknown: Unknown = "refuse"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and log variances of q(z|x) for each text, (n, d) each."""
        if self.manifest["latent"]["kind"] == "none":
            raise ConfigError(
                "this model is a language model and has no code of a text: sample from it, or score texts"
            )
        return self.posterior_of_tokens(self._tokens(listed(texts), unknown))

    @limited
    def posterior_of_tokens(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `posterior`, for rows of ids (n, T)."""
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or tokens.shape[1] != self.length or tokens.dtype.kind not in "iu":
            raise DataError(
                f"tokens must be whole numbers of shape (n, {self.length}), got {tokens.dtype} {tokens.shape}"
            )
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < len(self.alphabet):
            raise DataError(
                f"tokens must be ids from 0 to {len(self.alphabet) - 1}, got {tokens.min()} to {tokens.max()}"
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
        """How surprising each text is: an upper bound on -log p(text), nats, the mean over `samples` codes a text.

        A text's score depends on the text and `seed` alone. What the model never saw counts as the unknown symbol; what is
        too long for it is refused, or cut. `attribute` is the label of all texts; without it a model that was trained with
        labels guesses each, and the guess is paid for.
        """
        samples = whole("samples", samples, 1, LARGEST["row"])
        seed = whole("seed", seed, 0, LARGEST["seed"])
        self._check_attribute(attribute)
        texts = listed(texts)
        tokens = self._tokens(texts, unknown, too_long)
        scores: list[Score] = []
        for start, count in chunks(len(tokens)):
            some = slice(start, start + count)
            scores += self._score(texts[some], tokens[some], samples, seed, attribute)
        return scores

    def _score(
        self, texts: list[str], tokens: np.ndarray, samples: int, seed: int, attribute: str | None
    ) -> list[Score]:
        seeds = np.full(len(texts), seed)
        kl, nats = np.zeros(()), np.zeros(())  # sums in double precision
        for row in range(samples):
            _, some_kl, some_nats = self.score_tokens(
                tokens, seeds, np.full(len(texts), row), attribute
            )
            kl, nats = kl + some_kl, nats + some_nats
        kl, nats = kl / samples, nats / samples
        return scores_of(texts, tokens, kl, nats, self.manifest["mode"] == "lines")

    def score_tokens(
        self, tokens: np.ndarray, seeds: np.ndarray, rows: np.ndarray, attribute: str | None = None
    ) -> list[np.ndarray]:
        """reconstruction, kl (n,) and nats (n, time) of rows of ids (n, T), with the noise of those rows of those seeds."""
        given = {}
        if self._attributes:
            value = -1 if attribute is None else self._attributes.index(attribute)
            given["attribute"] = np.full(len(tokens), value, np.int32)
        return self._run(
            "scorer", tokens=np.asarray(tokens, np.int32), seed=seeds, row=rows, **given
        )

    # --- both --------------------------------------------------------------------------------------------------------

    @limited
    def decode(self, codes: np.ndarray, seed: int = 0, **options: Any) -> list[str]:
        """The texts of codes (n, d), greedily unless `temperature`, `top_k` or `top_p` is given (then `seed` counts)."""
        codes = numbers("codes", codes, self.latent_size)
        seed = whole("seed", seed, 0, LARGEST["seed"])
        options = {"greedy": not options.keys() & set(DRAWING), **options}
        chosen = choices(self.manifest, **options)
        texts: list[str] = []
        for start, count in chunks(len(codes)):
            rows = np.arange(start, start + count)
            texts += [
                sample.text
                for sample in self._decode(codes[rows], np.full(count, seed), rows, chosen)
            ]
        return texts

    @limited
    def reconstruct(self, texts: Sequence[str] | str, unknown: Unknown = "refuse") -> list[str]:
        """Each text through its code and back, greedily: what the model remembers of it."""
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
        """Texts at `steps` equal paces from the code of `first` to that of `last`, ends included: on the straight line, or on
        the arc around the origin, whose codes are as long as codes of the prior are (White 2016)."""
        return self.decode(self._codes_between(first, last, steps, path, unknown))

    def _codes_between(
        self, first: str, last: str, steps: int, path: str, unknown: Unknown
    ) -> np.ndarray:
        one_of("path", path, PATHS)
        steps = whole("steps", steps, 2, MOST_AROUND)
        start, stop = self.encode([first, last], unknown)
        along = np.linspace(0.0, 1.0, steps, dtype=np.float32)[:, None]
        return PATHS[path](start, stop, along)

    @limited
    def variations(
        self, text: str, n: int = 10, scale: float = 1.0, seed: int = 0, unknown: Unknown = "refuse"
    ) -> list[str]:
        """`n` texts from codes around that of `text`: its posterior's mean and `scale` of its standard deviations."""
        scale = real("scale", scale)
        if not 0 <= scale <= 1e6:
            raise ConfigError(f"scale must be at least 0, got {scale}")
        n, seed = whole("n", n, 0, MOST_AROUND), whole("seed", seed, 0, LARGEST["seed"])
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
        """The `n` texts of `among` whose codes are closest to that of `text`, and how far they are (Euclid)."""
        among = listed(among)
        n = whole("n", n, 0, LARGEST["row"])
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
        """The text of the sum of the codes of `plus` without those of `minus`: what a is to b, x is to c, by plus=[b, c],
        minus=[a]."""
        plus, minus = listed(plus), listed(minus)
        if not plus:
            raise ConfigError("plus must hold at least one text, got none")
        codes = self.encode([*plus, *minus], unknown)
        return self.decode(
            codes[: len(plus)].sum(axis=0, keepdims=True) - codes[len(plus) :].sum(axis=0)
        )[0]

    def info(self) -> dict[str, Any]:
        """The manifest: vocabulary, latent code, limits, training summary, versions and the parity record."""
        return dict(self.manifest)

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _attributes(self) -> list[str]:
        return self.manifest["latent"].get("attributes", [])

    def _check_attribute(self, attribute: str | None) -> None:
        values = self._attributes
        if attribute is not None and attribute not in values:
            known = (
                f"choose one of {', '.join(map(repr, values))}"
                if values
                else "the model was trained without labels"
            )
            raise ConfigError(f"attribute {attribute!r} is unknown: {known}")

    def _with_attribute(self, z: np.ndarray, attribute: str | None) -> np.ndarray:
        """Codes whose last columns, one for each value of the label, say `attribute`."""
        if attribute is None:
            return z
        values, z = self._attributes, z.copy()
        z[:, z.shape[1] - len(values) :] = np.eye(len(values), dtype=z.dtype)[
            values.index(attribute)
        ]
        return z

    def _codes(self, seeds: np.ndarray, rows: np.ndarray, stop: Any = None) -> np.ndarray:
        return self._run("prior", stop, seed=seeds, row=rows)[0]

    def _write(
        self, seeds: np.ndarray, rows: np.ndarray, attribute: str | None, chosen: dict[str, Any]
    ) -> list[Sample]:
        """Texts of the prior's codes; the sampler draws them itself where nobody needs to see them."""
        if self._attributes:
            z = self._with_attribute(self._codes(seeds, rows), attribute)
        else:
            z = np.zeros((0, self.latent_size), np.float32)
        return self._decode(z, seeds, rows, chosen)

    def _decode(
        self, z: np.ndarray, seeds: np.ndarray, rows: np.ndarray, chosen: dict[str, Any]
    ) -> list[Sample]:
        ids, log_probability = self.write_ids(z, seeds, rows, chosen)
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

    def _tokens(self, texts: list[str], unknown: str, too_long: str = "refuse") -> np.ndarray:
        """Rows of ids (n, T) of texts, as `tokens_of` makes them for this model."""
        return tokens_of(
            texts, self.alphabet, self.length, self.manifest["mode"] == "lines", unknown, too_long
        )

    def _session(self, endpoint: str) -> InferenceSession:
        """The running graph of an endpoint, verified and started when it is first needed."""
        with self._starting:
            if endpoint not in self._sessions:
                self._sessions[endpoint] = bundle_session(self.bundle, endpoint, self.threads)
            return self._sessions[endpoint]

    def _run(self, endpoint: str, stop: Any = None, /, **inputs: Any) -> list[np.ndarray]:
        return run(self._session(endpoint), endpoint, inputs, stop or current_options())


def reopened(kind: type[Sampler], path: Path, threads: int | None, model_id: str) -> Sampler:
    """What a pickled `Sampler` becomes; raises `BundleError` where another model lies at its path now."""
    sampler = kind.load(path, threads, endpoints=())
    found = sampler.manifest["model_id"]
    if found != model_id:
        raise BundleError(
            f"{path}: holds the model {found} now, the pickled sampler had {model_id}; load it anew"
        )
    return sampler


def chunks(n: int) -> Iterator[tuple[int, int]]:
    """(start, count) of pieces of at most `CHUNK` rows, for as long as the call may go on."""
    return ((start, min(CHUNK, n - start)) for start in checking(range(0, n, CHUNK)))
