"""The optimizer of a configuration: Adam, a learning-rate schedule, and clipping by global norm."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kvae.configuration import TrainingConfig

DECAY_EPOCH = 1000
"""Steps of what Semeniuta et al. 2017 call an epoch, whatever the size of the corpus."""


@keras.saving.register_keras_serializable("kvae")
class HeldExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """`rate` for `hold` epochs of `DECAY_EPOCH` steps, then times `decay` once for each epoch that begins."""

    def __init__(self, rate: float, decay: float, hold: int) -> None:
        self.rate, self.decay, self.hold = rate, decay, hold

    def __call__(self, step: Any) -> Any:
        epoch = ops.floor(ops.cast(step, "float32") / DECAY_EPOCH)
        return self.rate * self.decay ** ops.maximum(epoch - self.hold + 1.0, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "decay": self.decay, "hold": self.hold}


def optimizer(config: TrainingConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba 2015) as the configuration says, for a run of `total_steps`."""
    return keras.optimizers.Adam(
        schedule(config, total_steps),
        global_clipnorm=config.clip_norm or None,
        weight_decay=config.weight_decay or None,
    )


def schedule(config: TrainingConfig, total_steps: int) -> Any:
    """The learning rate: a number or a schedule over steps."""
    rate = config.learning_rate
    if config.learning_rate_schedule == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, total_steps)
    if config.learning_rate_schedule == "exponential":
        return HeldExponentialDecay(rate, config.learning_rate_decay, config.learning_rate_hold)
    return rate
