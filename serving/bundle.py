"""The bundle format: a folder with a `manifest.json` and one ONNX file per endpoint, each file named with size and sha256.

Reading trusts nothing: the manifest carries the sha256 of itself, and every file is compared before a byte of it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BundleError

FORMAT = "kvae-bundle"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
METADATA_KEY = "kvae"
"""Under this key every ONNX file repeats the manifest (without the list of files) in its metadata."""

REQUIRED = ("endpoints", "latent", "length", "mode", "model_id", "parity", "seed_test", "vocabulary")
"""What a manifest must say for a `Sampler` to work; the rest is for people."""

ENTRY = {"file", "size", "sha256"}
"""What it must say of each endpoint; the file lies in the bundle's own folder."""

ENDPOINTS = ("sampler", "encoder", "prior")
"""`sampler`: z and choices to ids. `encoder`: tokens to the posterior. `prior`: seed and row numbers to z."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: what the manifest says, and the bytes of each endpoint's graph."""

    path: Path
    manifest: Mapping[str, Any]
    graphs: Mapping[str, bytes]


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify all of a bundle; raises `BundleError` that says what is wrong and what to do."""
    path = Path(path).expanduser()
    manifest = read_manifest(path)
    return Bundle(
        path, manifest, {name: read_graph(path, name, entry) for name, entry in manifest["endpoints"].items()}
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, known to be ours, of a version we read, and unchanged since it was written."""
    if not path.exists():
        raise BundleError(f"{path}: no such bundle; make one with `kvae export RUN {path}`")
    file = path / MANIFEST
    if not file.is_file():
        what = "a folder without a manifest.json" if path.is_dir() else "a file; a bundle is a folder"
        raise BundleError(f"{path}: not a kvae bundle, it is {what}; give the folder that `kvae export` wrote")
    try:
        text = file.read_text(encoding="utf-8")
        manifest = json.loads(text)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{file}: damaged, it is not JSON ({error}); copy the bundle again or export it anew"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{file}: not the manifest of a kvae bundle; give the folder that `kvae export` wrote")
    version = manifest.get("format_version")
    if version not in range(1, FORMAT_VERSION + 1):
        raise BundleError(f"{path}: bundle format {version}, this kvae reads 1 to {FORMAT_VERSION}; update kvae")
    if text != manifest_text(manifest):
        raise BundleError(
            f"{file}: changed since it was written (its sum differs); copy the bundle again or export it anew"
        )
    missing = [name for name in REQUIRED if name not in manifest]
    missing += [name for name in ENDPOINTS if not missing and set(manifest["endpoints"].get(name, ())) != ENTRY]
    if missing:
        raise BundleError(f"{path}: the manifest lacks {missing[0]!r}; export it anew")
    return manifest


def read_graph(path: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    """The bytes of one endpoint, of the size and sha256 that the manifest gives."""
    file = path / entry["file"]
    if file.parent != path:
        raise BundleError(f"{path}: the manifest names a file outside the bundle ({entry['file']}); do not use it")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy the bundle again, all its files") from error
    if len(content) != entry["size"]:
        raise BundleError(
            f"{file}: truncated or extended, {len(content):,} bytes instead of {entry['size']:,}; copy it again"
        )
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(
            f"{file}: damaged, its sha256 is not the one in the manifest; copy it again or export it anew"
        )
    return content


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as its file holds it, the sha256 of all the rest included: any other spelling is a changed file."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**rest, "sha256": digest}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
