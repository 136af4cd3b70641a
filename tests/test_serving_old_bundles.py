"""A bundle of format 2, which kvae wrote before format 3, is read as before."""

import json
from pathlib import Path

import numpy as np

from kvae.serving import Sampler
from kvae.serving.verification import verify


def test_a_bundle_of_format_2_is_verified_and_samples_its_texts(old_bundle: Path) -> None:
    manifest = json.loads((old_bundle / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["format_version"] == 2
    assert verify(old_bundle)["seed_test_texts"] == 3
    sampler = Sampler.load(old_bundle)
    texts = sampler.sample(3, seed=7, min_length=0)
    assert texts == manifest["seed_test"]["texts"]
    assert "".join(sampler.stream(seed=7, min_length=0)) == texts[0]


def test_every_graph_of_a_bundle_of_format_2_runs(old_bundle: Path) -> None:
    sampler = Sampler.load(old_bundle)
    codes = sampler.encode(["abc", "d"])
    assert codes.shape == (2, 2)
    assert sampler.reconstruct(["abc", "d"]) == sampler.decode(codes)
    assert np.isfinite([score.bound for score in sampler.score(["abc", "d"])]).all()
