"""The graphs of a bundle with their sessions, as the methods of a `Sampler` run them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np

from .alphabet import START, Alphabet
from .bundle import FURTHER_OPERATIONS, Bundle, quantization_kind
from .checks import as_int, check_one_of
from .errors import ConfigError
from .host_decoding import Masks, PlainStep, Search, beam_search, sampled_steps, sum_of_nats
from .latent_map import read_map
from .limits import current_options
from .random_numbers import uniforms
from .reading import tokens_of
from .runtime import OWN, RUNTIMES, GraphSession, RunOptions, bundle_session, run


class BundleGraphs:
    """A bundle and the sessions of its graphs, each loaded on first use."""

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        runtime: str = OWN,
        plain: bool = False,
    ) -> None:
        check_one_of("runtime", runtime, RUNTIMES)
        check_runtime(bundle, runtime)
        self.runtime, self.plain = runtime, plain
        self.bundle, self.manifest = bundle, bundle.manifest
        self.alphabet = Alphabet.from_dict(bundle.manifest["vocabulary"])
        self.length: int = bundle.manifest["length"]
        self.latent_size: int = bundle.manifest["latent"]["size"]
        self.threads = None if threads is None else as_int("threads", threads, 1, 1024)
        self._sessions: dict[str, GraphSession] = {}
        self._starting = threading.Lock()

    @cached_property
    def latent_map(self) -> dict[str, Any] | None:
        """Held-out texts as points of a plane in latent space, as plain data, or None if the bundle
        has none. `kvae.serving.latent_map.DESCRIPTION` has the fields. Raises `BundleError` for a
        damaged file."""
        return read_map(self.bundle)

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
        if self.plain:
            masks = Masks(len(self.alphabet), choice_inputs)
            step, start = self.plain_step(choice_inputs, stop), (projected, *states)
            for tokens, _ in sampled_steps(step, start, (seeds, rows), masks):
                yield tokens
            return
        chosen = {name: value for name, value in choice_inputs.items() if name != "max_length"}
        for position in range(int(choice_inputs["max_length"])):
            memory = {f"state_{number}": state for number, state in enumerate(states)}
            place = {"position": np.int64(position), "seed": seeds, "row": rows}
            at_position = projected[:, position]
            previous, _, *states = self._run(
                "step", stop, projected=at_position, previous=previous, **memory, **place, **chosen
            )
            yield previous

    def write_ids(
        self, z: np.ndarray, seeds: np.ndarray, rows: np.ndarray, choice_inputs: Mapping[str, Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Token ids (n, time) and log-probabilities (n,) of latent codes (n, d); if `z` has no
        rows, codes are sampled from the prior."""
        if not self.plain:
            ids, _, log_probability = self._run(
                "sampler", z=z, seed=seeds, row=rows, **choice_inputs
            )
            return ids, log_probability
        z = z if len(z) else self._codes(seeds, rows)
        drawn = uniforms(seeds, rows, int(choice_inputs["max_length"]))
        drawing = {name: value for name, value in choice_inputs.items() if name != "max_length"}
        ids, nats = self._run("sampler_plain", z=z, uniform=drawn, **drawing)
        return ids, sum_of_nats(nats)

    def search_ids(
        self,
        z: np.ndarray,
        seeds: np.ndarray,
        rows: np.ndarray,
        choice_inputs: Mapping[str, Any],
        search: Search,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `write_ids` for codes (n, d), decoded on the host with the plain step."""
        masks = Masks(len(self.alphabet), choice_inputs, search.constraint)
        step, start = self.plain_step(choice_inputs), self._run("expand", z=z)
        if search.beam is not None:
            return beam_search(step, start, search.beam, masks)
        steps = sampled_steps(step, start, (seeds, rows), masks)
        ids, nats = (np.stack(part, axis=1) for part in zip(*steps, strict=True))
        return ids, sum_of_nats(nats)

    def plain_step(
        self, choice_inputs: Mapping[str, Any], stop: RunOptions | None = None
    ) -> PlainStep:
        """The plain step with the result of `choices`."""
        return PlainStep(partial(self._run, "step_plain", stop), choice_inputs)

    def score_tokens(
        self, tokens: np.ndarray, seeds: np.ndarray, rows: np.ndarray, attribute: str | None = None
    ) -> list[np.ndarray]:
        """reconstruction and kl (n,) and nats (n, time) of rows of ids (n, T), with the noise of
        `rows` of `seeds`."""
        label_input = {}
        if self.attributes:
            value = -1 if attribute is None else self.attributes.index(attribute)
            label_input["attribute"] = np.full(len(tokens), value, np.int32)
        return self._run(
            "scorer", tokens=np.asarray(tokens, np.int32), seed=seeds, row=rows, **label_input
        )

    @property
    def attributes(self) -> list[str]:
        """The values of the label, in the order of the last columns of a code; empty for a model
        that was trained without labels."""
        values: list[str] = self.manifest["latent"].get("attributes", [])
        return values

    def _check_attribute(self, attribute: str | None) -> None:
        values = self.attributes
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
        values, z = self.attributes, z.copy()
        z[:, z.shape[1] - len(values) :] = np.eye(len(values), dtype=z.dtype)[
            values.index(attribute)
        ]
        return z

    def _codes(
        self, seeds: np.ndarray, rows: np.ndarray, stop: RunOptions | None = None
    ) -> np.ndarray:
        return self._run("prior", stop, seed=seeds, row=rows)[0]

    def _tokens(self, texts: list[str], unknown: str, too_long: str = "refuse") -> np.ndarray:
        """Rows of ids (n, T) of texts, as `tokens_of` makes them for this model."""
        return tokens_of(
            texts, self.alphabet, self.length, self.manifest["mode"] == "lines", unknown, too_long
        )

    def load_graphs(self) -> None:
        """Verify and load all graphs that calls may use now."""
        unused = "sampler" if self.plain else "sampler_plain"
        for endpoint in self.manifest["endpoints"]:
            if endpoint != unused:
                self._session(endpoint)

    def _session(self, endpoint: str) -> GraphSession:
        """The session of an endpoint's graph, verified and loaded on first use."""
        with self._starting:
            if endpoint not in self._sessions:
                self._sessions[endpoint] = bundle_session(
                    self.bundle, endpoint, self.threads, self.runtime
                )
            return self._sessions[endpoint]

    def _run(
        self, endpoint: str, stop: RunOptions | None = None, /, **inputs: Any
    ) -> list[np.ndarray]:
        return run(self._session(endpoint), endpoint, inputs, stop or current_options())


def check_runtime(bundle: Bundle, runtime: str) -> None:
    """Raise `ConfigError` for a runtime that lacks the operations of a bundle."""
    kind = quantization_kind(bundle.manifest)
    if runtime != OWN and kind in FURTHER_OPERATIONS:
        raise ConfigError(
            f"{bundle.path}: its weights are {kind}, which only {OWN} runs, not {runtime}; load it "
            f"with runtime {OWN!r}, or export it with `kvae export --weights int8`"
        )
