"""Helpers with which the studies make their rows, statements and chapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

from kvae.configuration import Config
from kvae.presets import SMALL, preset

from ..reproduction import OVERALL, Numbers, Row

OWN_AIM = "our own aim"

AT_ONCE = {"objective__ramp_start": 0, "objective__ramp_steps": 0}
"""Settings with which the KL counts in full from the first step on."""

STEPS_WORTH_COMPILING = 800
"""The number of steps from which on XLA saves more time than compilation takes, on two cores."""


def with_steps(config: Config, steps: int, batch_size: int, **settings: Any) -> Config:
    """The configuration with `steps` training steps in four epochs.

    The ramp of the KL weight takes half of the steps: the first half with an auxiliary loss, the
    middle half without one, where S17 starts the ramp later. `settings` are further settings, with
    `__` for the dot of their keys.
    """
    start = 0 if config.model.auxiliary else steps // 4
    ramp = (
        {"objective.ramp_start": start, "objective.ramp_steps": steps // 2}
        if config.objective.beta_max
        else {}
    )
    return config.with_settings(
        {
            "training.epochs": 4,
            "training.steps_per_epoch": steps // 4,
            "training.batch_size": batch_size,
            "training.jit_compile": steps >= STEPS_WORTH_COMPILING,
            **ramp,
            **dotted(settings),
        }
    )


def dotted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their keys, from names with `__` for the dot of a key."""
    return {name.replace("__", "."): value for name, value in settings.items()}


def windows(name: str, length: int, small_steps: int, scale: str, **settings: Any) -> Config:
    """A preset on windows of `length` characters of Penn Treebank.

    At scale `small` it is the preset's small size with `small_steps` steps of 32 windows.
    `settings` are further settings, with `__` for the dot of their keys.
    """
    config = with_steps(preset(name + SMALL), small_steps, 32) if scale == "small" else preset(name)
    return config.with_settings(
        {
            "data.source": "ptb-char",
            "model.length": length,
            **dotted(settings),
        }
    )


def means_over_seeds(numbers: Numbers) -> Numbers:
    """The means over all seeds, even if `numbers` are those of a single seed."""
    return cast(Numbers, numbers.get(OVERALL, numbers))


def is_rising(values: Sequence[float]) -> bool:
    """Whether each value is greater than the one before."""
    return all(later > earlier for earlier, later in pairwise(values))


FIGURE_COLUMNS = {
    "elbo": "bound",
    "kl": "KL",
    "bits_per_character": "bits a character",
    "active_units": "active units",
    "mutual_information": "information",
}

SCALES = ("small", "paper")


def scales(rows: Callable[[str], list[Row]]) -> dict[str, Callable[[], list[Row]]]:
    """`Study.scales` of a function that makes the rows of a scale."""
    return {scale: partial(rows, scale) for scale in SCALES}


def chapter_text(text: str | None, **numbers: int) -> str:
    """The text of a chapter: the docstring of its module, formatted with `numbers`."""
    return " ".join((text or "").split()).format(**numbers)
