"""What several studies make their rows, statements and chapters from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, cast

from kvae.configuration import Config
from kvae.presets import SMALL, preset

from ..reproduction import OVERALL, Numbers, Row

ISSUE = "our own aim"

WORTH_COMPILING = 800
"""Steps from which on XLA saves more time than it takes to compile, on two cores."""


def lasting(config: Config, steps: int, batch_size: int, **settings: Any) -> Config:
    """The same in so many steps: four epochs, the ramp over the first half with an auxiliary loss and over the middle half
    without one, as S17 begins it later there; other settings by dotted keys with `__` for the dot."""
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
            "training.jit_compile": steps >= WORTH_COMPILING,
            **ramp,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
    )


def windows(name: str, length: int, small_steps: int, scale: str, **settings: Any) -> Config:
    """A preset on windows of Penn Treebank's characters."""
    config = lasting(preset(name + SMALL), small_steps, 32) if scale == "small" else preset(name)
    return config.with_settings(
        {
            "data.source": "ptb-char",
            "model.length": length,
            **{key.replace("__", "."): value for key, value in settings.items()},
        }
    )


def over_seeds(numbers: Numbers) -> Numbers:
    """The means over all seeds, also where the numbers are of one."""
    return cast(Numbers, numbers.get(OVERALL, numbers))


def rising(values: Sequence[float]) -> bool:
    """Whether each is above the one before."""
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
    """Its rows at each scale."""
    return {scale: partial(rows, scale) for scale in SCALES}


def chapter(text: str | None, **numbers: int) -> str:
    """The text of a chapter, from the docstring of its module with `numbers` in their places."""
    return " ".join((text or "").split()).format(**numbers)
