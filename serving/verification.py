"""Verification of a bundle with numpy and onnxruntime alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import CheckFailed
from .manifest import ENDPOINTS
from .sampler import Sampler

SEED_TEST_SECONDS = 600.0
"""Time limit of the seed test; a graph that takes longer is assumed never to end."""


def seed_test_texts(sampler: Sampler, test: Mapping[str, Any]) -> list[str]:
    """The texts that a bundle samples for the rows and seed of its seed test, at temperature 1;
    empty texts are allowed."""
    return sampler.sample(
        test["rows"], test["seed"], temperature=1.0, min_length=0, deadline=SEED_TEST_SECONDS
    )


def verify(path: str | Path) -> dict[str, Any]:
    """Verify a bundle: read every file, compare checksums, check the contents of every graph, load
    it, and compare the texts of the seed test with those in the manifest.

    Returns what was checked, with the parity record of the export. Raises `BundleError` for files
    that have changed, `CheckFailed` if the sampler returns other texts than at export, and
    `DeadlineError` if it takes longer than `SEED_TEST_SECONDS`.
    """
    sampler = Sampler.load(path, endpoints=ENDPOINTS)
    latent_map = sampler.latent_map
    seed_test = sampler.manifest["seed_test"]
    texts = seed_test_texts(sampler, seed_test)
    if texts != seed_test["texts"]:
        raise CheckFailed(
            f"{path}: seed {seed_test['seed']} gives {texts}, at export it gave "
            f"{seed_test['texts']}; report this platform"
        )
    return {
        "bundle": str(path),
        "model_id": sampler.manifest["model_id"],
        "files": len(sampler.manifest["endpoints"]),
        "seed_test_texts": len(texts),
        "map_texts": len(latent_map["points"]["text"]) if latent_map else 0,
        "parity_at_export": sampler.manifest["parity"],
        **(
            {"quantization": sampler.manifest["quantization"]}
            if "quantization" in sampler.manifest
            else {}
        ),
    }
