"""Reading a bundle: twelve ways to be broken, each with its own words, none with a traceback of somebody else's."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kvae.serving import BundleError, Sampler
from kvae.serving.bundle import FORMAT_VERSION, manifest_text


def rewrite(bundle: Path, **changes: object) -> None:
    manifest = {**json.loads((bundle / "manifest.json").read_text()), **changes}
    manifest = {key: value for key, value in manifest.items() if value is not None}
    (bundle / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 0x01
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def replace_with_a_file(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.write_text("not a folder")


def other_graph(bundle: Path) -> None:
    """Somebody else's bytes under a manifest that vouches for them."""
    import hashlib

    content = b"not an ONNX file at all"
    (bundle / "sampler.onnx").write_bytes(content)
    endpoints = json.loads((bundle / "manifest.json").read_text())["endpoints"]
    endpoints["sampler"] = {"file": "sampler.onnx", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(bundle, endpoints=endpoints)


def elsewhere(bundle: Path) -> None:
    endpoints = json.loads((bundle / "manifest.json").read_text())["endpoints"]
    shutil.copy(bundle / "prior.onnx", bundle.parent)
    rewrite(bundle, endpoints={**endpoints, "prior": {**endpoints["prior"], "file": "../prior.onnx"}})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no such bundle"),
    "a file": (replace_with_a_file, "not a kvae bundle, it is a file"),
    "an empty folder": (
        lambda bundle: [file.unlink() for file in bundle.iterdir()],
        "a folder without a manifest.json",
    ),
    "manifest is text": (lambda bundle: (bundle / "manifest.json").write_text("hello"), "it is not JSON"),
    "manifest is binary": (lambda bundle: (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00"), "it is not JSON"),
    "manifest is a list": (
        lambda bundle: (bundle / "manifest.json").write_text("[]"),
        "not the manifest of a kvae bundle",
    ),
    "somebody else's manifest": (
        lambda bundle: (bundle / "manifest.json").write_text('{"name": "app"}'),
        "not the manifest of a kvae bundle",
    ),
    "a newer format": (lambda bundle: rewrite(bundle, format_version=FORMAT_VERSION + 1), "update kvae"),
    "an edited manifest": (lambda bundle: flip(bundle / "manifest.json", 40), "manifest.json"),
    "an endpoint too few": (lambda bundle: rewrite(bundle, endpoints={}), "lacks 'sampler'"),
    "no vocabulary": (lambda bundle: rewrite(bundle, vocabulary=None), "lacks 'vocabulary'"),
    "format 0": (
        lambda bundle: rewrite(bundle, format_version=0),
        "bundle format 0, this kvae reads 2; export it anew",
    ),
    "a file elsewhere": (elsewhere, "names a file outside the bundle"),
    "a missing file": (lambda bundle: (bundle / "encoder.onnx").unlink(), "encoder.onnx: is missing"),
    "an empty file": (
        lambda bundle: (bundle / "prior.onnx").write_bytes(b""),
        "prior.onnx: truncated or extended, 0 bytes",
    ),
    "a truncated file": (lambda bundle: truncate(bundle / "sampler.onnx"), "sampler.onnx: truncated"),
    "a flipped byte": (lambda bundle: flip(bundle / "sampler.onnx", 5000), "sampler.onnx: damaged"),
    "another tokenizer": (lambda bundle: rewrite(bundle, vocabulary={"tokenizer": "wordpiece"}), "tokenizer 'char'"),
    "a graph that is none": (other_graph, "sampler.onnx: not an ONNX file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_bundle_is_refused_in_one_line_that_names_the_damage(
    bundle_folder: Path, tmp_path: Path, damage: str
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    spoil, message = DAMAGE[damage]
    spoil(bundle)
    with pytest.raises(BundleError) as caught:
        Sampler.load(bundle)
    assert message in str(caught.value)
    assert str(bundle) in str(caught.value) or damage == "another tokenizer"
    assert "\n" not in str(caught.value)


def test_every_single_flipped_byte_of_a_manifest_is_found(bundle_folder: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    original = (bundle / "manifest.json").read_bytes()
    for position in range(0, len(original), 37):
        (bundle / "manifest.json").write_bytes(original)
        flip(bundle / "manifest.json", position)
        with pytest.raises(BundleError):
            Sampler.load(bundle)


def test_reading_a_bundle_changes_nothing_in_it(bundle_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle_folder.iterdir()}
    Sampler.load(bundle_folder).sample(2, seed=0)
    assert {path.name: path.read_bytes() for path in bundle_folder.iterdir()} == before
