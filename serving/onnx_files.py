"""A reader of ONNX files without the onnx package, sufficient to refuse a file before a runtime
loads it.

A Protocol Buffers message is a sequence of fields, each with a key (field number and wire type) and
a value. Nested messages are length-delimited values. Field numbers are those of onnx.proto3.
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
"""Names of ONNX's own operator domain."""

FLOATS = {1: ("<f4", 4), 10: ("<f2", None), 11: ("<f8", 10)}
"""Floating-point tensor types: their dtype in `raw_data`, and the field that otherwise holds their
values."""

INTEGERS = {6: ("<i4", 5), 7: ("<i8", 7)}
"""The same for integer types, which are varints in that other field."""

MAX_FIELDS = 2**20
"""Limit on the fields of a file, hundreds of times those of the largest graph. Reading one takes
less than a microsecond."""

MAX_SIZE_VALUES = 64
"""Limit on the values of a tensor that may be the size of another tensor."""

MAX_COUNT = 2**63
"""Products of sizes are capped at this value."""

SIZED_BY = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Tile": (1,),
    "OneHot": (1,),
    "Range": (0, 1),
    "Pad": (1,),
}
"""Operations whose output size is given by the values of these inputs."""

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
"""Operations with which sizes are computed."""

BROADCASTING = {
    "Add",
    "Cast",
    "DequantizeLinear",
    "Div",
    "Identity",
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
"""Operations whose output is, along each axis, as long as the longest input. For others, the output
size is at most the product of all input axes."""


class NotOnnx(ValueError):
    """Bytes that are not an ONNX model."""


@dataclass
class Contents:
    """The contents of a model, subgraphs included."""

    opsets: dict[str, int] = field(default_factory=dict)
    operations: set[str] = field(default_factory=set)
    """`MatMul`, or `domain.Name` outside ONNX's own domain."""
    metadata: dict[str, str] = field(default_factory=dict)
    external: bool = False
    """True if a tensor stores its values in another file."""
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    """Shapes of the inputs and outputs of the main graph, by name; None for an axis of variable
    length."""
    numbers: int = 0
    """Total size of the constants once a runtime has loaded the model, in numbers: those in the
    file, those computed from constants alone, and outputs whose size is a constant."""
    not_finite: str | None = None
    """The name of a tensor with infinite or NaN values."""
    parts: int = 0
    """Fields read so far."""


@dataclass(frozen=True)
class Value:
    """What is known about a named value before the graph runs."""

    shape: tuple[int, ...] | None = None
    """The shape of a constant; None if the value is not constant."""
    product: int = 1
    """The product of the value's elements, if they are few constant numbers: a lower bound of the
    size that the value gives as a shape."""


UNKNOWN, SINGLE = Value(), Value(())
EMPTY = memoryview(b"")


def contents_of(data: bytes) -> Contents:
    """The contents of the ONNX model in `data`; raises `NotOnnx`."""
    contents = Contents()
    try:
        model = list(fields(memoryview(data), contents))
        for number, value in model:
            if number == MODEL["opset_import"]:
                opset: dict[int, Any] = dict(fields(value, contents))
                contents.opsets[text(opset.get(OPSET["domain"], b""))] = int(
                    opset[OPSET["version"]]
                )
            elif number == MODEL["metadata_props"]:
                entry = dict(fields(value, contents))
                contents.metadata[text(entry[ENTRY["key"]])] = text(entry.get(ENTRY["value"], b""))
            elif number == MODEL["graph"]:
                read_graph(value, contents, ChainMap())
    except NotOnnx:
        raise
    except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise NotOnnx(f"{type(error).__name__} while reading its fields") from error
    if any(number == MODEL["functions"] for number, _ in model):
        contents.operations.add("function")
    if not contents.operations or not contents.opsets:
        raise NotOnnx("it holds no graph")
    return contents


def read_graph(data: memoryview, contents: Contents, outer: ChainMap[str, Value]) -> None:
    """Add a graph's operations and constants, and those of its subgraphs, to `contents`; `outer`
    holds the values of the enclosing graphs."""
    known, nodes = outer.new_child(), []
    for number, value in fields(data, contents):
        if number == GRAPH["node"]:
            nodes.append(value)
        elif number == GRAPH["initializer"]:
            name, constant = read_tensor(value, contents)
            known[name] = constant
        elif number in (GRAPH["input"], GRAPH["output"]) and len(outer.maps) == 1:
            contents.shapes.update([read_declaration(value, contents)])
        elif number == GRAPH["sparse_initializer"]:
            contents.operations.add("sparse_initializer")
    for node in nodes:
        read_node(node, contents, known)


def read_declaration(data: memoryview, contents: Contents) -> tuple[str, tuple[int | None, ...]]:
    """The name and the shape of a graph's input or output."""
    declared = dict(fields(data, contents))
    kind = dict(fields(declared.get(DECLARATION["type"], EMPTY), contents)).get(
        TYPE["tensor_type"], EMPTY
    )
    axes = fields(dict(fields(kind, contents)).get(SHAPE["shape"], EMPTY), contents)
    lengths = [
        dict(fields(axis, contents)).get(DIMENSION["dim_value"])
        for number, axis in axes
        if number == DIMENSION["dim"]
    ]
    return text(declared[DECLARATION["name"]]), tuple(lengths)


def read_node(data: memoryview, contents: Contents, known: ChainMap[str, Value]) -> None:
    """Add a node's operation, the contents of its attributes, and the size of its output if its
    inputs are constant."""
    name = domain = ""
    inputs, outputs, constant = [], [], None
    for number, value in fields(data, contents):
        if number == NODE["op_type"]:
            name = text(value)
        elif number == NODE["domain"]:
            domain = text(value)
        elif number == NODE["input"]:
            inputs.append(known.get(text(value), UNKNOWN) if len(value) else SINGLE)
        elif number == NODE["output"]:
            outputs.append(text(value))
        elif number == NODE["attribute"]:
            constant = read_attribute(value, contents, known) or constant
    contents.operations.add(name if domain in STANDARD else f"{domain}.{name}")
    made, result = constant_result(name, inputs)
    contents.numbers += made
    result = constant if name == "Constant" and constant else result
    if result is not UNKNOWN:
        known.update(dict.fromkeys(outputs, result))


def read_attribute(
    data: memoryview, contents: Contents, known: ChainMap[str, Value]
) -> Value | None:
    """Add the contents of an attribute; returns its tensor or its integers, or None for other
    kinds."""
    integers: list[int] = []
    constant = None
    for number, value in fields(data, contents):
        if number in (ATTRIBUTE["g"], ATTRIBUTE["graphs"]):
            read_graph(value, contents, known)
        elif number in (ATTRIBUTE["t"], ATTRIBUTE["tensors"]):
            constant = read_tensor(value, contents)[1]
        elif number in (ATTRIBUTE["i"], ATTRIBUTE["ints"]):
            integers += varints(value)
        elif number in (ATTRIBUTE["sparse_tensor"], ATTRIBUTE["sparse_tensors"]):
            contents.operations.add("sparse_tensor")
    return constant or (
        Value((len(integers),), product(integers[:MAX_SIZE_VALUES])) if integers else None
    )


def read_tensor(data: memoryview, contents: Contents) -> tuple[str, Value]:
    """The name of a tensor and what is known of its value. Its elements are counted, and floats are
    checked to be finite."""
    name, kind, raw = "", 0, EMPTY
    shape: list[int] = []
    typed_data: dict[int, list[Any]] = {}
    for number, value in fields(data, contents):
        if number == TENSOR["dims"]:
            shape += varints(value)
        elif number == TENSOR["data_type"]:
            kind = int(value)
        elif number == TENSOR["name"]:
            name = text(value)
        elif number == TENSOR["raw_data"]:
            raw = memoryview(value)
        elif number == TENSOR["external_data"]:
            contents.external = True
        else:
            typed_data.setdefault(number, []).append(value)
    count = product(shape, zero=0)
    if count > len(data) and not contents.external:
        raise NotOnnx(f"a tensor of {count:,} numbers in {len(data):,} bytes")
    contents.numbers += count
    if kind in FLOATS:
        dtype, typed = FLOATS[kind]
        numbers = np.frombuffer(raw or b"".join(typed_data.get(typed or 0, [])), dtype)
        if not np.isfinite(numbers).all():
            contents.not_finite = name
        sizes = [
            math.ceil(number)
            for number in numbers[:MAX_SIZE_VALUES].tolist()
            if math.isfinite(number)
        ]
    elif kind in INTEGERS:
        dtype, typed = INTEGERS[kind]
        integers = [number for part in typed_data.get(typed, []) for number in varints(part)]
        sizes = np.frombuffer(raw[: MAX_SIZE_VALUES * 8], dtype).tolist() if len(raw) else integers
    else:
        sizes = []
    return name, Value(tuple(shape), product(sizes) if count <= MAX_SIZE_VALUES else 1)


def constant_result(operation: str, inputs: Sequence[Value]) -> tuple[int, Value]:
    """The number of elements that an operation computes from constants, which a runtime may do on
    loading, and what is known about its output."""
    if all(value is UNKNOWN for value in inputs):
        return 0, UNKNOWN
    requested = [
        inputs[place].product for place in SIZED_BY.get(operation, ()) if place < len(inputs)
    ]
    sizes = product(value.product for value in inputs) if operation in ARITHMETIC else 1
    shapes = [value.shape for value in inputs if value.shape is not None]
    if len(shapes) < len(inputs):
        return product(requested) if requested else 0, Value(None, sizes) if sizes > 1 else UNKNOWN
    if requested:
        shape: tuple[int, ...] = (product(requested),)
    elif operation in BROADCASTING:
        axes = zip_longest(*(reversed(each) for each in shapes), fillvalue=1)
        shape = tuple(max(axis) for axis in axes)[::-1]
    else:
        shape = (product(length for each in shapes for length in each),)
    return product(shape), Value(shape, sizes)


def product(numbers: Any, zero: int = 1) -> int:
    """The product of the absolute values of integers, capped at `MAX_COUNT`; a zero counts as
    `zero`."""
    result = 1
    for number in numbers:
        result = min(MAX_COUNT, result * (abs(number) or zero))
    return result


def fields(data: memoryview, contents: Contents) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field; the value is an int for a varint and a memoryview
    otherwise."""
    position, end = 0, len(data)
    while position < end:
        contents.parts += 1
        if contents.parts > MAX_FIELDS:
            raise NotOnnx(f"it has more than {MAX_FIELDS:,} parts")
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
    """The integers of a repeated field: a single one, or a packed list; as signed 64-bit values."""
    if isinstance(value, int):
        return [signed(value)]
    result: list[int] = []
    position = 0
    while position < len(value):
        if len(result) >= MAX_FIELDS:
            raise NotOnnx(f"more than {MAX_FIELDS:,} whole numbers in a field")
        number, position = varint(value, position)
        result.append(signed(number))
    return result


def signed(number: int) -> int:
    """An unsigned 64-bit value as a signed one."""
    return number - 2**64 if number >= 2**63 else number


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """The varint at `position`, seven bits per byte, and the position behind it."""
    value = data[position]
    if value < 0x80:  # most varints are one byte
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
    """Bytes as UTF-8; a value of another type raises `TypeError`."""
    return str(value, "utf-8")
