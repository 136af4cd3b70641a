"""Which run a folder holds, and which texts it learns from: what its checkpoints repeat."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from kvae.runs import IDENTITY, read_json

from .corpora import Prepared
from .evaluation import spread
from .store import StoredRows


def identity_of(out: Path) -> str | None:
    """What names the run in `out`; None where an earlier version has begun it."""
    file = out / IDENTITY
    return (
        read_json(file, "remove this file, its checkpoints name the run too").get("run")
        if file.is_file()
        else None
    )


def fingerprint(prepared: Prepared) -> str:
    """Sixteen hexadecimal digits that name the texts of a run and their labels, by their number and a thousand of each."""
    train = prepared.train
    places = np.linspace(0, len(train) - 1, min(1000, len(train))).astype(np.int64)
    if isinstance(train, np.ndarray):
        found = train[places].astype(np.int32)
    else:
        found = train.take(places if isinstance(train, StoredRows) else places[:, None])
    digest = hashlib.sha256(f"{len(train)} {len(prepared.validation)} ".encode())
    for values in (
        found,
        spread(prepared.validation, 1000),
        prepared.train_attribute,
        prepared.validation_attribute,
    ):
        if values is not None:
            digest.update(np.ascontiguousarray(values).astype(np.int32).tobytes())
    return digest.hexdigest()[:16]
