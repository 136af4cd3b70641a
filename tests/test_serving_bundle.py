"""Reading a bundle: each way to be broken has its own message, and none shows a traceback."""

import contextlib
import hashlib
import json
import os
import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from kvae.serving import BundleError, Sampler
from kvae.serving.bundle import FORMAT_VERSION, OPSET, manifest_text
from kvae.serving.manifest import ALL_ENDPOINTS
from kvae.serving.onnx_files import MAX_FIELDS, NotOnnx, contents_of
from kvae.serving.runtime import way_out


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


def elsewhere(bundle: Path) -> None:
    endpoints = json.loads((bundle / "manifest.json").read_text())["endpoints"]
    shutil.copy(bundle / "prior.onnx", bundle.parent)
    rewrite(
        bundle, endpoints={**endpoints, "prior": {**endpoints["prior"], "file": "../prior.onnx"}}
    )


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no such bundle"),
    "a file": (replace_with_a_file, "not a kvae bundle, it is a file"),
    "an empty folder": (
        lambda bundle: [file.unlink() for file in bundle.iterdir()],
        "a folder without a manifest.json",
    ),
    "manifest is text": (
        lambda bundle: (bundle / "manifest.json").write_text("hello"),
        "it is not JSON",
    ),
    "manifest is binary": (
        lambda bundle: (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        "it is not JSON",
    ),
    "manifest is a list": (
        lambda bundle: (bundle / "manifest.json").write_text("[]"),
        "not the manifest of a kvae bundle",
    ),
    "somebody else's manifest": (
        lambda bundle: (bundle / "manifest.json").write_text('{"name": "app"}'),
        "not the manifest of a kvae bundle",
    ),
    "a newer format": (
        lambda bundle: rewrite(bundle, format_version=FORMAT_VERSION + 1),
        "update kvae",
    ),
    "an edited manifest": (lambda bundle: flip(bundle / "manifest.json", 40), "manifest.json"),
    "an endpoint too few": (
        lambda bundle: rewrite(bundle, endpoints={}),
        "endpoints.sampler is missing",
    ),
    "no vocabulary": (lambda bundle: rewrite(bundle, vocabulary=None), "vocabulary is missing"),
    "format 0": (
        lambda bundle: rewrite(bundle, format_version=0),
        "bundle format 0, this kvae reads 2 and 3; export it again",
    ),
    "a file elsewhere": (
        elsewhere,
        "must be an .onnx file in the bundle's own folder, got '../prior.onnx'",
    ),
    "a missing file": (
        lambda bundle: (bundle / "encoder.onnx").unlink(),
        "encoder.onnx: is missing",
    ),
    "an empty file": (
        lambda bundle: (bundle / "prior.onnx").write_bytes(b""),
        "prior.onnx: truncated or extended, 0 bytes",
    ),
    "a truncated file": (
        lambda bundle: truncate(bundle / "sampler.onnx"),
        "sampler.onnx: truncated",
    ),
    "a flipped byte": (lambda bundle: flip(bundle / "sampler.onnx", 5000), "sampler.onnx: damaged"),
    "another tokenizer": (
        lambda bundle: rewrite(bundle, vocabulary={"tokenizer": "wordpiece"}),
        "vocabulary must be an object of tokenizer, specials, symbols",
    ),
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
    assert str(bundle) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_of_a_message_can_be_pasted_whatever_the_path(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        Sampler.load(tmp_path / "my bundle")
    (command,) = re.findall("`(.*)`", str(caught.value))
    assert shlex.split(command) == ["kvae", "export", "RUN", str(tmp_path / "my bundle")]


def vouched(bundle: Path, name: str) -> None:
    """Make the manifest match the changed file of an endpoint: somebody has changed both."""
    content = (bundle / f"{name}.onnx").read_bytes()
    endpoints = json.loads((bundle / "manifest.json").read_text())["endpoints"]
    entry = {
        "file": f"{name}.onnx",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    rewrite(bundle, endpoints={**endpoints, name: entry})


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
    """A damage that rewrites a graph in its own format."""

    def apply(file: Path) -> None:
        model = onnx.load(file)
        change(model)
        file.write_bytes(model.SerializeToString())

    return apply


def metadata(**changes: object) -> Callable[[Path], object]:
    """A damage to what a graph says of itself."""

    def change(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        entry.value = json.dumps({**json.loads(entry.value), **changes})

    return changed(change)


def keep_numbers_elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def half_a_billion(model: onnx.ModelProto) -> None:
    """A constant as large as a constant says."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([500_000_000]), "shape"))
    model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["shape"], ["large"]))


def half_a_billion_for_each_text(model: onnx.ModelProto) -> None:
    """A size that is partly known: (batch, 500,000,000)."""
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([500_000_000]), "width"))
    nodes = [
        onnx.helper.make_node("Shape", [model.graph.input[0].name], ["batch"]),
        onnx.helper.make_node("Concat", ["batch", "width"], ["shape"], axis=0),
        onnx.helper.make_node("ConstantOfShape", ["shape"], ["large"]),
    ]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def row_times_column(model: onnx.ModelProto) -> None:
    """A sum of two constants of 128 KB is 4 GB."""
    for name, shape in (("row", (1, 32768)), ("column", (32768, 1))):
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)
        )
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["row", "column"], ["large"]))


def numbers_that_are_not_there(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [500_000_000]


def not_finite(number: float) -> Callable[[onnx.ModelProto], object]:
    """One weight of a graph is made infinite or NaN, or a tensor with such a value is added."""

    def change(model: onnx.ModelProto) -> None:
        weights = [
            item
            for item in model.graph.initializer
            if item.data_type == onnx.TensorProto.FLOAT and item.dims
        ]
        for item in weights[:1]:
            values = onnx.numpy_helper.to_array(item).copy()
            values.flat[-1] = number
            item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
        if not weights:
            model.graph.initializer.append(
                onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [number])
            )

    return change


def message(number: int, content: bytes) -> bytes:
    """A field of a Protocol Buffers message."""
    size, length = b"", len(content)
    while length > 0x7F:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def replace_with_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def somebody_elses(file: Path) -> None:
    """A valid model of another program."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [x], [y])
    opset = [onnx.helper.make_opsetid("", OPSET)]
    file.write_bytes(onnx.helper.make_model(graph, opset_imports=opset).SerializeToString())


FORGED: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "missing": (Path.unlink, "is missing; copy the bundle again", False),
    "empty": (lambda file: file.write_bytes(b""), "truncated or extended, 0 bytes", False),
    "truncated": (truncate, "truncated or extended", False),
    "truncated, vouched for": (truncate, "not an ONNX file", True),
    "random bytes": (
        lambda file: file.write_bytes(random.Random(0).randbytes(5000)),
        "not an ONNX file",
        True,
    ),
    "text": (lambda file: file.write_text("hello\n" * 500), "not an ONNX file", True),
    "a directory": (replace_with_a_folder, "is a folder; copy the bundle again", False),
    "a flipped bit": (lambda file: flip(file, 5000), "damaged, its sha256 is not the one", False),
    "wrong metadata": (metadata(endpoint="nonsense"), "its endpoint is 'nonsense'", True),
    "metadata that are no JSON": (
        changed(lambda model: setattr(model.metadata_props[0], "value", "{")),
        "its metadata are damaged",
        True,
    ),
    "a newer format": (metadata(format_version=99), "its format_version is 99 and not 3", True),
    "unknown opset": (
        changed(lambda model: setattr(model.opset_import[0], "version", 99)),
        "written for ONNX operator set 99, this kvae reads 18",
        True,
    ),
    "external data": (changed(keep_numbers_elsewhere), "keeps weights in other files", True),
    "somebody else's model": (somebody_elses, "not a graph of kvae", True),
    "another model's graph": (
        metadata(model_id="0" * 16),
        "belongs to another bundle, its model_id is '000",
        True,
    ),
    "another manifest": (metadata(length=17), "its length is 17 and not 16", True),
    "another vocabulary": (
        metadata(vocabulary={}),
        "its vocabulary is {} and not {'specials'",
        True,
    ),
    "metadata of deep brackets": (
        changed(lambda model: setattr(model.metadata_props[0], "value", "[" * 100_000)),
        "its metadata are damaged",
        True,
    ),
    "metadata that are a list": (
        changed(lambda model: setattr(model.metadata_props[0], "value", "[]")),
        "its metadata are damaged",
        True,
    ),
    "half a billion numbers": (changed(half_a_billion), "its constants expand to 500,0", True),
    "half a billion numbers for each text": (
        changed(half_a_billion_for_each_text),
        "its constants expand to 500,0",
        True,
    ),
    "a row and a column": (changed(row_times_column), "its constants expand to 1,073,", True),
    "numbers that are not there": (
        changed(numbers_that_are_not_there),
        "a tensor of 500,000,000 numbers in",
        True,
    ),
    "weights that are no numbers": (changed(not_finite(float("nan"))), "infinite or NaN", True),
    "weights that are infinite": (changed(not_finite(float("-inf"))), "infinite or NaN", True),
    "a foreign operation": (
        changed(lambda model: model.graph.node.add(op_type="RandomNormal", output=["noise"])),
        "contains operations that kvae never exports (RandomNormal)",
        True,
    ),
    "an operation of another domain": (
        changed(lambda model: model.graph.node.add(op_type="Run", domain="evil", output=["noise"])),
        "(evil.Run)",
        True,
    ),
}
"""The damage of a graph's file, the message, and whether the manifest matches the damaged file."""


@pytest.mark.parametrize("endpoint", ALL_ENDPOINTS)
@pytest.mark.parametrize("damage", FORGED)
def test_a_damaged_graph_is_refused_before_a_runtime_sees_it(
    bundle_folder: Path, tmp_path: Path, damage: str, endpoint: str, sampler: Sampler
) -> None:
    bundle = shutil.copytree(bundle_folder, tmp_path / "bundle")
    spoil, message, vouches = FORGED[damage]
    spoil(bundle / f"{endpoint}.onnx")
    if vouches:
        vouched(bundle, endpoint)
    with pytest.raises(BundleError) as caught:
        Sampler.load(bundle, endpoints=ALL_ENDPOINTS)
    assert message in str(caught.value)
    assert f"{endpoint}.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(sampler.sample(2, seed=0)) == 2  # the process goes on


def test_graphs_in_graphs_and_too_many_parts_are_no_model() -> None:
    deep = b""
    for _ in range(3000):
        deep = message(1, message(4, b"If") + message(5, message(6, deep)))
    for graph, reason in (
        (deep, "RecursionError"),
        (b"\x10\x00" * (MAX_FIELDS + 1), "more than 1,048,576 parts"),
    ):
        with pytest.raises(NotOnnx, match=reason):
            contents_of(message(7, graph))


def test_a_number_where_a_text_belongs_makes_no_bytes() -> None:
    name_as_number = (
        bytes([4 << 3]) + b"\xff" * 5 + b"\x01"
    )  # the operation's name as 68,719,476,735
    with pytest.raises(NotOnnx, match="TypeError"):
        contents_of(message(7, message(1, name_as_number)))


@pytest.mark.parametrize("seed", range(40))
def test_arbitrary_damage_is_a_bundle_error_or_none(
    bundle_folder: Path, tmp_path: Path, seed: int
) -> None:
    """Bytes of a graph are changed, removed or inserted, and the manifest matches the file."""
    bundle, generator = shutil.copytree(bundle_folder, tmp_path / "bundle"), random.Random(seed)
    file = bundle / "encoder.onnx"
    content = bytearray(file.read_bytes())
    for _ in range(generator.randint(1, 20)):
        place = generator.randrange(len(content))
        content[place : place + generator.randint(0, 3)] = generator.randbytes(
            generator.randint(0, 3)
        )
    file.write_bytes(bytes(content))
    vouched(bundle, "encoder")
    with contextlib.suppress(BundleError):
        Sampler.load(bundle, endpoints=["encoder"]).encode("KAMI")


def test_every_single_flipped_byte_of_a_manifest_is_found(
    bundle_folder: Path, tmp_path: Path
) -> None:
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


def test_a_bundle_is_loaded_from_a_path_that_is_not_utf8(
    bundle_folder: Path, tmp_path: Path
) -> None:
    """onnxruntime takes no such path, and no version of it will."""
    moved = shutil.copytree(bundle_folder, tmp_path / os.fsdecode(b"caf\xe9") / "bundle")
    assert Sampler.load(moved).sample(2, seed=0) == Sampler.load(bundle_folder).sample(2, seed=0)


@pytest.mark.parametrize(
    ("error", "way"),
    [
        (
            RuntimeError(
                "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : "
                "Could not find an implementation for Cos(7)"
            ),
            "update",
        ),
        (RuntimeError("Only 4b quantization is supported for MatMulNBits op"), "update"),
        (
            RuntimeError("[ONNXRuntimeError] : 1 : FAIL : std::bad_alloc"),
            "there is not enough memory",
        ),
        (MemoryError(), "there is not enough memory"),
        (PermissionError(13, "Permission denied"), "the permissions of this user"),
        (
            RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION"),
            "another version of onnxruntime",
        ),
    ],
)
def test_what_helps_where_onnxruntime_loads_no_graph_follows_the_cause(
    error: Exception, way: str
) -> None:
    assert way in way_out(error)
