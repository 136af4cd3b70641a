"""Learning-rate schedules that Keras does not have.

A `.keras` file names the schedule of its optimizer. The schedules are therefore registered with the
model, so that whatever loads a TextVAE can load them.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from .tensors import Tensor

DECAY_EPOCH = 1000
"""Steps of an epoch in Semeniuta et al. 2017, whatever the size of the corpus."""


@keras.saving.register_keras_serializable("kvae")
class HeldExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate `rate` for `hold` epochs, then multiplied by `decay` once per epoch.

    An epoch has `DECAY_EPOCH` steps.
    """

    def __init__(self, rate: float, decay: float, hold: int) -> None:
        self.rate, self.decay, self.hold = rate, decay, hold

    def __call__(self, step: Tensor) -> Tensor:
        epoch = ops.floor(ops.cast(step, "float32") / DECAY_EPOCH)
        return self.rate * self.decay ** ops.maximum(epoch - self.hold + 1.0, 0.0)

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "decay": self.decay, "hold": self.hold}
