"""How a model learns."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # mypy holds the steps of both backends to their protocol
    from kvae.steps import Steps

    from . import jax_step, tensorflow_step

    STEPS: tuple[Steps, Steps] = (tensorflow_step, jax_step)
