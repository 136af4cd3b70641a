"""Learning rates over the steps of a run."""

import numpy as np
import pytest

from kvae.configuration import TrainingConfig
from kvae.training.optimizers import optimizer, schedule

pytestmark = pytest.mark.both


def test_cosine_falls_from_the_rate_to_zero() -> None:
    rate = schedule(
        TrainingConfig(learning_rate=0.1, learning_rate_schedule="cosine"), total_steps=100
    )
    found = [float(rate(step)) for step in (0, 50, 100)]
    assert found == pytest.approx([0.1, 0.05, 0.0], abs=1e-7)


def test_a_warm_up_rises_to_the_rate_and_the_decay_still_ends_with_the_run() -> None:
    config = TrainingConfig(learning_rate=0.1, learning_rate_warmup=20)
    rate = schedule(config, total_steps=100)
    assert [float(rate(step)) for step in (0, 10, 20, 60, 100)] == pytest.approx(
        [0.0, 0.05, 0.1, 0.05, 0.0], abs=1e-7
    )


def test_exponential_holds_for_twenty_thousand_steps_and_then_falls_every_thousand() -> None:
    config = TrainingConfig(learning_rate=1.0, learning_rate_schedule="exponential")
    rate = schedule(config, total_steps=100_000)
    found = [float(rate(np.int64(step))) for step in (0, 19_999, 20_000, 20_999, 21_000)]
    assert found == pytest.approx([1.0, 1.0, 0.95, 0.95, 0.9025])


def test_constant_is_constant_and_gradients_are_clipped() -> None:
    config = TrainingConfig(learning_rate=0.5, learning_rate_schedule="constant", clip_norm=2.0)
    made = optimizer(config, total_steps=10)
    assert (float(made.learning_rate), made.global_clipnorm) == (0.5, 2.0)
