"""Verification of a bundle with numpy and onnxruntime alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .runtime import OWN, RUNTIMES
from .sampler import Sampler
from .seed_test import check_seed_test


def verify(path: str | Path, runtime: str = OWN) -> dict[str, Any]:
    """Verify a bundle: read every file, compare checksums, check the contents of every graph, load
    it in a runtime, and compare the texts of the seed test with those in the manifest, also those
    of the plain sampler.

    Returns what was checked, with the parity record of the export. Raises `BundleError` for files
    that have changed, `CheckFailed` if the sampler returns other texts than at export or a foreign
    runtime other numbers than onnxruntime, and `DeadlineError` if it takes longer than
    `SEED_TEST_SECONDS`.
    """
    sampler = Sampler.load(path, endpoints=(), runtime=runtime)
    sampler.load_graphs()
    if "sampler_plain" in sampler.manifest["endpoints"]:
        check_seed_test(Sampler(sampler.bundle, runtime=runtime, plain=True))
    latent_map = sampler.latent_map
    return {
        "bundle": str(path),
        "runtime": f"{runtime} {RUNTIMES[runtime].version()}",
        "model_id": sampler.manifest["model_id"],
        "files": len(sampler.manifest["endpoints"]),
        "seed_test_texts": check_seed_test(sampler),
        "map_texts": len(latent_map["points"]["text"]) if latent_map else 0,
        "parity_at_export": sampler.manifest["parity"],
        **(
            {"quantization": sampler.manifest["quantization"]}
            if "quantization" in sampler.manifest
            else {}
        ),
    }
