"""The bundle format: a folder with a `manifest.json` and one ONNX file per endpoint, whose sizes
and sha256 are in the manifest.

A reader trusts nothing. The manifest contains its own sha256, and every field has a rule
(`kvae.serving.manifest`). Before a runtime loads a graph, its bytes are compared with their sha256,
its contents with what kvae exports, and its copy of the manifest with the bundle's. Files that are
larger than kvae ever writes are refused before they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from .alphabet import one_line
from .errors import BundleError, short_repr
from .manifest import (
    FORMAT,
    FORMAT_VERSION,
    LARGEST_MANIFEST,
    READABLE_VERSIONS,
    check_manifest,
)
from .onnx_files import Contents, NotOnnx, contents_of

OPSET = 18
"""The ONNX operator set of every graph: the newest that tf2onnx 1.17 writes."""

MANIFEST = "manifest.json"

CARD = "README.md"
"""What the model is, for people. The manifest does not name it, so its owner may edit or delete
it."""

METADATA_KEY = "kvae"
"""Metadata key under which every ONNX file repeats the manifest, without the list of files."""

CHECKSUMS = ("endpoints", "map", "sha256")
"""Fields of a manifest with the sizes and checksums of files."""

OPERATIONS = frozenset(
    """
    Abs Add And ArgMax BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Clip Compress
    Concat Constant ConstantOfShape Conv ConvTranspose Cos CumSum DequantizeLinear Div Elu Equal Erf
    Exp Expand Floor GRU Gather GatherElements GatherND Gemm Greater GreaterOrEqual Identity If
    IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul
    MatMulInteger Max Min Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal
    ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape ReverseSequence Round ScatterND
    Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh Tile
    TopK Transpose Unsqueeze Where
    """.split()  # noqa: SIM905
)
"""The operations that an exported graph may contain; export checks them too. None of them reads a
file, runs foreign code or draws random numbers."""

ONNXRUNTIME_DOMAIN = "com.microsoft"
"""The domain of the operations that only onnxruntime has."""

FURTHER_OPERATIONS = {"int8-latency": frozenset({f"{ONNXRUNTIME_DOMAIN}.MatMulNBits"})}
"""Operations that a graph may contain as well, by the kind of its quantization. Only onnxruntime
runs them."""

SECOND_AXES: dict[str, dict[str, str]] = {
    "sampler": {"z": "size"},
    "encoder": {"tokens": "length", "mean": "size", "log_variance": "size"},
    "prior": {"z": "size"},
    "scorer": {"tokens": "length"},
    "expand": {"z": "size", "projected": "length"},
    "step": {},
    "sampler_plain": {"z": "size"},
    "step_plain": {},
}
"""Inputs and outputs whose second axis is the manifest's `length` or `latent.size`."""

NUMBERS_PER_BYTE = 8
"""Limit on the constants of a loaded graph, in numbers per byte of its file. An eight-bit graph has
four: its weights and each step of their dequantization."""

FREE_NUMBERS = 2**20
"""Numbers that constants may have whatever the file size, such as the width of a one-hot vector."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is verified and whose files exist; `checked_graph` verifies each
    file."""

    path: Path
    manifest: Mapping[str, Any]


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle; raises `BundleError` with the fault and the way out.

    Graphs are read on first use, also if the working directory has changed since.
    """
    path = Path(path).expanduser()
    bundle = Bundle(path.absolute(), read_manifest(path))
    for name in bundle.manifest["endpoints"]:
        file_of(bundle, name)
    return bundle


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a bundle, checked: format, supported version, unchanged since it was written,
    valid fields."""
    if not path.exists():
        raise BundleError(
            f"{path}: no such bundle; make one with `kvae export RUN {quote(str(path))}`"
        )
    file = path / MANIFEST
    if not file.is_file():
        what = (
            "a folder without a manifest.json" if path.is_dir() else "a file; a bundle is a folder"
        )
        raise BundleError(
            f"{path}: not a kvae bundle, it is {what}; give the folder that `kvae export` wrote"
        )
    manifest, unchanged = json_of(file)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(
            f"{file}: not the manifest of a kvae bundle; give the folder that `kvae export` wrote"
        )
    version = manifest.get("format_version")
    if version not in READABLE_VERSIONS:
        way_out = (
            "update kvae"
            if isinstance(version, int) and version > FORMAT_VERSION
            else "export it again"
        )
        raise BundleError(
            f"{path}: bundle format {short_repr(version)}, this kvae reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; {way_out}"
        )
    if not unchanged:
        raise BundleError(
            f"{file}: changed since it was written (its sha256 differs); "
            "copy the bundle again or export it again"
        )
    try:
        check_manifest(manifest)
    except BundleError as error:
        raise BundleError(f"{file}: {error}; export the bundle again") from error
    return manifest


def json_of(file: Path) -> tuple[Any, bool]:
    """The JSON value of a manifest file, and whether the file is exactly what `manifest_text`
    writes, checksum included. Raises `BundleError` for a file that is too large, nested too deeply
    or not JSON."""
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_MANIFEST + 1)
        if len(content) > LARGEST_MANIFEST:
            raise BundleError(
                f"{file}: larger than {LARGEST_MANIFEST:,} bytes, the most a manifest may have; "
                f"export a model with fewer or shorter symbols (data.max_symbols)"
            )
        text = content.decode("utf-8").replace("\r\n", "\n")
        value = json.loads(text)
        return value, isinstance(value, dict) and text == manifest_text(value)
    except RecursionError as error:
        raise BundleError(
            f"{file}: its brackets nest deeper than in any manifest; export the bundle again"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{file}: damaged, it is not JSON ({error}); copy the bundle again or export it again"
        ) from error


def file_of(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint; raises `BundleError` if the bundle has no such endpoint, or if the
    file is missing or its size differs from the manifest."""
    entry = bundle.manifest["endpoints"].get(name)
    if entry is None:
        raise BundleError(f"{bundle.path}: has no {name}; export the run again, without --no-plain")
    file: Path = bundle.path / entry["file"]
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is missing"
        raise BundleError(f"{file}: {what}; copy the bundle again, all its files")
    size = file.stat().st_size
    if size != entry["size"]:
        raise BundleError(
            f"{file}: truncated or extended, {size:,} bytes instead of {entry['size']:,}; "
            "copy it again"
        )
    return file


def checked_graph(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint's graph, verified: its sha256, its bundle, its shapes, and only
    `OPERATIONS`.

    The runtime reads the file again. Passing it these bytes would keep a second copy in memory, a
    quarter of the process.
    """
    file = file_of(bundle, name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{file}: cannot be read ({error.strerror}); copy the bundle again, all its files"
        ) from error
    if hashlib.sha256(content).hexdigest() != bundle.manifest["endpoints"][name]["sha256"]:
        raise BundleError(
            f"{file}: damaged, its sha256 is not the one in the manifest; "
            "copy it again or export it again"
        )
    try:
        contents = contents_of(content)
    except NotOnnx as error:
        raise BundleError(f"{file}: not an ONNX file ({error}); export the bundle again") from error
    check_contents(file, contents, len(content), allowed_operations(bundle.manifest))
    check_metadata(file, name, contents.metadata, bundle.manifest)
    check_shapes(file, name, contents.shapes, bundle.manifest)
    return file


def quantization_kind(manifest: Mapping[str, Any]) -> str:
    """The kind of the quantization of a bundle: "" for float32."""
    return str(manifest.get("quantization", {}).get("kind", ""))


def allowed_operations(manifest: Mapping[str, Any]) -> frozenset[str]:
    """The operations that the graphs of a bundle may contain."""
    return OPERATIONS | FURTHER_OPERATIONS.get(quantization_kind(manifest), frozenset())


def check_contents(file: Path, contents: Contents, size: int, allowed: frozenset[str]) -> None:
    """Raise `BundleError` for a graph of `size` bytes that a runtime should not load, and for
    operations that are not `allowed`."""
    if contents.external:
        raise BundleError(
            f"{file}: keeps weights in other files, which a bundle never does; export it again"
        )
    opset = contents.opsets.get("", 0)
    if opset != OPSET:
        raise BundleError(
            f"{file}: written for ONNX operator set {opset}, this kvae reads {OPSET}; "
            "export it again"
        )
    foreign = sorted(contents.operations - allowed)
    if foreign:
        raise BundleError(
            f"{file}: contains operations that kvae never exports "
            f"({one_line(', '.join(foreign))[:80]}); do not use it"
        )
    most = NUMBERS_PER_BYTE * size + FREE_NUMBERS
    if contents.numbers > most:
        raise BundleError(
            f"{file}: its constants expand to {contents.numbers:,} numbers, "
            f"a graph of {size:,} bytes may have {most:,}; do not use it"
        )
    if contents.not_finite:
        raise BundleError(
            f"{file}: weights that are infinite or NaN ({short_repr(contents.not_finite)}), "
            f"as after training that diverged; export a run whose losses are finite"
        )


def check_metadata(
    file: Path, name: str, metadata: Mapping[str, str], manifest: Mapping[str, Any]
) -> None:
    """Raise `BundleError` for a graph of another program, model or endpoint, or if its copy of the
    manifest differs from the bundle's in any field."""
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{file}: not a graph of kvae, its metadata lack the key {METADATA_KEY!r}; "
            "copy the bundle again"
        )
    if metadata[METADATA_KEY] == metadata_text(manifest, name):
        return
    try:
        if len(metadata[METADATA_KEY]) > LARGEST_MANIFEST:
            raise ValueError("longer than any manifest")
        actual, expected = (
            json.loads(text) for text in (metadata[METADATA_KEY], metadata_text(manifest, name))
        )
        different = sorted(
            key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key)
        )
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{file}: its metadata are damaged ({type(error).__name__}); export the bundle again"
        ) from error
    for key in ("model_id", *different):
        if key in different:
            raise BundleError(
                f"{file}: belongs to another bundle, its {key:.80} is "
                f"{short_repr(actual.get(key))} and not {short_repr(expected.get(key))}; "
                "copy the bundle again"
            )


def check_shapes(
    file: Path, name: str, shapes: Mapping[str, tuple[int | None, ...]], manifest: Mapping[str, Any]
) -> None:
    """Raise `BundleError` if the graph's text length or code size differs from the manifest."""
    lengths = {"length": manifest["length"], "size": manifest["latent"]["size"]}
    for value, what in SECOND_AXES[name].items():
        if shapes.get(value, ())[1:2] != (lengths[what],):
            raise BundleError(
                f"{file}: its {value} must have {lengths[what]} columns, as the manifest says, "
                f"got shape {short_repr(shapes.get(value))}; export the bundle again"
            )


def metadata_text(manifest: Mapping[str, Any], endpoint: str) -> str:
    """The manifest as JSON in the metadata of an endpoint's graph, without `CHECKSUMS`."""
    shared = {key: value for key, value in manifest.items() if key not in CHECKSUMS}
    return json.dumps({"endpoint": endpoint, **shared}, sort_keys=True)


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The exact text of a manifest file, with the sha256 of all other fields; any other text counts
    as changed."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return (
        json.dumps({**rest, "sha256": digest}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    )
