"""The sampling options, each with its type, default, range, help and check.

The commands that sample, the requests of the server and the manifest of a bundle read them here.
The methods of the `Sampler` have the same defaults in their signatures; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import as_float, as_int, checked_names
from .errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """One sampling option: the type of its value, its default, its range and its help."""

    kind: type
    default: Any
    help: str
    low: Any = None
    high: Any = None
    """Both ends of the range are allowed. None: the model's length is the limit, or there is
    none."""
    command_note: str = ""
    request_note: str = ""
    """Text after the help: `command_note` in `--help`, `request_note` in the description of a
    request."""
    metavar: str | None = None
    """Placeholder of the value in `--help`; None: the name of the option."""


CHOICES: Mapping[str, Choice] = {
    "greedy": Choice(
        bool,
        False,
        "always the most probable token",
        request_note="; not with temperature, top_k or top_p",
    ),
    "temperature": Choice(
        float,
        None,
        "below 1 for more probable texts, above 1 for more varied ones",
        low=1e-3,
        high=1e3,
        command_note=" (default: the bundle's own, see `kvae info`)",
        request_note="; the bundle's own if not given, `defaults.temperature` of /info",
    ),
    "top_k": Choice(
        int,
        0,
        "sample from the K most probable tokens",
        low=0,
        high=2**32 - 1,
        request_note="; 0 is off",
    ),
    "top_p": Choice(
        float,
        1.0,
        "sample from the most probable tokens whose probabilities sum to this",
        low=1e-6,
        high=1.0,
    ),
    "min_length": Choice(
        int, 1, "minimum number of tokens", low=0, command_note=" (default: %(default)s)"
    ),
    "max_length": Choice(
        int,
        None,
        "maximum number of tokens",
        low=1,
        request_note="; the model's length if not given",
    ),
    "attribute": Choice(
        str,
        None,
        "label of the texts",
        command_note=" (default: sampled for each text)",
        request_note=", of a model that was trained with labels",
        metavar="VALUE",
    ),
}
"""Every option by name. All are inputs of the graphs, except `attribute`, which changes the latent
code."""


DRAWING = ("temperature", "top_k", "top_p")
"""Options of random sampling, not allowed with greedy decoding."""


@checked_names
def choices(
    manifest: Mapping[str, Any],
    greedy: bool = False,
    temperature: float | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_length: int = 1,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Sampling options as inputs of the graphs: temperature 0 is greedy, top_k 0 and top_p 1 are
    off. A temperature of None is the default of the manifest, or 1 if it has none.

    Raises `ConfigError` for a value out of range and for an unknown name.
    """
    drawing = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    if greedy and any(value != CHOICES[name].default for name, value in drawing.items()):
        raise ConfigError(
            "greedy takes the most probable token: give it without temperature, top_k or top_p"
        )
    if temperature is not None and not in_range("temperature", temperature):
        low, high = CHOICES["temperature"].low, CHOICES["temperature"].high
        raise ConfigError(
            f"temperature must be from {low:g} to {high:g}, got {temperature}; "
            "use greedy for the most probable token"
        )
    if not in_range("top_p", top_p):
        raise ConfigError(
            f"top_p must be above 0 and at most {CHOICES['top_p'].high:g}, got {top_p}"
        )
    limit = manifest["length"]
    longest = limit if max_length is None else max_length
    longest = as_int("max_length", longest, CHOICES["max_length"].low, limit)
    if temperature is None:
        temperature = default_temperature(manifest)
    return {
        "temperature": np.float32(0.0 if greedy else temperature),
        "top_k": np.int64(as_int("top_k", top_k, CHOICES["top_k"].low, CHOICES["top_k"].high)),
        "top_p": np.float32(top_p),
        "min_length": np.int64(
            as_int("min_length", min_length, CHOICES["min_length"].low, longest)
        ),
        "max_length": np.int64(longest),
    }


def default_temperature(manifest: Mapping[str, Any]) -> float:
    """The temperature of samples for which none is given: the manifest's, or 1 if it has none."""
    return float(manifest.get("defaults", {}).get("temperature", 1.0))


def in_range(name: str, value: Any) -> bool:
    """True if a value is in the range of its option; raises `ConfigError` if it is not a number."""
    return bool(CHOICES[name].low <= as_float(name, value) <= CHOICES[name].high)
