"""Sections of a configuration: frozen dataclasses whose fields are checked by their annotations.

The annotation of a field is its rule. `Literal` lists the choices, `tuple[int, ...]` is a list of
whole numbers. The choices of a slot are in `kvae.slots`. The metadata of a
field holds its bounds; a field without bounds has those of its type. A value that breaks a rule
raises `ConfigError` with the field, the rule, the value and the nearest valid name.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, fields
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from kvae.serving.errors import ConfigError, short_repr

from .choices import choices_of

LARGEST_SIZE = 2**16
"""Largest number of units, filters, components or dimensions of one layer."""

LARGEST_NUMBER = {int: 2**31 - 1, float: 1e30}
"""Maximum of int and float fields that set none: every backend can count and compute with these."""

LONGEST_TEXT = 10_000
"""Maximum length of a string setting, for example a path or a label, in characters."""

MOST_LAYERS = 64
MOST_ATTRIBUTES = 2**16


def bounded(
    default: Any, minimum: float, maximum: float | None = None, max_items: int = MOST_LAYERS
) -> Any:
    """A field whose numbers lie in [minimum, maximum]; a list has at most `max_items` of them."""
    return field(
        default=default, metadata={"minimum": minimum, "maximum": maximum, "max_items": max_items}
    )


def sized(default: Any, minimum: int) -> Any:
    """A field for one or several layer sizes."""
    return bounded(default, minimum, LARGEST_SIZE)


def slot(default: str) -> Any:
    """A field whose choices are the rows of its table in `kvae.choices.ROWS`, with those that are
    registered."""
    return field(default=default, metadata={"slot": True})


class Section:
    """Base class of the parts of a configuration: checks its fields, converts to and from
    dictionaries."""

    def __post_init__(self) -> None:
        for name, rule in rules(type(self)).items():
            object.__setattr__(
                self, name, checked_value(type(self), name, rule, getattr(self, name))
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from a plain dictionary. Missing keys take their defaults; an unknown key raises
        `ConfigError`."""
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{section_name(cls)} must be an object of settings, got {short_repr(data)}"
            )
        for key in data:
            if key not in rules(cls):
                raise ConfigError(
                    f"{section_name(cls)} has no key {short_repr(key)}"
                    f"{nearest(str(key), rules(cls))}"
                )
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a plain dictionary, ready for JSON."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # type: ignore[call-overload]
        return data


LONGEST_NAME = 100
"""Number of characters of an unknown name that are compared with the known names."""


def nearest(word: str, names: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the closest known name, or all of them."""
    names = list(names)
    close = difflib.get_close_matches(word[:LONGEST_NAME], names, n=1, cutoff=0.6)
    return (
        f"; did you mean {close[0]!r}?"
        if close
        else f"; choose one of {', '.join(map(repr, names))}"
    )


annotations_of = functools.cache(get_type_hints)


def rules(section: Any) -> dict[str, Any]:
    """The fields of a section: name -> annotation."""
    hints = annotations_of(section)
    return {item.name: hints[item.name] for item in fields(section)}


def section_name(section: type) -> str:
    """The name of a section in dotted keys: `ModelConfig` -> `model`."""
    return section.__name__.removesuffix("Config").lower() or "config"


def checked_value(section: Any, name: str, rule: Any, value: Any) -> Any:
    """Convert `value` to the type of a field. Raises `ConfigError` if it breaks the field's
    rule."""
    label = f"{section_name(section)}.{name}"
    if isinstance(rule, type) and issubclass(rule, Section):
        return value if isinstance(value, Section) else rule.from_dict(value)
    bounds = next(item.metadata for item in fields(section) if item.name == name)
    if "slot" in bounds:
        return checked_choice(label, choices_of(name, value), value)
    value = converted_value(label, rule, value)
    low, high = bounds.get("minimum"), bounds.get("maximum")
    for number in value if isinstance(value, tuple) else (value,):
        maximum = LARGEST_NUMBER.get(type(number)) if high is None else high
        too_small = low is not None and number is not None and number < low
        if too_small or (maximum is not None and number > maximum):
            limits = (
                f"at least {low}" if high is None and too_small else f"between {low} and {maximum}"
            )
            raise ConfigError(f"{label} must be {limits}, got {short_repr(number)}")
        if isinstance(number, str) and len(number) > LONGEST_TEXT:
            raise ConfigError(
                f"{label} must be a text of at most {LONGEST_TEXT:,} characters, got "
                f"{len(number):,}"
            )
    if isinstance(value, tuple) and len(value) > bounds.get("max_items", MOST_LAYERS):
        raise ConfigError(
            f"{label} must be a list of at most {bounds.get('max_items', MOST_LAYERS)}, got "
            f"{len(value):,}"
        )
    if "distinct" in bounds and not (all(value) and len(set(value)) == len(value)):
        raise ConfigError(
            f"{label} must differ from each other and be no empty texts, got "
            f"{short_repr(list(value))}"
        )
    return value


def checked_choice(label: str, choices: tuple[Any, ...], value: Any) -> Any:
    """Return `value` if it is one of the choices; otherwise raise `ConfigError`."""
    if value not in choices:
        word = value if isinstance(value, str) else short_repr(value)
        raise ConfigError(f"{label} is {short_repr(value)}{nearest(word, choices)}")
    return value


def converted_value(label: str, rule: Any, value: Any) -> Any:
    """Convert `value` to the annotation `rule`. Raises `ConfigError` if it has another type."""
    if get_origin(rule) is Literal:
        return checked_choice(label, get_args(rule), value)
    if get_origin(rule) in (Union, types.UnionType):
        return None if value is None else converted_value(label, get_args(rule)[0], value)
    if get_origin(rule) is tuple:
        value = (
            [value]
            if isinstance(value, get_args(rule)[0]) and not isinstance(value, bool)
            else value
        )
        if not isinstance(value, list | tuple) or not (value or rule == tuple[str, ...]):
            raise ConfigError(f"{label} must be a list such as [64, 128], got {short_repr(value)}")
        return tuple(converted_value(label, get_args(rule)[0], item) for item in value)
    if rule is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) <= LARGEST_NUMBER[float] else value
    if (
        not isinstance(value, rule)
        or (rule is int and isinstance(value, bool))
        or value in (math.inf, -math.inf)
        or value != value
    ):
        kind = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[
            rule
        ]
        raise ConfigError(f"{label} must be {kind}, got {short_repr(value)}")
    return value
