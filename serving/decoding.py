"""Texts of latent codes: decoding, and walks in the latent space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from .alphabet import END
from .checks import as_float, as_int, as_matrix, as_texts, check_one_of
from .choices import choices
from .constraints import Allowed, constraint_of
from .encoding import CHUNK, MAXIMA, Encoding, Unknown, chunks
from .errors import ConfigError, DataError
from .host_decoding import Search
from .limits import Cancellation, limited
from .random_numbers import normals
from .results import Sample
from .walks import PATHS

MAX_WALK_TEXTS = 100_000
"""Largest number of texts of one `interpolate` or `variations`."""

MAX_BEAM = CHUNK
"""Largest number of beginnings that a beam search keeps."""


class Decoding(Encoding):
    """The graphs of a bundle that encode and sample texts."""

    @limited
    def decode(
        self,
        codes: np.ndarray,
        seed: int = 0,
        *,
        greedy: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_length: int = 1,
        max_length: int | None = None,
        beam: int | None = None,
        pattern: str | None = None,
        allowed: Allowed | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[str]:
        """The texts of latent codes (n, d), greedy unless `temperature`, `top_k` or `top_p` is
        given; then `seed` is used.

        `beam` searches more probable texts than the greedy ones: it keeps that many beginnings of
        a text at each position. `pattern` and `allowed` are those of `sample`.
        """
        codes = as_matrix("codes", codes, self.latent_size)
        seed = as_int("seed", seed, 0, MAXIMA["seed"])
        drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        given: dict[str, Any] = {
            name: value for name, value in drawing.items() if value is not None
        }
        search = self._search(beam, pattern, allowed)
        if beam is not None and given:
            raise ConfigError(
                f"beam searches the most probable text: give it without {', '.join(given)}"
            )
        choice_inputs = choices(
            self.manifest,
            greedy=not given if greedy is None else greedy,
            min_length=min_length,
            max_length=max_length,
            **given,
        )
        texts: list[str] = []
        for start, count in chunks(len(codes), beam or 1):
            rows = np.arange(start, start + count)
            seeds = np.full(count, seed)
            decoded = self._decode(codes[rows], seeds, rows, choice_inputs, search)
            texts += [sample.text for sample in decoded]
        return texts

    def _search(
        self,
        beam: int | None = None,
        pattern: str | None = None,
        allowed: Allowed | None = None,
    ) -> Search | None:
        """How texts are decoded on the host, None for decoding in the sampler graph."""
        constraint = constraint_of(self.alphabet, pattern, allowed)
        beam = None if beam is None else as_int("beam", beam, 1, MAX_BEAM)
        if beam is None and constraint is None:
            return None
        if "step_plain" not in self.manifest["endpoints"]:
            raise ConfigError(
                "beam, pattern and allowed need the graph step_plain, which this bundle lacks; "
                "export the run again, without --no-plain"
            )
        return Search(beam, constraint)

    @limited
    def reconstruct(
        self,
        texts: Sequence[str] | str,
        unknown: Unknown = "refuse",
        *,
        beam: int | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[str]:
        """Each text encoded and decoded greedily, or by a beam search."""
        return self.decode(self.encode(texts, unknown), beam=beam)

    @limited
    def interpolate(
        self,
        first: str,
        last: str,
        steps: int = 7,
        path: Literal["linear", "spherical"] = "linear",
        unknown: Unknown = "refuse",
        *,
        beam: int | None = None,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[str]:
        """Texts at `steps` evenly spaced points from the latent code of `first` to that of `last`,
        ends included. The path is a straight line, or an arc around the origin, whose codes have
        norms typical of the prior (White 2016). They are decoded greedily, or by a beam search."""
        return self.decode(self._codes_between(first, last, steps, path, unknown), beam=beam)

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
        self,
        text: str,
        n: int = 10,
        scale: float = 1.0,
        seed: int = 0,
        unknown: Unknown = "refuse",
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
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
        self,
        text: str | Sequence[str],
        among: Sequence[str] | str,
        n: int = 10,
        unknown: Unknown = "refuse",
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
    ) -> list[tuple[str, float]]:
        """The `n` texts of `among` whose latent codes are closest to that of `text`, with their
        Euclidean distances. The two may be given in either order."""
        if isinstance(among, str) and not isinstance(text, str):
            text, among = among, text
        if not isinstance(text, str):
            raise DataError(f"text must be one str, got {text!r:.80}")
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
        *,
        deadline: float | None = None,
        cancel: Cancellation | None = None,
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

    def _decode(
        self,
        z: np.ndarray,
        seeds: np.ndarray,
        rows: np.ndarray,
        choice_inputs: dict[str, Any],
        search: Search | None = None,
    ) -> list[Sample]:
        ids, log_probability = (
            self.write_ids(z, seeds, rows, choice_inputs)
            if search is None
            else self.search_ids(z, seeds, rows, choice_inputs, search)
        )
        finished = (ids == END).any(axis=1)
        if self.manifest["mode"] == "fixed":
            finished |= ids.shape[1] == self.length
        values = self.attributes
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
