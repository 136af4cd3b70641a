"""The choices of a setting, with those that a program registers or a package brings."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from kvae.serving.errors import ConfigError, KvaeError, first_line
from kvae.serving.tokenizers import TOKENIZERS

from .slots import PENALTIES, SCHEDULES, SLOTS

ROWS: dict[str, dict[str, Any]] = {
    **SLOTS,
    "penalty": PENALTIES,
    "schedule": SCHEDULES,
    "tokenizer": TOKENIZERS,
}
"""The choices of each kind by name, with their properties."""

GROUP = "kvae.parts"
"""The group of entry points that are loaded when a configuration names an unknown choice."""

OWN: dict[str, set[str]] = {
    "encoder": set(),
    "prior": set(),
    "expander": set(),
    "head": set(),
    "schedule": set(),
    "penalty": set(),
    "tokenizer": set(),
}
"""The kinds of parts that `kvae.register` takes, each with the names of registered parts."""


def names_of(kind: str) -> tuple[str, ...]:
    """The choices of a setting, those of kvae first."""
    return tuple(ROWS[kind])


def is_own(kind: str, name: str) -> bool:
    """Whether a choice was registered, and is none of kvae's."""
    return name in OWN[kind]


def choices_of(kind: str, wanted: Any) -> tuple[str, ...]:
    """The choices of a setting. If `wanted` is none of them, entry points of its name are loaded
    first. Raises `ConfigError` if one fails."""
    if kind in OWN and isinstance(wanted, str) and wanted not in names_of(kind):
        load_entry_points(kind, wanted)
    return names_of(kind)


def load_entry_points(kind: str, name: str) -> None:
    """Load the entry points called `name`, whose modules call `kvae.register`."""
    for entry in entry_points(group=GROUP, name=name):
        source = f"the entry point {name!r} of {GROUP} ({entry.value})"
        try:
            entry.load()
        except KvaeError:
            raise
        except Exception as error:  # whatever a foreign module raises
            raise ConfigError(
                f"{source} cannot be loaded: {type(error).__name__}: {first_line(error)}"
            ) from error
        if name not in names_of(kind):
            raise ConfigError(f"{source} has not registered the {kind} {name!r}")
