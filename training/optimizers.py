"""The optimizer of a configuration: Adam, a learning-rate schedule, clipping by global norm."""

from __future__ import annotations

import keras

from kvae.configuration import TrainingConfig
from kvae.learning_rates import HeldExponentialDecay


def optimizer(config: TrainingConfig, total_steps: int) -> keras.optimizers.Optimizer:
    """Adam (Kingma and Ba 2015) with the settings of `config`, for a run of `total_steps` steps."""
    return keras.optimizers.Adam(
        schedule(config, total_steps),
        global_clipnorm=config.clip_norm or None,
        weight_decay=config.weight_decay or None,
    )


def schedule(
    config: TrainingConfig, total_steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate: a constant or a schedule over steps."""
    rate = config.learning_rate
    if config.learning_rate_schedule == "cosine":
        warmup = min(config.learning_rate_warmup, total_steps - 1)
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(rate, total_steps)
        return keras.optimizers.schedules.CosineDecay(
            0.0, total_steps - warmup, warmup_target=rate, warmup_steps=warmup
        )
    if config.learning_rate_schedule == "exponential":
        return HeldExponentialDecay(rate, config.learning_rate_decay, config.learning_rate_hold)
    return rate
