"""The optimizer of a configuration: Adam, a learning-rate schedule, and clipping by global norm."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kvae.configuration import TrainingConfig


@keras.saving.register_keras_serializable("kvae")
class HeldExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`rate` for `hold` epochs, then multiplied by `decay` at each epoch's start (Semeniuta et al. 2017, 4)."""

    def __init__(self, rate: float, decay: float, hold: int, steps_per_epoch: int) -> None:
        self.rate, self.decay, self.hold, self.steps_per_epoch = rate, decay, hold, steps_per_epoch

    def __call__(self, step: Any) -> Any:
        epoch = ops.floor(ops.cast(step, "float32") / self.steps_per_epoch)
        return self.rate * self.decay ** ops.maximum(epoch - self.hold, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "decay": self.decay, "hold": self.hold, "steps_per_epoch": self.steps_per_epoch}


def optimizer(config: TrainingConfig, total_steps: int, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba 2015) as the configuration says, for a run of `total_steps`."""
    return keras.optimizers.Adam(
        schedule(config, total_steps, steps_per_epoch), global_clipnorm=config.clip_norm or None
    )


def schedule(config: TrainingConfig, total_steps: int, steps_per_epoch: int) -> Any:
    """The learning rate: a number or a schedule over steps."""
    rate = config.learning_rate
    if config.learning_rate_schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, total_steps)
    if config.learning_rate_schedule == "exponential":
        return HeldExponentialDecay(rate, config.learning_rate_decay, config.learning_rate_hold, steps_per_epoch)
    return rate
