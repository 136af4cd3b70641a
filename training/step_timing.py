"""The time that a training step takes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import keras

from .data.pipeline import training_stream
from .data.prepare import Prepared
from .experiment import build_model
from .fit import compile_for
from .messages import quiet

WARM_UP = 3
"""Steps that are not timed, because they compile."""

SECONDS, STEPS = 6.0, 40
"""Largest time and number of the timed steps."""


class StepTimes(keras.callbacks.Callback):
    """Notes when each step ends, and stops training after the last timed one."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = list[float]()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.ends.append(time.monotonic())
        if len(self.ends) > WARM_UP and self.ends[-1] - self.ends[WARM_UP - 1] > SECONDS:
            self.model.stop_training = True

    @property
    def seconds(self) -> float:
        """The median seconds of a timed step."""
        pairs = itertools.pairwise(self.ends[WARM_UP - 1 :])
        return statistics.median(end - start for start, end in pairs)


def step_seconds(prepared: Prepared) -> float:
    """The median seconds of a training step of a model that is thrown away.

    Batches of another length may be compiled anew, and other programs may take the machine for a
    moment; neither changes the median.
    """
    model, times = build_model(prepared, quiet), StepTimes()
    compile_for(model, prepared)
    batches, steps = training_stream(prepared, 0), WARM_UP + STEPS
    model.fit(batches, steps_per_epoch=steps, callbacks=[times], verbose=0, shuffle=False)
    return times.seconds
