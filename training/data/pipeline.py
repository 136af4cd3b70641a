"""What feeds training and validation: a tf.data pipeline on TensorFlow, else a `PyDataset`.

A batch contains tokens (B, T) int32, and the attribute (B,) of each text if the corpus has
attributes. With length buckets it has only as many positions as its longest text needs. The content
of a batch depends only on the seed and the training step, on every backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from .batches import Feed, training_feed, validation_feed
from .prepare import Prepared


def training_batches(prepared: Prepared) -> Any:
    """One pass over the training split, for `model.fit(..., epochs=N)`.

    Every iteration makes the next pass, in an order of its own.
    """
    return batches_of(training_feed(prepared))


def training_stream(prepared: Prepared, first_step: int = 0) -> Any:
    """The batches of the steps from `first_step` on, without end; they depend only on the seed."""
    return batches_of(training_feed(prepared, first_step))


def validation_batches(prepared: Prepared, batch_size: int = 128, parts: int = 1) -> Any:
    """Batches of the held-out split, each divisible into `parts` equal parts.

    Fewer than `parts` texts at the end are left out for that. With length buckets the shortest
    texts come first.
    """
    return batches_of(validation_feed(prepared, batch_size, parts))


def batches_of(feed: Feed) -> Any:
    """The batches of `feed` in the form that the backend trains from."""
    if keras.backend.backend() != "tensorflow":
        return Batches(feed)
    from .tensorflow_pipeline import dataset_of

    return dataset_of(feed)


class Batches(keras.utils.PyDataset):
    """The batches of a feed. Iterating makes a pass; so does Keras, from batch 0 on.

    Outside an epoch `self[index]` belongs to the next pass.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self.feed, self.passes, self.is_in_epoch = feed, 0, False
        self.reading: Iterator[Any] = iter(())
        self.next_index = 0

    @property
    def num_batches(self) -> int | None:
        return self.feed.count

    def __len__(self) -> int:
        if self.feed.count is None:
            raise TypeError("these batches have no end")
        return self.feed.count

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return self.feed.batches(self.passes - 1)

    def __getitem__(self, index: int) -> Any:
        if self.is_in_epoch and index == 0:
            self.reading, self.next_index = iter(self), 0
        if not self.is_in_epoch or index != self.next_index:
            number = self.feed.number(index, self.passes - self.is_in_epoch)
            return next(self.feed.read(np.array([number])).batches())
        self.next_index += 1
        return next(self.reading)

    def on_epoch_begin(self) -> None:
        self.is_in_epoch = True

    def on_epoch_end(self) -> None:
        self.is_in_epoch = False
