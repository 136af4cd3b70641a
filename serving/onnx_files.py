"""What stands in an ONNX file, read without the onnx package: enough to refuse a file before a runtime sees it.

A Protocol Buffers message is a row of fields, each a key (number and wire type) and a value; messages nest as
length-delimited values. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

MODEL = {"graph": 7, "opset_import": 8, "metadata_props": 14, "functions": 25}
GRAPH = {"node": 1, "initializer": 5, "input": 11, "output": 12, "sparse_initializer": 15}
DECLARATION = {"name": 1, "type": 2}
TYPE, SHAPE, DIMENSION = {"tensor_type": 1}, {"shape": 2}, {"dim": 1, "dim_value": 1}
NODE = {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7}
ATTRIBUTE = {
    "i": 3,
    "t": 5,
    "g": 6,
    "ints": 8,
    "tensors": 10,
    "graphs": 11,
    "sparse_tensor": 22,
    "sparse_tensors": 23,
}
TENSOR = {"dims": 1, "data_type": 2, "name": 8, "raw_data": 9, "external_data": 13}
OPSET = {"domain": 1, "version": 2}
ENTRY = {"key": 1, "value": 2}

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
STANDARD = ("", "ai.onnx")
"""Names of ONNX's own domain."""

FLOATS = {1: ("<f4", 4), 10: ("<f2", None), 11: ("<f8", 10)}
"""Types of tensors that may hold infinities: how numpy reads `raw_data`, and the field that holds them otherwise."""

WHOLE = {6: ("<i4", 5), 7: ("<i8", 7)}
"""The same for whole numbers, which are varints in the other field."""

MOST_PARTS = 2**20
"""Fields of a file's messages, hundreds of times those of the largest graph; each costs a fraction of a microsecond."""

SHORT = 64
"""Numbers of the longest tensor that may say how large another is."""

ENDLESS = 2**63
"""Sizes are counted up to here."""

SIZED_BY = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "OneHot": (1,),
    "Range": (0, 1),
    "Pad": (1,),
}
"""Operations that make as many numbers as the values of these inputs say."""

ARITHMETIC = {
    "Add",
    "Cast",
    "Concat",
    "Identity",
    "Max",
    "Min",
    "Mul",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
}
"""What sizes are computed with."""

BROADCASTING = {
    "Add",
    "DequantizeLinear",
    "Div",
    "Max",
    "Min",
    "Mod",
    "Mul",
    "PRelu",
    "Pow",
    "QuantizeLinear",
    "Sub",
    "Where",
}
"""Operations whose result is as long along each axis as the longest input; of others it is at most the product of all."""


class NotOnnx(ValueError):
    """Bytes that are no ONNX model."""


@dataclass
class Contents:
    """What a model consists of, its graphs in graphs included."""

    opsets: dict[str, int] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    """`MatMul`, or `domain.Name` outside ONNX's own domain."""
    metadata: dict[str, str] = field(default_factory=dict)
    external: bool = False
    """Whether any tensor says that its numbers lie in another file."""
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Of what the outermost graph takes and gives, by name; None for an axis whose length is open."""
    numbers: int = 0
    """How many numbers its constants are when a runtime has loaded it: those in the file, what is computed from them alone, and
    what is as large as a constant says."""
    not_finite: str | None = None
    """The name of a tensor that holds infinities or what is no number."""
    parts: int = 0
    """Fields that were read."""


@dataclass(frozen=True)
class Value:
    """What is known of a name in a graph before it runs."""

    shape: tuple[int, ...] | None = None
    """Of a constant."""
    product: int = 1
    """Of the constants in it, where they are few whole numbers: as a size, what it asks for at least."""


UNKNOWN, SINGLE = Value(), Value(())
NOTHING = memoryview(b"")


def contents_of(data: bytes) -> Contents:
    """What the ONNX model in `data` consists of; raises `NotOnnx`."""
    found = Contents()
    try:
        model = list(fields(memoryview(data), found))
        for number, value in model:
            if number == MODEL["opset_import"]:
                opset: dict[int, Any] = dict(fields(value, found))
                found.opsets[text(opset.get(OPSET["domain"], b""))] = int(opset[OPSET["version"]])
            elif number == MODEL["metadata_props"]:
                entry = dict(fields(value, found))
                found.metadata[text(entry[ENTRY["key"]])] = text(entry.get(ENTRY["value"], b""))
            elif number == MODEL["graph"]:
                read_graph(value, found, ChainMap())
    except NotOnnx:
        raise
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotOnnx(f"{type(error).__name__} while reading its fields") from error
    if any(number == MODEL["functions"] for number, _ in model):
        found.operations.add("function")
    if not found.operations or not found.opsets:
        raise NotOnnx("it holds no graph")
    return found


def read_graph(data: memoryview, found: Contents, outer: ChainMap[str, Value]) -> None:
    """Add a graph's operations and constants, and those of the graphs in its nodes; `outer` are names around it."""
    known, nodes = outer.new_child(), []
    for number, value in fields(data, found):
        if number == GRAPH["node"]:
            nodes.append(value)
        elif number == GRAPH["initializer"]:
            name, constant = read_tensor(value, found)
            known[name] = constant
        elif number in (GRAPH["input"], GRAPH["output"]) and len(outer.maps) == 1:
            found.shapes.update([read_declaration(value, found)])
        elif number == GRAPH["sparse_initializer"]:
            found.operations.add("sparse_initializer")
    for node in nodes:
        read_node(node, found, known)


def read_declaration(data: memoryview, found: Contents) -> tuple[str, tuple[int | None, ...]]:
    """The name and the shape of what a graph takes or gives."""
    declared = dict(fields(data, found))
    kind = dict(fields(declared.get(DECLARATION["type"], NOTHING), found)).get(
        TYPE["tensor_type"], NOTHING
    )
    axes = fields(dict(fields(kind, found)).get(SHAPE["shape"], NOTHING), found)
    lengths = [
        dict(fields(axis, found)).get(DIMENSION["dim_value"])
        for number, axis in axes
        if number == DIMENSION["dim"]
    ]
    return text(declared[DECLARATION["name"]]), tuple(lengths)


def read_node(data: memoryview, found: Contents, known: ChainMap[str, Value]) -> None:
    """Add a node's operation, what its attributes hold, and what it makes of constants."""
    name = domain = ""
    inputs, outputs, constant = [], [], None
    for number, value in fields(data, found):
        if number == NODE["op_type"]:
            name = text(value)
        elif number == NODE["domain"]:
            domain = text(value)
        elif number == NODE["input"]:
            inputs.append(known.get(text(value), UNKNOWN) if len(value) else SINGLE)
        elif number == NODE["output"]:
            outputs.append(text(value))
        elif number == NODE["attribute"]:
            constant = read_attribute(value, found, known) or constant
    found.operations.add(name if domain in STANDARD else f"{domain}.{name}")
    made, result = outcome(name, inputs)
    found.numbers += made
    result = constant if name == "Constant" and constant else result
    if result is not UNKNOWN:
        known.update(dict.fromkeys(outputs, result))


def read_attribute(data: memoryview, found: Contents, known: ChainMap[str, Value]) -> Value | None:
    """Add what an attribute holds; the tensor or the whole numbers in it, if that is what it is."""
    whole: list[int] = []
    constant = None
    for number, value in fields(data, found):
        if number in (ATTRIBUTE["g"], ATTRIBUTE["graphs"]):
            read_graph(value, found, known)
        elif number in (ATTRIBUTE["t"], ATTRIBUTE["tensors"]):
            constant = read_tensor(value, found)[1]
        elif number in (ATTRIBUTE["i"], ATTRIBUTE["ints"]):
            whole += varints(value)
        elif number in (ATTRIBUTE["sparse_tensor"], ATTRIBUTE["sparse_tensors"]):
            found.operations.add("sparse_tensor")
    return constant or (Value((len(whole),), product(whole[:SHORT])) if whole else None)


def read_tensor(data: memoryview, found: Contents) -> tuple[str, Value]:
    """The name of a tensor and what is known of it. Its numbers are counted, and looked at where they may be infinite."""
    name, kind, raw = "", 0, NOTHING
    shape: list[int] = []
    otherwise: dict[int, list[Any]] = {}
    for number, value in fields(data, found):
        if number == TENSOR["dims"]:
            shape += varints(value)
        elif number == TENSOR["data_type"]:
            kind = int(value)
        elif number == TENSOR["name"]:
            name = text(value)
        elif number == TENSOR["raw_data"]:
            raw = memoryview(value)
        elif number == TENSOR["external_data"]:
            found.external = True
        else:
            otherwise.setdefault(number, []).append(value)
    count = product(shape, zero=0)
    if count > len(data) and not found.external:
        raise NotOnnx(f"a tensor of {count:,} numbers in {len(data):,} bytes")
    found.numbers += count
    if kind in FLOATS:
        dtype, typed = FLOATS[kind]
        numbers = np.frombuffer(raw or b"".join(otherwise.get(typed or 0, [])), dtype)
        if not np.isfinite(numbers).all():
            found.not_finite = name
        sizes = [math.ceil(number) for number in numbers[:SHORT].tolist() if math.isfinite(number)]
    elif kind in WHOLE:
        dtype, typed = WHOLE[kind]
        written = [number for part in otherwise.get(typed, []) for number in varints(part)]
        sizes = np.frombuffer(raw[: SHORT * 8], dtype).tolist() if len(raw) else written
    else:
        sizes = []
    return name, Value(tuple(shape), product(sizes) if count <= SHORT else 1)


def outcome(operation: str, inputs: Sequence[Value]) -> tuple[int, Value]:
    """How many numbers an operation makes of constants, which a runtime may compute when it loads, and what its result is."""
    if all(value is UNKNOWN for value in inputs):
        return 0, UNKNOWN
    asked = [inputs[place].product for place in SIZED_BY.get(operation, ()) if place < len(inputs)]
    sizes = product(value.product for value in inputs) if operation in ARITHMETIC else 1
    shapes = [value.shape for value in inputs if value.shape is not None]
    if len(shapes) < len(inputs):
        return product(asked) if asked else 0, Value(None, sizes) if sizes > 1 else UNKNOWN
    if asked:
        shape: tuple[int, ...] = (product(asked),)
    elif operation in BROADCASTING:
        axes = zip_longest(*(reversed(each) for each in shapes), fillvalue=1)
        shape = tuple(max(axis) for axis in axes)[::-1]
    else:
        shape = (product(length for each in shapes for length in each),)
    return product(shape), Value(shape, sizes)


def product(numbers: Any, zero: int = 1) -> int:
    """Of whole numbers, up to `ENDLESS`; signs do not count, and `zero` is what a zero counts."""
    found = 1
    for number in numbers:
        found = min(ENDLESS, found * (abs(number) or zero))
    return found


def fields(data: memoryview, found: Contents) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field, the value a memoryview, or an int where the field is a varint."""
    position, end = 0, len(data)
    while position < end:
        found.parts += 1
        if found.parts > MOST_PARTS:
            raise NotOnnx(f"it has more than {MOST_PARTS:,} parts")
        key, position = varint(data, position)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, position = varint(data, position)
            yield number, value
            continue
        if kind == BYTES:
            size, position = varint(data, position)
        elif kind in (FIXED_32, FIXED_64):
            size = 4 if kind == FIXED_32 else 8
        else:
            raise NotOnnx(f"wire type {kind}")
        if position + size > end:
            raise NotOnnx("it ends in the middle of a field")
        yield number, data[position : position + size]
        position += size


def varints(value: memoryview | int) -> list[int]:
    """The whole numbers of a field that repeats: one, or many behind each other; negative where they are so as 64 bits."""
    if isinstance(value, int):
        return [signed(value)]
    found: list[int] = []
    position = 0
    while position < len(value):
        if len(found) >= MOST_PARTS:
            raise NotOnnx(f"more than {MOST_PARTS:,} whole numbers in a field")
        number, position = varint(value, position)
        found.append(signed(number))
    return found


def signed(number: int) -> int:
    """64 bits as a number with a sign."""
    return number - 2**64 if number >= 2**63 else number


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, seven bits a byte, and where the next field begins."""
    value = data[position]
    if value < 0x80:  # most are that short
        return value, position + 1
    value, shift = value & 0x7F, 7
    while True:
        position += 1
        byte = data[position]
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position + 1
        if shift > 63:
            raise NotOnnx("a number of more than ten bytes")


def text(value: memoryview | bytes) -> str:
    """Bytes as UTF-8; a field of another kind raises `TypeError`."""
    return str(value, "utf-8")
