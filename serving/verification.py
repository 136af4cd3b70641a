"""Checking a bundle anywhere, with numpy and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bundle import ENDPOINTS
from .errors import CheckFailed
from .sampler import Sampler

SEED_TEST_SECONDS = 600.0
"""A graph that has not written the texts of its seed test by then is taken for one that never ends."""


def seed_test_texts(sampler: Sampler, test: Mapping[str, Any]) -> list[str]:
    """What a bundle writes at the rows and seed of its seed test, empty texts allowed."""
    return sampler.sample(test["rows"], test["seed"], min_length=0, deadline=SEED_TEST_SECONDS)


def verify(path: str | Path) -> dict[str, Any]:
    """Read every file, compare all sums, look through every graph for what does not belong there, start it, and sample the
    texts that the manifest remembers.

    Returns what was checked, with the parity record of the export; raises `BundleError` for files that are not as they
    were written, `CheckFailed` when the sampler writes other texts than it did when it was exported, and `DeadlineError`
    when it has written none after `SEED_TEST_SECONDS`.
    """
    sampler = Sampler.load(path, endpoints=ENDPOINTS)
    remembered = sampler.manifest["seed_test"]
    texts = seed_test_texts(sampler, remembered)
    if texts != remembered["texts"]:
        raise CheckFailed(
            f"{path}: seed {remembered['seed']} gives {texts}, at export it gave {remembered['texts']}; report this platform"
        )
    return {
        "bundle": str(path),
        "model_id": sampler.manifest["model_id"],
        "files": len(sampler.manifest["endpoints"]),
        "seed_test_texts": len(texts),
        "parity_at_export": sampler.manifest["parity"],
        **(
            {"quantization": sampler.manifest["quantization"]}
            if "quantization" in sampler.manifest
            else {}
        ),
    }
