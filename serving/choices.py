"""How tokens are chosen: the options of sampling, each with its type, default, range and help, and their checks.

The `Sampler`, the commands that sample, the requests of the server and the manifest of a bundle take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import real, whole
from .errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """One option: the type of its value, its default, its range and its help."""

    kind: type
    default: Any
    help: str
    low: Any = None
    high: Any = None
    """The range, ends included; None where the model's length is the limit, or where there is none."""
    command_note: str = ""
    request_note: str = ""
    """What follows the help in `--help`, and in the description of a request."""
    metavar: str | None = None
    """What stands for the value in `--help`; None: the name."""


CHOICES: Mapping[str, Choice] = {
    "greedy": Choice(
        bool,
        False,
        "always the likeliest symbol",
        request_note="; alone, without the other choices",
    ),
    "temperature": Choice(
        float,
        None,
        "below 1 safer, above 1 wilder",
        low=1e-3,
        high=1e3,
        command_note=" (default: 1)",
        request_note="; 1 if not given",
    ),
    "top_k": Choice(
        int,
        0,
        "draw from the K likeliest symbols",
        low=0,
        high=2**32 - 1,
        request_note="; 0 is off",
    ),
    "top_p": Choice(
        float, 1.0, "draw from the likeliest symbols that hold this share", low=1e-6, high=1.0
    ),
    "min_length": Choice(int, 1, "tokens at least", low=0, command_note=" (default: %(default)s)"),
    "max_length": Choice(
        int, None, "tokens at most", low=1, request_note="; the model's length if not given"
    ),
    "attribute": Choice(
        str,
        None,
        "the label to write for",
        command_note=" (default: each text draws its own)",
        request_note=", of a model that was trained with labels",
        metavar="VALUE",
    ),
}
"""Every option by its name. All but `attribute`, which changes the code of a text, are inputs of the graphs."""

DEFAULTS: Mapping[str, Any] = {
    name: choice.default for name, choice in CHOICES.items() if name != "attribute"
}

DRAWING = ("temperature", "top_k", "top_p")
"""Options of a random draw; greedy decoding has none of them."""


def choices(manifest: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """How tokens are chosen, as the inputs of the graphs: temperature 0 is greedy, top_k 0 and top_p 1 are off.

    `options` are those of `DEFAULTS`. Raises `ConfigError` for a value out of range and `TypeError` for another name.
    """
    if strange := options.keys() - DEFAULTS.keys():
        raise TypeError(
            f"{min(strange)!r} is no option of how tokens are chosen; there are {', '.join(DEFAULTS)}"
        )
    given = {**DEFAULTS, **options}
    temperature, top_p = given["temperature"], given["top_p"]
    if given["greedy"] and any(given[name] != DEFAULTS[name] for name in DRAWING):
        raise ConfigError(
            "greedy takes the likeliest symbol: give it alone, without temperature, top_k or top_p"
        )
    if temperature is not None and not within("temperature", temperature):
        low, high = CHOICES["temperature"].low, CHOICES["temperature"].high
        raise ConfigError(
            f"temperature must be from {low:g} to {high:g}, got {temperature}; for the likeliest symbol use greedy"
        )
    if not within("top_p", top_p):
        raise ConfigError(
            f"top_p must be above 0 and at most {CHOICES['top_p'].high:g}, got {top_p}"
        )
    limit = manifest["length"]
    longest = limit if given["max_length"] is None else given["max_length"]
    longest = whole("max_length", longest, CHOICES["max_length"].low, limit)
    return {
        "temperature": np.float32(
            0.0 if given["greedy"] else 1.0 if temperature is None else temperature
        ),
        "top_k": np.int64(
            whole("top_k", given["top_k"], CHOICES["top_k"].low, CHOICES["top_k"].high)
        ),
        "top_p": np.float32(top_p),
        "min_length": np.int64(
            whole("min_length", given["min_length"], CHOICES["min_length"].low, longest)
        ),
        "max_length": np.int64(longest),
    }


def within(name: str, value: Any) -> bool:
    """Whether a value lies in the range of its option; raises `ConfigError` for what is no number."""
    return bool(CHOICES[name].low <= real(name, value) <= CHOICES[name].high)
