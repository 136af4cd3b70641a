"""The Sampler: texts from a bundle with numpy and onnxruntime alone."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .alphabet import END
from .bundle import read_bundle
from .checks import as_int, check_one_of, checked_names
from .choices import choices, default_temperature
from .constraints import Allowed
from .decoding import Decoding
from .encoding import CHUNK, MAXIMA, chunks
from .errors import BundleError, ConfigError
from .host_decoding import Search
from .limits import Cancellation, cancellable, limited, limited_options
from .manifest import ALL_ENDPOINTS
from .results import Sample
from .runtime import OWN
from .seed_test import check_seed_test
from .tokenizers import REPLACEMENT

__all__ = ["CHUNK", "MAXIMA", "Sampler"]


class Sampler(Decoding):
    """A trained text VAE: `Sampler.load("bundle").sample(5, seed=0)`.

    Latent codes are (n, d) float32. All methods raise only errors of the `KvaeError` tree and may
    be called from many threads. Methods that compute also take `deadline`, in seconds from now,
    after which they raise `DeadlineError`, and `cancel`, a `Cancellation` whose `cancel()` stops
    them from another thread with `Cancelled`.

    A pickled sampler holds the bundle's path and the arguments `threads`, `runtime` and `plain`.
    Unpickling or copying it opens the bundle again; graphs are loaded on first use.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        opened = (self.bundle.path, self.threads, self.manifest["model_id"])
        return reopened, (type(self), *opened, self.runtime, self.plain)

    @classmethod
    @checked_names
    def load(
        cls,
        path: str | Path,
        threads: int | None = None,
        endpoints: Sequence[str] | None = None,
        runtime: str = OWN,
        plain: bool = False,
    ) -> Sampler:
        """Open the bundle at `path`, on all usable cores or on `threads` of them.

        The graphs of `endpoints` (default: the sampler) are verified and loaded now, the others on
        first use. With `plain` the graphs without random numbers sample, and numpy computes these;
        the texts are the same. `runtime` is
        "onnxruntime" or "openvino" (extra `openvino`). Before another runtime than onnxruntime is
        used, it samples the texts of the bundle's seed test, and its other graphs are compared with
        onnxruntime as they are loaded. Raises `CheckFailed` if anything differs.
        """
        sampler = cls(read_bundle(path), threads, runtime, plain)
        if runtime != OWN:
            check_seed_test(sampler)
        for name in ["sampler_plain" if plain else "sampler"] if endpoints is None else endpoints:
            check_one_of("endpoints", name, ALL_ENDPOINTS)
            sampler._session(name)
        return sampler

    # --- sampling --------------------------------------------------------------------------------

    @limited
    def sample(
        self,
        n: int,
        seed: int | None = None,
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        first_row: int = 0,
        pattern: str | None = None,
        allowed: Allowed | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[str]:
        """`n` new texts. Row i of a seed is the same text for every `n`, machine and number of
        threads. Without a seed, a random one is used.

        `greedy` takes the most probable tokens. A `temperature` below 1 samples more probable
        texts; without one it is the bundle's own. `top_k` and `top_p` sample from the most probable
        tokens alone. `min_length` is 1 because no corpus contains an empty text. `attribute` is the
        label of the texts, for a model that was trained with labels. `first_row` is the first row
        of the seed.

        `pattern` is a regular expression that each finished text matches as a whole (extra
        `patterns`). `allowed` are the tokens that may come next, or a function from the text so
        far to these; "" is the end of the text. Both are slower: the host excludes tokens at each
        position.
        """
        chosen = choices(self.manifest, greedy, temperature, top_k, top_p, min_length, max_length)
        search = self._search(pattern=pattern, allowed=allowed)
        drawn = self._drawn(n, seed, first_row, attribute, chosen, search)
        return [sample.text for sample in drawn]

    @limited
    def generate(
        self,
        n: int,
        seed: int | None = None,
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        first_row: int = 0,
        pattern: str | None = None,
        allowed: Allowed | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[Sample]:
        """As `sample`, with seed, row, log-probability and whether each text is finished."""
        chosen = choices(self.manifest, greedy, temperature, top_k, top_p, min_length, max_length)
        search = self._search(pattern=pattern, allowed=allowed)
        return list(self._drawn(n, seed, first_row, attribute, chosen, search))

    @checked_names
    def iterate(
        self,
        n: int,
        seed: int | None = None,
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        first_row: int = 0,
        pattern: str | None = None,
        allowed: Allowed | None = None,
    ) -> Iterator[Sample]:
        """As `generate`, one sample after another: memory does not grow with `n`."""
        chosen = choices(self.manifest, greedy, temperature, top_k, top_p, min_length, max_length)
        search = self._search(pattern=pattern, allowed=allowed)
        return self._drawn(n, seed, first_row, attribute, chosen, search)

    def _drawn(
        self,
        n: int,
        seed: int | None,
        first_row: int,
        attribute: str | None,
        choice_inputs: dict[str, Any],
        search: Search | None = None,
    ) -> Iterator[Sample]:
        """Samples of the prior, each chunk decoded when it is asked for; the arguments are checked
        at once."""
        n = as_int("n", n, 0, MAXIMA["row"])
        seed = secrets.randbits(32) if seed is None else as_int("seed", seed, 0, MAXIMA["seed"])
        first_row = as_int("first_row", first_row, 0, MAXIMA["row"] - n)
        self._check_attribute(attribute)
        return (
            sample
            for start, count in chunks(n)
            for sample in self._sample_rows(
                np.full(count, seed),
                np.arange(count) + first_row + start,
                attribute,
                choice_inputs,
                search,
            )
        )

    @limited
    def generate_rows(
        self,
        seeds: Sequence[int],
        rows: Sequence[int],
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
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
        choice_inputs = choices(
            self.manifest, greedy, temperature, top_k, top_p, min_length, max_length
        )
        places = (
            (all_seeds[start : start + count], all_rows[start : start + count])
            for start, count in chunks(len(rows))
        )
        return [
            sample
            for place in places
            for sample in self._sample_rows(*place, attribute, choice_inputs)
        ]

    @checked_names
    def stream(
        self,
        seed: int | None = None,
        row: int = 0,
        *,
        greedy: bool = False,
        temperature: float | None = None,
        top_k: int = 0,
        top_p: float = 1.0,
        min_length: int = 1,
        max_length: int | None = None,
        attribute: str | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> Iterator[str]:
        """The text of a row of a seed in pieces, each as soon as it is sampled; joined, they are
        the text of `sample`."""
        seed = secrets.randbits(32) if seed is None else as_int("seed", seed, 0, MAXIMA["seed"])
        row = as_int("row", row, 0, MAXIMA["row"])
        self._check_attribute(attribute)
        choice_inputs = choices(
            self.manifest, greedy, temperature, top_k, top_p, min_length, max_length
        )
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
    def draw_codes(
        self,
        n: int,
        seed: int,
        first_row: int = 0,
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> np.ndarray:
        """The latent codes (n, d) of rows first_row, first_row + 1, ... of `seed`, sampled from the
        prior."""
        n, seed = as_int("n", n, 0, MAXIMA["row"]), as_int("seed", seed, 0, MAXIMA["seed"])
        first_row = as_int("first_row", first_row, 0, MAXIMA["row"] - n)
        codes = (
            self._codes(np.full(count, seed), np.arange(count) + first_row + start)
            for start, count in chunks(n)
        )
        return np.concatenate([np.zeros((0, self.latent_size), np.float32), *codes])

    # --- the bundle -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        latent, mode = self.manifest["latent"], self.manifest["mode"]
        limit = "at most " if mode == "lines" else ""
        code = f"{self.latent_size} dimensions" if self.latent_size else "no latent code"
        parts = [
            f"trained on {self.manifest['training'].get('source', 'unknown texts')!r}",
            f"{limit}{self.length - (mode == 'lines')} {self.alphabet.rules.tokens} a text",
            f"{code}, {latent['prior']} prior" if self.latent_size else code,
            *([f"labels {', '.join(self.attributes)}"] if self.attributes else []),
            f"temperature {default_temperature(self.manifest):g}",
        ]
        return f"<Sampler {str(self.bundle.path)!r}: {'; '.join(parts)}>"

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
        search: Search | None = None,
    ) -> list[Sample]:
        """Samples of the prior. The sampler graph draws the codes itself, unless they contain
        labels or the host decodes them."""
        if self.attributes or search is not None:
            z = self._with_attribute(self._codes(seeds, rows), attribute)
        else:
            z = np.zeros((0, self.latent_size), np.float32)
        return self._decode(z, seeds, rows, choice_inputs, search)


def reopened(
    kind: type[Sampler],
    path: Path,
    threads: int | None,
    model_id: str,
    runtime: str = OWN,
    plain: bool = False,
) -> Sampler:
    """The sampler that a pickle stands for; raises `BundleError` if another model is at its path
    now."""
    sampler = kind.load(path, threads, endpoints=(), runtime=runtime, plain=plain)
    found = sampler.manifest["model_id"]
    if found != model_id:
        raise BundleError(
            f"{path}: holds the model {found} now, the pickled sampler had {model_id}; "
            "load it again"
        )
    return sampler
