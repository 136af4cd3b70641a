"""Event files as TensorBoard reads them, written without TensorFlow."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter

NUMBERS = itertools.count()
"""They keep the files apart that a process opens in the same second."""


class EventWriter:
    """Appends summaries to a new event file of `folder`, each with its name and step."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        owner = f"{socket.gethostname()}.{os.getpid()}.{next(NUMBERS)}"
        self.file = (folder / f"events.out.tfevents.{int(time.time()):010}.{owner}").open("wb")
        self.records = RecordWriter(self.file)
        self.write(file_version="brain.Event:2")

    def scalar(self, name: str, step: int, value: float, description: str | None = None) -> None:
        self.write(step=step, summary=scalar_pb(name, value, description))

    def text(self, name: str, step: int, text: str) -> None:
        self.write(step=step, summary=text_pb(name, text))

    def histogram(self, name: str, step: int, values: np.ndarray) -> None:
        self.write(step=step, summary=histogram_pb(name, values))

    def settings(self, values: Mapping[str, Any], trial: str) -> None:
        """Write a row of the HParams table."""
        self.write(step=0, summary=hparams_pb(values, trial_id=trial))

    def write(self, **content: Any) -> None:
        self.records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def __del__(self) -> None:  # of a run that was stopped
        if hasattr(self, "file"):
            self.file.close()
