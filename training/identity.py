"""The identity of a run and the fingerprint of its texts. Checkpoints repeat both, so that they fit
one run only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kvae.runs import IDENTITY, read_json

from .data.prepare import Prepared
from .data.rows import Rows
from .evaluation import evenly_spaced


def identity_of(out: Path) -> str | None:
    """The identity of the run in `out`; None for a run of an earlier version without one."""
    file = out / IDENTITY
    return (
        read_json(file, "remove this file, its checkpoints name the run too").get("run")
        if file.is_file()
        else None
    )


def fingerprint(prepared: Prepared) -> str:
    """Sixteen hexadecimal digits for the texts and labels of a run: a hash of their numbers and of
    a thousand of each."""
    train = prepared.train
    positions = np.linspace(0, len(train) - 1, min(1000, len(train))).astype(np.int64)
    rows = train.take(positions) if isinstance(train, Rows) else train.take(positions, 1)
    digest = hashlib.sha256(f"{len(train)} {len(prepared.validation)} ".encode())
    for values in (
        rows,
        evenly_spaced(prepared.validation, 1000),
        prepared.train_attribute,
        prepared.validation_attribute,
    ):
        if values is not None:
            digest.update(np.ascontiguousarray(values).astype(np.int32).tobytes())
    return digest.hexdigest()[:16]
