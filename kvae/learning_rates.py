"""Learning-rate schedules of kvae's own. A `.keras` file names the one it was trained with, so they live beside the model:
whatever loads a TextVAE knows them."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

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
