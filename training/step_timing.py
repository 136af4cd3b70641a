"""The time that a training step takes."""

from __future__ import annotations

import statistics
import time
from itertools import islice

from kvae.model import TextVAE, computing_in

from .data.batches import training_feed
from .data.prepare import Prepared
from .optimizers import optimizer

WARM_UP = 3
"""Steps that are not timed, because they compile."""

SECONDS, STEPS = 6.0, 40
"""Largest time and number of the timed steps."""


def step_seconds(prepared: Prepared) -> float:
    """The median seconds of a training step of a model that is thrown away.

    Batches of another length may be compiled anew, and other programs may take the machine for a
    moment; neither changes the median.
    """
    settings = prepared.config.training
    with computing_in(settings.precision):
        model = TextVAE(prepared.config.model, prepared.config.objective)
    model.compile(optimizer(settings, 1000), jit_compile=settings.jit_compile)
    batches = training_feed(prepared, 0).batches()
    for batch in islice(batches, WARM_UP):
        model.train_on_batch(batch)
    times = list[float]()
    for batch in islice(batches, STEPS):
        started = time.monotonic()
        model.train_on_batch(batch)
        times.append(time.monotonic() - started)
        if sum(times) > SECONDS:
            break
    return statistics.median(times)
