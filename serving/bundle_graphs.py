"""The graphs of a bundle, called with numpy arrays: token ids and latent codes, not yet texts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .alphabet import END, START, Alphabet
from .bundle import Bundle
from .checks import as_int
from .errors import ConfigError
from .limits import cancellable, current_options
from .reading import tokens_of
from .results import Sample
from .runtime import InferenceSession, RunOptions, bundle_session, run

CHUNK = 128
"""Rows decoded at once, which limits the memory of a call of any size."""

MAXIMA = {"seed": 2**63 - 1, "row": 2**32 - 1}


class BundleGraphs:
    """The graphs of one bundle; each is loaded when it is first called, from any thread."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.alphabet = Alphabet.from_dict(bundle.manifest["vocabulary"])
        self.length: int = bundle.manifest["length"]
        self.latent_size: int = bundle.manifest["latent"]["size"]
        self.threads = None if threads is None else as_int("threads", threads, 1, 1024)
        self._sessions: dict[str, InferenceSession] = {}
        self._starting = threading.Lock()

    def write_steps(
        self,
        z: np.ndarray,
        seeds: np.ndarray,
        rows: np.ndarray,
        choice_inputs: Mapping[str, Any],
        stop: RunOptions | None = None,
    ) -> Iterator[np.ndarray]:
        """Token ids (n,) of latent codes (n, d), position by position up to `max_length`, also
        after END: the loop of the sampler graph, run outside the graph. `choice_inputs` is the
        result of `choices`."""
        projected, *states = self._run("expand", stop, z=z)
        previous = np.full(len(z), START)
        step = {name: value for name, value in choice_inputs.items() if name != "max_length"}
        for position in range(int(choice_inputs["max_length"])):
            memory = {f"state_{number}": state for number, state in enumerate(states)}
            place = {"position": np.int64(position), "seed": seeds, "row": rows}
            at_position = projected[:, position]
            previous, _, *states = self._run(
                "step", stop, projected=at_position, previous=previous, **memory, **place, **step
            )
            yield previous

    def write_ids(
        self, z: np.ndarray, seeds: np.ndarray, rows: np.ndarray, choice_inputs: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (n, time) and log-probabilities (n,) of latent codes (n, d); if `z` has no
        rows, codes are sampled from the prior."""
        ids, _, log_probability = self._run("sampler", z=z, seed=seeds, row=rows, **choice_inputs)
        return ids, log_probability

    @property
    def _attributes(self) -> list[str]:
        values: list[str] = self.manifest["latent"].get("attributes", [])
        return values

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
        """Latent codes whose last columns, one per value of the label, are the one-hot vector of
        `attribute`."""
        if attribute is None:
            return z
        values, z = self._attributes, z.copy()
        z[:, z.shape[1] - len(values) :] = np.eye(len(values), dtype=z.dtype)[
            values.index(attribute)
        ]
        return z

    def _codes(
        self, seeds: np.ndarray, rows: np.ndarray, stop: RunOptions | None = None
    ) -> np.ndarray:
        return self._run("prior", stop, seed=seeds, row=rows)[0]

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

    def _tokens(self, texts: list[str], unknown: str, too_long: str = "refuse") -> np.ndarray:
        """Rows of ids (n, T) of texts, as `tokens_of` makes them for this model."""
        return tokens_of(
            texts, self.alphabet, self.length, self.manifest["mode"] == "lines", unknown, too_long
        )

    def _session(self, endpoint: str) -> InferenceSession:
        """The session of an endpoint's graph, verified and loaded on first use."""
        with self._starting:
            if endpoint not in self._sessions:
                self._sessions[endpoint] = bundle_session(self.bundle, endpoint, self.threads)
            return self._sessions[endpoint]

    def _run(
        self, endpoint: str, stop: RunOptions | None = None, /, **inputs: Any
    ) -> list[np.ndarray]:
        return run(self._session(endpoint), endpoint, inputs, stop or current_options())


def chunks(n: int) -> Iterator[tuple[int, int]]:
    """(start, count) of chunks of at most `CHUNK` rows; raises `Cancelled` between chunks if the
    call must stop."""
    return ((start, min(CHUNK, n - start)) for start in cancellable(range(0, n, CHUNK)))
