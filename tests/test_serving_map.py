"""The map of a bundle is read with checks, and a bundle without one works."""

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvae.serving import BundleError, Sampler
from kvae.serving.bundle import manifest_text
from kvae.serving.manifest import MAP
from kvae.serving.verification import verify


@pytest.fixture
def copied(map_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(map_folder, tmp_path / "bundle")


def rewritten(bundle: Path, content: bytes) -> None:
    """Put other bytes into the map, with their checksum in the manifest."""
    (bundle / MAP).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["map"].update(entry)
    (bundle / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")


def test_the_map_is_plain_data(map_folder: Path) -> None:
    found = Sampler.load(map_folder).latent_map
    assert found == json.loads((map_folder / MAP).read_text(encoding="utf-8"))


def test_a_point_is_lifted_to_a_code_that_decodes(map_folder: Path) -> None:
    sampler = Sampler.load(map_folder)
    found = sampler.latent_map
    assert found
    x, y = found["points"]["x"][0], found["points"]["y"][0]
    code = np.array(found["mean"]) + x * np.array(found["components"][0])
    assert sampler.decode([code + y * np.array(found["components"][1])])


def test_a_bundle_without_a_map_or_whose_map_was_deleted_has_none(
    bundle_folder: Path, copied: Path
) -> None:
    (copied / MAP).unlink()
    for path in (bundle_folder, copied):
        sampler = Sampler.load(path)
        assert sampler.latent_map is None
        assert sampler.sample(1, seed=0)
        assert verify(path)["map_texts"] == 0


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100])
def test_other_bytes_than_those_of_the_export_are_refused(copied: Path, content: bytes) -> None:
    (copied / MAP).write_bytes(content)
    with pytest.raises(BundleError, match=r"map\.json: damaged.*delete it"):
        _ = Sampler.load(copied).latent_map
    with pytest.raises(BundleError, match="damaged"):
        verify(copied)


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "not finite": (lambda it: it["mean"].__setitem__(0, float("nan")), "mean must be"),
    "infinite": (lambda it: it["points"]["x"].__setitem__(1, float("inf")), "points.x must be"),
    "too many": (lambda it: it["points"].update(x=[0.0] * 501), "points.x must be a list of at"),
    "too long": (lambda it: it["points"]["text"].__setitem__(0, "a" * 201), "points.text must be"),
    "shorter": (lambda it: it["points"]["y"].pop(), "points.y must have 60 values, got 59"),
    "smaller code": (lambda it: it["components"][1].pop(), r"components\[1\] must have 4 values"),
    "three": (lambda it: it["components"].append([0.0] * 4), "components must be a list of at"),
    "one": (lambda it: it["components"].pop(), "components must have 2 values, got 1"),
    "no such": (lambda it: it["dimensions"]["index"].__setitem__(0, 4), "must be below 4, got 4"),
    "labels": (lambda it: it["points"].update(label=["a"] * 60), "points.label must be labels"),
    "share": (lambda it: it["explained_variance"].__setitem__(0, 1.5), "explained_variance must"),
    "missing": (lambda it: it.pop("mean"), "mean is missing"),
    "unknown": (lambda it: it.update(script="x"), "'script' is no field"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_map_whose_sum_is_right_is_refused_in_one_line(copied: Path, change: str) -> None:
    content = copy.deepcopy(json.loads((copied / MAP).read_text(encoding="utf-8")))
    CHANGES[change][0](content)
    rewritten(copied, json.dumps(content).encode())
    with pytest.raises(BundleError, match=CHANGES[change][1]) as raised:
        _ = Sampler.load(copied).latent_map
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"[" * 10**6, b"[]", b"null", b"nonsense", b"\xff\xfe"])
def test_what_is_no_map_at_all_is_refused_in_one_line(copied: Path, content: bytes) -> None:
    rewritten(copied, content)
    with pytest.raises(BundleError, match="export the bundle again") as raised:
        _ = Sampler.load(copied).latent_map
    assert "\n" not in str(raised.value)


def test_a_map_may_not_be_another_file(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text(encoding="utf-8"))
    manifest["map"]["file"] = "../map.json"
    (copied / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"map\.file must be 'map\.json'"):
        Sampler.load(copied)
