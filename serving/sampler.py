"""Sampler: texts from a bundle, with numpy and onnxruntime alone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime

from .alphabet import END, Alphabet
from .bundle import ENDPOINTS, Bundle, read_bundle
from .errors import BundleError, ConfigError, DataError

CHUNK = 128
"""Rows decoded at once: what bounds the memory of a call, whatever its size."""

LARGEST = {"seed": 2**63 - 1, "row": 2**32 - 1}


@dataclass(frozen=True)
class Sample:
    """One generated text. The same `seed` and `row` of the same bundle give the same text anywhere."""

    text: str
    seed: int
    row: int
    log_probability: float
    """log p(text | z) of the model at temperature 1, nats, the end mark included."""
    finished: bool
    """Whether the text is all there: the model wrote its end mark, or as many tokens as its texts always have. False
    where the text stopped at the model's length."""
    attribute: str | None = None
    """The label it was written for, of a model that was trained with labels."""


class Sampler:
    """A trained text VAE: `Sampler.load("bundle").sample(5, seed=0)`.

    Codes are (n, d) float32. All methods raise errors of the `KvaeError` tree only, and may be called from many threads.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.manifest = bundle.manifest
        self.alphabet = Alphabet.from_dict(bundle.manifest["vocabulary"])
        self.length: int = bundle.manifest["length"]
        self.latent_size: int = bundle.manifest["latent"]["size"]
        self._sessions = {name: session(bundle, name, threads) for name in ENDPOINTS}

    @classmethod
    def load(cls, path: str | Path, threads: int | None = None) -> Sampler:
        """Read, verify and start the bundle at `path`, on all usable cores or on `threads` of them."""
        return cls(read_bundle(path), threads)

    def sample(self, n: int, seed: int | None = None, **options: Any) -> list[str]:
        """`n` new texts. Row i of a seed is the same text whatever `n`, machine or threads; without a seed one is drawn.

        Options: `greedy=True` or `temperature=0.8` (default 1), `top_k=40`, `top_p=0.95`, `max_length`, `first_row`, and
        `attribute="positive"` for a model that was trained with labels.
        """
        return [sample.text for sample in self.generate(n, seed, **options)]

    def generate(
        self, n: int, seed: int | None = None, *, first_row: int = 0, attribute: str | None = None, **options: Any
    ) -> list[Sample]:
        """As `sample`, with seed, row, log-probability and whether each text is finished."""
        n = whole("n", n, 0, LARGEST["row"])
        seed = secrets.randbits(32) if seed is None else whole("seed", seed, 0, LARGEST["seed"])
        first_row = whole("first_row", first_row, 0, LARGEST["row"] - n)
        chosen = choices(self.manifest, **options)
        samples: list[Sample] = []
        for start, count in chunks(n):
            z = self._with_attribute(self.draw_codes(count, seed, first_row + start), attribute)
            samples += self._decode(z, seed, first_row + start, chosen)
        return samples

    def draw_codes(self, n: int, seed: int, first_row: int = 0) -> np.ndarray:
        """The codes (n, d) behind rows first_row, first_row + 1, ... of `seed`: samples of the prior."""
        n, seed = whole("n", n, 0, LARGEST["row"]), whole("seed", seed, 0, LARGEST["seed"])
        first_row = whole("first_row", first_row, 0, LARGEST["row"] - n)
        (z,) = self._run("prior", seed=np.int64(seed), first_row=np.int64(first_row), count=np.int64(n))
        return z

    def encode(self, texts: Sequence[str] | str, unknown: Literal["refuse", "replace"] = "refuse") -> np.ndarray:
        """The codes of texts: the posterior's means, (n, d). Raises `DataError` for texts that the model cannot read."""
        return self.posterior(texts, unknown)[0]

    def posterior(
        self, texts: Sequence[str] | str, unknown: Literal["refuse", "replace"] = "refuse"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and log variances of q(z|x) for each text, (n, d) each."""
        if self.manifest["latent"]["kind"] == "none":
            raise ConfigError("this model is a language model and has no code of a text: sample from it")
        return self.posterior_of_tokens(self._tokens(listed(texts), unknown))

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
        tokens = tokens.astype(np.int32)
        parts = [self._run("encoder", tokens=tokens[start : start + count]) for start, count in chunks(len(tokens))]
        empty = np.zeros((0, self.latent_size), np.float32)
        mean, log_variance = (np.concatenate([empty, *(part[i] for part in parts)]) for i in range(2))
        return mean, log_variance

    def decode(self, codes: np.ndarray, seed: int = 0, **options: Any) -> list[str]:
        """The texts of codes (n, d), greedily unless `temperature` is given (then `seed` counts)."""
        try:
            codes = np.asarray(codes, np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"codes must be numbers of shape (n, {self.latent_size}), got {type(codes).__name__}"
            ) from error
        if codes.ndim != 2 or codes.shape[1] != self.latent_size or not np.isfinite(codes).all():
            raise DataError(f"codes must be finite numbers of shape (n, {self.latent_size}), got shape {codes.shape}")
        seed = whole("seed", seed, 0, LARGEST["seed"])
        options = {"greedy": not {"temperature", "top_k", "top_p"} & options.keys(), **options}
        chosen = choices(self.manifest, **options)
        texts: list[str] = []
        for start, count in chunks(len(codes)):
            texts += [sample.text for sample in self._decode(codes[start : start + count], seed, start, chosen)]
        return texts

    def reconstruct(self, texts: Sequence[str] | str, unknown: Literal["refuse", "replace"] = "refuse") -> list[str]:
        """Each text through its code and back, greedily: what the model remembers of it."""
        return self.decode(self.encode(texts, unknown))

    def interpolate(
        self, first: str, last: str, steps: int = 7, unknown: Literal["refuse", "replace"] = "refuse"
    ) -> list[str]:
        """Texts at `steps` equal paces on the straight line from the code of `first` to that of `last`, ends included."""
        start, stop = self.encode([first, last], unknown)
        along = np.linspace(0.0, 1.0, whole("steps", steps, 2, 100_000), dtype=np.float32)[:, None]
        return self.decode(start + along * (stop - start))

    def info(self) -> dict[str, Any]:
        """The manifest: vocabulary, latent code, limits, training summary, versions and the parity record."""
        return dict(self.manifest)

    def _with_attribute(self, z: np.ndarray, attribute: str | None) -> np.ndarray:
        """Codes whose last columns, one for each value of the label, say `attribute`."""
        if attribute is None:
            return z
        values = self.manifest["latent"].get("attributes", [])
        if attribute not in values:
            known = (
                f"choose one of {', '.join(map(repr, values))}" if values else "the model was trained without labels"
            )
            raise ConfigError(f"attribute {attribute!r} is unknown: {known}")
        z = z.copy()
        z[:, z.shape[1] - len(values) :] = np.eye(len(values), dtype=z.dtype)[values.index(attribute)]
        return z

    def _decode(self, z: np.ndarray, seed: int, first_row: int, chosen: dict[str, Any]) -> list[Sample]:
        place = {"seed": np.int64(seed), "first_row": np.int64(first_row)}
        ids, _, log_probability = self._run("sampler", z=z, **place, **chosen)
        finished = (ids == END).any(axis=1)
        if self.manifest["mode"] == "fixed":
            finished |= ids.shape[1] == self.length
        values = self.manifest["latent"].get("attributes", [])
        chosen_values = (
            [values[i] for i in z[:, z.shape[1] - len(values) :].argmax(axis=1)] if values else [None] * len(z)
        )
        return [
            Sample(text, seed, first_row + row, float(log_probability[row]), bool(finished[row]), chosen_values[row])
            for row, text in enumerate(self.alphabet.decode(ids))
        ]

    def _tokens(self, texts: list[str], unknown: str) -> np.ndarray:
        if unknown not in ("refuse", "replace"):
            raise ConfigError(f"unknown must be 'refuse' or 'replace', got {unknown!r}")
        strange = self.alphabet.unknown(texts)
        if strange and unknown == "refuse":
            shown = ", ".join(f"{symbol!r} {count}" for symbol, count in strange.most_common(5))
            raise DataError(
                f"texts hold {self.alphabet.rules.unit} the model never saw: {shown}; "
                f"remove them, or have them replaced: unknown='replace', --unknown replace"
            )
        if self.manifest["mode"] == "lines":
            return self.alphabet.encode(texts, self.length)
        rows = [self.alphabet.ids(text) for text in texts]
        for row, ids in enumerate(rows):
            if len(ids) != self.length:
                raise DataError(
                    f"text {row} has {len(ids)} {self.alphabet.rules.tokens}; this model reads windows of exactly {self.length}"
                )
        return np.array(rows, np.int32).reshape(-1, self.length)

    def _run(self, endpoint: str, **inputs: Any) -> list[np.ndarray]:
        try:
            return self._sessions[endpoint].run(None, {name: np.asarray(value) for name, value in inputs.items()})
        except Exception as error:  # onnxruntime's own exceptions share no useful base
            raise BundleError(
                f"the bundle's {endpoint} did not run ({first_line(error)}); check it with `kvae verify`"
            ) from error


def choices(
    manifest: Any,
    *,
    greedy: bool = False,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    max_length: int | None = None,
) -> dict[str, Any]:
    """How symbols are chosen, as the sampler graph's inputs; temperature 0 is greedy, top_k 0 and top_p 1 are off."""
    if greedy and (temperature is not None or top_k or top_p != 1.0):
        raise ConfigError("greedy takes the likeliest symbol: give it alone, without temperature, top_k or top_p")
    if temperature is not None and not 1e-3 <= real("temperature", temperature) <= 1e3:
        raise ConfigError(
            f"temperature must be from 0.001 to 1000, got {temperature}; for the likeliest symbol use greedy"
        )
    if not 1e-6 <= real("top_p", top_p) <= 1.0:
        raise ConfigError(f"top_p must be above 0 and at most 1, got {top_p}")
    limit = manifest["length"]
    return {
        "temperature": np.float32(0.0 if greedy else 1.0 if temperature is None else temperature),
        "top_k": np.int64(whole("top_k", top_k, 0, LARGEST["row"])),
        "top_p": np.float32(top_p),
        "max_length": np.int64(whole("max_length", limit if max_length is None else max_length, 1, limit)),
    }


def session(bundle: Bundle, name: str, threads: int | None) -> onnxruntime.InferenceSession:
    """One graph, ready to run. Thread counts are set explicitly: onnxruntime's default pins cores and fails in containers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores() if threads is None else whole("threads", threads, 1, 1024)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(bundle.graphs[name], options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(
            f"{bundle.path}: onnxruntime {onnxruntime.__version__} cannot load the {name}; "
            f"update onnxruntime ({first_line(error)})"
        ) from error


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def listed(texts: Any) -> list[str]:
    """One text or several as a list, or `DataError`."""
    texts = [texts] if isinstance(texts, str) else texts
    if isinstance(texts, Iterable) and not isinstance(texts, bytes):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise DataError(f"texts must be one str or a sequence of str, got {texts!r:.80}")


def chunks(n: int) -> Iterator[tuple[int, int]]:
    """(start, count) of pieces of at most `CHUNK` rows."""
    return ((start, min(CHUNK, n - start)) for start in range(0, n, CHUNK))


def whole(name: str, value: Any, low: int, high: int) -> int:
    """`value` as an int in [low, high], or `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    return int(value)


def real(name: str, value: Any) -> float:
    """`value` as a number, or `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ConfigError(f"{name} must be a number, got {value!r}")
    return float(value)


def first_line(error: Exception) -> str:
    """What an onnxruntime error says, on one line and short."""
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
