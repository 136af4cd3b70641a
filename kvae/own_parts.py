"""Parts of a program's own that a configuration can name: encoders, priors, expanders, heads,
schedules, penalties and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from kvae.serving.errors import ConfigError, short_repr
from kvae.serving.tokenizers import OWN_DEFAULTS, TOKENIZERS, Tokenizer

from . import encoders, expanders, heads, priors
from .choices import OWN, ROWS, names_of
from .objectives import PENALTIES, SCHEDULES
from .slots import Encoder, Expander, Head, Penalty, Prior, Schedule, quoted_list


@dataclass(frozen=True)
class Kind:
    """A kind of part."""

    table: dict[str, Any]
    """Its parts by name."""
    row: type[Any]
    """The class with the properties of a part."""


KINDS: dict[str, Kind] = {
    "encoder": Kind(encoders.LAYERS, Encoder),
    "prior": Kind(priors.LAYERS, Prior),
    "expander": Kind(expanders.LAYERS, Expander),
    "head": Kind(heads.LAYERS, Head),
    "schedule": Kind(SCHEDULES, Schedule),
    "penalty": Kind(PENALTIES, Penalty),
    "tokenizer": Kind(TOKENIZERS, Tokenizer),
}
"""The kinds of parts that `register` takes."""


def register(kind: str, name: str, part: Callable[..., Any], **properties: Any) -> None:
    """Make a function a choice of the configuration: `register("prior", "mine", function)`.

    `kind` is one of `KINDS`. `part` is called as the entries of the table of its kind are: `LAYERS`
    in the module of a slot, `SCHEDULES` and `PENALTIES` in `kvae.objectives`. A tokenizer is a
    function from a text to its units. An encoder may be a `kvae.encoders.Layers`. `properties` are
    the fields of the row in `kvae.slots`, or of `kvae.serving.tokenizers.Tokenizer`. Raises
    `ConfigError` for an unknown kind or property, a name that exists and a part that is no
    function.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind must be {quoted_list(KINDS, 'or')}, got {short_repr(kind)}")
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(
            f"the name of a part consists of letters, digits and _, got {short_repr(name)}"
        )
    if name in names_of(kind):
        raise ConfigError(f"{kind} {name!r} exists already; give another name")
    if not callable(part) and not isinstance(part, encoders.Layers):
        raise ConfigError(f"{kind} {name!r} must be a function, got {short_repr(part)}")
    check_properties(kind, properties)
    if kind != "tokenizer":  # whose part has its properties
        ROWS[kind][name] = KINDS[kind].row(**properties)
    KINDS[kind].table[name] = MADE.get(kind, function)(part, properties)
    OWN[kind].add(name)


def check_properties(kind: str, given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for properties that a kind does not have."""
    names = [item.name for item in fields(KINDS[kind].row) if item.name != "units"]
    for name in given:
        if name not in names:
            raise ConfigError(
                f"{kind}: no property {name!r}; its properties are {quoted_list(names)}"
            )


def function(part: Any, properties: Mapping[str, Any]) -> Any:
    """A part that is in its table as it is."""
    return part


def layers_of_encoder(part: Any, properties: Mapping[str, Any]) -> encoders.Layers:
    """The layers of an encoder, from them or from its function alone."""
    return part if isinstance(part, encoders.Layers) else encoders.Layers(part)


def tokenizer(part: Any, properties: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer with a function to split texts; `properties` replace its other fields."""
    return Tokenizer(**{**OWN_DEFAULTS, **properties, "units": part})


MADE: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "encoder": layers_of_encoder,
    "tokenizer": tokenizer,
}
"""Functions that make the entry of a table from a part and its properties, for kinds whose entry is
not the part itself."""
