"""The bundle format: a folder with a `manifest.json` and one ONNX file per endpoint, each file named with size and sha256.

Reading trusts nothing: the manifest carries the sha256 of itself, and a graph's bytes are compared with their sum, and what
they hold with what a graph of ours may hold, before a runtime sees them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from .errors import BundleError
from .onnx_files import Contents, NotOnnx, contents_of

FORMAT = "kvae-bundle"
FORMAT_VERSION = 2
"""1 had one seed for a whole batch and three endpoints."""

OPSET = 18
"""The ONNX operator set of every graph: the newest that tf2onnx 1.17 writes."""

MANIFEST = "manifest.json"
METADATA_KEY = "kvae"
"""Under this key every ONNX file repeats the manifest (without the list of files) in its metadata."""

REQUIRED = ("endpoints", "latent", "length", "mode", "model_id", "parity", "seed_test", "vocabulary")
"""What a manifest must say for a `Sampler` to work; the rest is for people."""

ENTRY = {"file", "size", "sha256"}
"""What it must say of each endpoint; the file lies in the bundle's own folder."""

ENDPOINTS = ("sampler", "encoder", "prior", "scorer", "expand", "step")
"""What each takes and gives stands in `kvae.export.graphs` and in docs/serving.md."""

OPERATIONS = frozenset(
    """
    Abs Add And ArgMax BitShift BitwiseAnd BitwiseOr BitwiseXor Cast Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos CumSum DequantizeLinear Div Equal Erf Exp Expand Floor GRU Gather GatherElements GatherND
    Gemm Greater GreaterOrEqual Identity If IsInf IsNaN LSTM LayerNormalization Less LessOrEqual Log LogSoftmax
    Loop MatMul MatMulInteger Max Min Mul Neg Not OneHot Or Pad Pow QuantizeLinear Range Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceSum Relu Reshape ReverseSequence Round Shape Sigmoid Sin Slice Softmax Softplus Split
    Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
"""What a graph of ours consists of. None of them reads a file, runs foreign code or draws random numbers of its own."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is verified and whose files are there; `checked_graph` verifies each file."""

    path: Path
    manifest: Mapping[str, Any]


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle; raises `BundleError` that says what is wrong and what to do.

    Its graphs are read when they are needed, and found then too where the program has changed its working folder.
    """
    path = Path(path).expanduser()
    bundle = Bundle(path.absolute(), read_manifest(path))
    for name in ENDPOINTS:
        file_of(bundle, name)
    return bundle


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, known to be ours, of a version we read, and unchanged since it was written."""
    if not path.exists():
        raise BundleError(f"{path}: no such bundle; make one with `kvae export RUN {quote(str(path))}`")
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
    if version != FORMAT_VERSION:
        way_out = "update kvae" if isinstance(version, int) and version > FORMAT_VERSION else "export it anew"
        raise BundleError(f"{path}: bundle format {version}, this kvae reads {FORMAT_VERSION}; {way_out}")
    if text != manifest_text(manifest):
        raise BundleError(
            f"{file}: changed since it was written (its sum differs); copy the bundle again or export it anew"
        )
    missing = [name for name in REQUIRED if name not in manifest]
    missing += [name for name in ENDPOINTS if not missing and set(manifest["endpoints"].get(name, ())) != ENTRY]
    if missing:
        raise BundleError(f"{path}: the manifest lacks {missing[0]!r}; export it anew")
    return manifest


def file_of(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint, known to be there and of the size that the manifest gives."""
    entry = bundle.manifest["endpoints"][name]
    file = bundle.path / entry["file"]
    if file.parent != bundle.path:
        raise BundleError(
            f"{bundle.path}: the manifest names a file outside the bundle ({entry['file']}); do not use it"
        )
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is missing"
        raise BundleError(f"{file}: {what}; copy the bundle again, all its files")
    size = file.stat().st_size
    if size != entry["size"]:
        raise BundleError(f"{file}: truncated or extended, {size:,} bytes instead of {entry['size']:,}; copy it again")
    return file


def checked_graph(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint's graph: of the right sum, of this bundle, and made of nothing but `OPERATIONS`.

    A runtime opens it once more: its bytes in memory beside the runtime's own would be a quarter of what a process takes.
    """
    file = file_of(bundle, name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); copy the bundle again, all its files") from error
    if hashlib.sha256(content).hexdigest() != bundle.manifest["endpoints"][name]["sha256"]:
        raise BundleError(
            f"{file}: damaged, its sha256 is not the one in the manifest; copy it again or export it anew"
        )
    try:
        found = contents_of(content)
    except NotOnnx as error:
        raise BundleError(f"{file}: not an ONNX file ({error}); export the bundle anew") from error
    check_contents(file, found)
    check_metadata(file, name, found.metadata, bundle.manifest)
    return file


def check_contents(file: Path, found: Contents) -> None:
    """Raise `BundleError` for a graph that a runtime should not see."""
    if found.external:
        raise BundleError(f"{file}: keeps numbers in other files, which a bundle never does; export it anew")
    opset = found.opsets.get("", 0)
    if opset != OPSET:
        raise BundleError(f"{file}: written for ONNX operator set {opset}, this kvae reads {OPSET}; export it anew")
    foreign = sorted(found.operations - OPERATIONS)
    if foreign:
        raise BundleError(
            f"{file}: holds operations that no graph of kvae has ({', '.join(foreign)[:80]}); do not use it"
        )


def check_metadata(file: Path, name: str, metadata: Mapping[str, str], manifest: Mapping[str, Any]) -> None:
    """Raise `BundleError` for a graph of another program, another model or another endpoint."""
    if METADATA_KEY not in metadata:
        raise BundleError(f"{file}: no graph of kvae, its metadata do not name one; copy the bundle again")
    try:
        said = json.loads(metadata[METADATA_KEY])
        found = {key: said[key] for key in ("endpoint", "model_id", "format_version")}
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{file}: its metadata are damaged ({type(error).__name__}); export the bundle anew"
        ) from error
    for key, wanted in {"endpoint": name, "model_id": manifest["model_id"], "format_version": FORMAT_VERSION}.items():
        if found[key] != wanted:
            raise BundleError(
                f"{file}: belongs to another bundle, its {key} is {found[key]!r} and not {wanted!r}; copy the bundle again"
            )


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as its file holds it, the sha256 of all the rest included: any other spelling is a changed file."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return json.dumps({**rest, "sha256": digest}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
