"""The bundle format: a folder with a `manifest.json` and one ONNX file per endpoint, each file named with size and sha256.

Reading trusts nothing: the manifest carries the sha256 of itself and every field has its rule (`kvae.serving.manifest`); a
graph's bytes are compared with their sum, what they hold with what a graph of ours may hold, and the manifest that they
repeat with the bundle's, before a runtime sees them. What is larger than it can need is refused before it is read.
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
from .errors import BundleError, shown
from .manifest import ENDPOINTS, FORMAT, FORMAT_VERSION, LARGEST_MANIFEST, check_manifest
from .onnx_files import Contents, NotOnnx, contents_of

OPSET = 18
"""The ONNX operator set of every graph: the newest that tf2onnx 1.17 writes."""

MANIFEST = "manifest.json"
METADATA_KEY = "kvae"
"""Under this key every ONNX file repeats the manifest (without the list of files) in its metadata."""

OPERATIONS = frozenset(
    """
    Abs Add And ArgMax BitShift BitwiseAnd BitwiseOr BitwiseXor Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos CumSum DequantizeLinear Div Elu Equal Erf Exp Expand Floor GRU Gather GatherElements GatherND
    Gemm Greater GreaterOrEqual Identity If IsInf IsNaN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log
    LogSoftmax Loop MatMul MatMulInteger Max Min Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear Range
    Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape ReverseSequence Round Selu Shape
    Sigmoid Sign Sin Slice Softmax Softplus Softsign Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze
    Where
    """.split()  # noqa: SIM905
)
"""What a graph of ours may consist of; export checks it too. None of them reads a file, runs foreign code or draws random
numbers of its own."""

SECOND_AXES: dict[str, dict[str, str]] = {
    "sampler": {"z": "size"},
    "encoder": {"tokens": "length", "mean": "size", "log_variance": "size"},
    "prior": {"z": "size"},
    "scorer": {"tokens": "length"},
    "expand": {"z": "size", "projected": "length"},
    "step": {},
}
"""What the graphs take and give whose second axis is the manifest's `length` or `latent.size`."""

NUMBERS_PER_BYTE = 8
"""Numbers that the constants of a graph may be when it is loaded, for each byte of its file. An eight-bit graph has four: its
weights, and each step in which a runtime computes them."""

FREE_NUMBERS = 2**20
"""Numbers that they may be in any case, as the width of a one-hot vector."""


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
    if version != FORMAT_VERSION:
        way_out = (
            "update kvae"
            if isinstance(version, int) and version > FORMAT_VERSION
            else "export it anew"
        )
        raise BundleError(
            f"{path}: bundle format {shown(version)}, this kvae reads {FORMAT_VERSION}; {way_out}"
        )
    if not unchanged:
        raise BundleError(
            f"{file}: changed since it was written (its sum differs); copy the bundle again or export it anew"
        )
    try:
        check_manifest(manifest)
    except BundleError as error:
        raise BundleError(f"{file}: {error}; export the bundle anew") from error
    return manifest


def json_of(file: Path) -> tuple[Any, bool]:
    """What a manifest's file says, and whether it is spelled as `manifest_text` spells it, its sum included. Size and depth are
    those that a manifest can have."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_MANIFEST + 1)
        if len(content) > LARGEST_MANIFEST:
            raise BundleError(
                f"{file}: larger than {LARGEST_MANIFEST:,} bytes, which no manifest of kvae is; export a model of fewer "
                f"or shorter symbols (data.max_symbols)"
            )
        text = content.decode("utf-8").replace("\r\n", "\n")
        value = json.loads(text)
        return value, isinstance(value, dict) and text == manifest_text(value)
    except RecursionError as error:
        raise BundleError(
            f"{file}: its brackets nest deeper than those of any manifest; export the bundle anew"
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{file}: damaged, it is not JSON ({error}); copy the bundle again or export it anew"
        ) from error


def file_of(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint, known to be there and of the size that the manifest gives."""
    entry = bundle.manifest["endpoints"][name]
    file = bundle.path / entry["file"]
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is missing"
        raise BundleError(f"{file}: {what}; copy the bundle again, all its files")
    size = file.stat().st_size
    if size != entry["size"]:
        raise BundleError(
            f"{file}: truncated or extended, {size:,} bytes instead of {entry['size']:,}; copy it again"
        )
    return file


def checked_graph(bundle: Bundle, name: str) -> Path:
    """The file of an endpoint's graph: of the right sum, of this bundle, and made of nothing but `OPERATIONS`.

    A runtime opens it once more: its bytes in memory beside the runtime's own would be a quarter of what a process takes.
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
            f"{file}: damaged, its sha256 is not the one in the manifest; copy it again or export it anew"
        )
    try:
        found = contents_of(content)
    except NotOnnx as error:
        raise BundleError(f"{file}: not an ONNX file ({error}); export the bundle anew") from error
    check_contents(file, found, len(content))
    check_metadata(file, name, found.metadata, bundle.manifest)
    check_shapes(file, name, found.shapes, bundle.manifest)
    return file


def check_contents(file: Path, found: Contents, size: int) -> None:
    """Raise `BundleError` for a graph that a runtime should not see; its file has `size` bytes."""
    if found.external:
        raise BundleError(
            f"{file}: keeps numbers in other files, which a bundle never does; export it anew"
        )
    opset = found.opsets.get("", 0)
    if opset != OPSET:
        raise BundleError(
            f"{file}: written for ONNX operator set {opset}, this kvae reads {OPSET}; export it anew"
        )
    foreign = sorted(found.operations - OPERATIONS)
    if foreign:
        raise BundleError(
            f"{file}: holds operations that no graph of kvae has ({one_line(', '.join(foreign))[:80]}); do not use it"
        )
    most = NUMBERS_PER_BYTE * size + FREE_NUMBERS
    if found.numbers > most:
        raise BundleError(
            f"{file}: its constants are {found.numbers:,} numbers, a graph of {size:,} bytes has at most {most:,}; "
            f"do not use it"
        )
    if found.not_finite:
        raise BundleError(
            f"{file}: weights that are infinite or no numbers ({shown(found.not_finite)}), as after a training that diverged; "
            f"export a run whose losses are finite"
        )


def check_metadata(
    file: Path, name: str, metadata: Mapping[str, str], manifest: Mapping[str, Any]
) -> None:
    """Raise `BundleError` for a graph of another program, another model or another endpoint, or whose manifest is not the
    bundle's in every field."""
    if METADATA_KEY not in metadata:
        raise BundleError(
            f"{file}: no graph of kvae, its metadata do not name one; copy the bundle again"
        )
    if metadata[METADATA_KEY] == metadata_text(manifest, name):
        return
    try:
        if len(metadata[METADATA_KEY]) > LARGEST_MANIFEST:
            raise ValueError("longer than any manifest")
        said, wanted = (
            json.loads(text) for text in (metadata[METADATA_KEY], metadata_text(manifest, name))
        )
        different = sorted(
            key for key in said.keys() | wanted.keys() if said.get(key) != wanted.get(key)
        )
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{file}: its metadata are damaged ({type(error).__name__}); export the bundle anew"
        ) from error
    for key in ("model_id", *different):
        if key in different:
            raise BundleError(
                f"{file}: belongs to another bundle, its {key:.80} is {shown(said.get(key))} and not "
                f"{shown(wanted.get(key))}; copy the bundle again"
            )


def check_shapes(
    file: Path, name: str, shapes: Mapping[str, tuple[int | None, ...]], manifest: Mapping[str, Any]
) -> None:
    """Raise `BundleError` for a graph that takes or gives other texts or codes than the manifest says."""
    lengths = {"length": manifest["length"], "size": manifest["latent"]["size"]}
    for value, what in SECOND_AXES[name].items():
        if shapes.get(value, ())[1:2] != (lengths[what],):
            raise BundleError(
                f"{file}: its {value} must have {lengths[what]} columns, as the manifest says, and has the shape "
                f"{shown(shapes.get(value))}; export the bundle anew"
            )


def metadata_text(manifest: Mapping[str, Any], endpoint: str) -> str:
    """The manifest as the graph of an endpoint repeats it, without the sums of the files."""
    shared = {key: value for key, value in manifest.items() if key not in ("endpoints", "sha256")}
    return json.dumps({"endpoint": endpoint, **shared}, sort_keys=True)


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as its file holds it, the sha256 of all the rest included: any other spelling is a changed file."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return (
        json.dumps({**rest, "sha256": digest}, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    )
