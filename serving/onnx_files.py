"""What stands in an ONNX file, read without the onnx package: enough to refuse a file before a runtime sees it.

A Protocol Buffers message is a row of fields, each a key (number and wire type) and a value; messages nest as
length-delimited values. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MODEL = {"graph": 7, "opset_import": 8, "metadata_props": 14, "functions": 25}
GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
NODE = {"op_type": 4, "attribute": 5, "domain": 7}
ATTRIBUTE = {"t": 5, "g": 6, "tensors": 10, "graphs": 11}
TENSOR = {"external_data": 13}
OPSET = {"domain": 1, "version": 2}
ENTRY = {"key": 1, "value": 2}

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5
STANDARD = ("", "ai.onnx")
"""Names of ONNX's own domain."""


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


def contents_of(data: bytes) -> Contents:
    """What the ONNX model in `data` consists of; raises `NotOnnx`."""
    found = Contents()
    try:
        model = list(fields(memoryview(data)))
        for number, value in model:
            if number == MODEL["opset_import"]:
                opset: dict[int, Any] = dict(fields(value))
                found.opsets[text(opset.get(OPSET["domain"], b""))] = int(opset[OPSET["version"]])
            elif number == MODEL["metadata_props"]:
                entry = dict(fields(value))
                found.metadata[text(entry[ENTRY["key"]])] = text(entry.get(ENTRY["value"], b""))
            elif number == MODEL["graph"]:
                read_graph(value, found)
    except (IndexError, KeyError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise NotOnnx(f"{type(error).__name__} while reading its fields") from error
    if any(number == MODEL["functions"] for number, _ in model):
        found.operations.add("function")
    if not found.operations or not found.opsets:
        raise NotOnnx("it holds no graph")
    return found


def read_graph(data: memoryview, found: Contents) -> None:
    """Add a graph's operations, and those of the graphs in its nodes."""
    for number, value in fields(data):
        if number == GRAPH["node"]:
            read_node(value, found)
        elif number == GRAPH["initializer"]:
            read_tensor(value, found)
        elif number == GRAPH["sparse_initializer"]:
            found.operations.add("sparse_initializer")


def read_node(data: memoryview, found: Contents) -> None:
    """Add a node's operation and what its attributes hold."""
    name = domain = ""
    for number, value in fields(data):
        if number == NODE["op_type"]:
            name = text(value)
        elif number == NODE["domain"]:
            domain = text(value)
        elif number == NODE["attribute"]:
            for kind, part in fields(value):
                if kind in (ATTRIBUTE["g"], ATTRIBUTE["graphs"]):
                    read_graph(part, found)
                elif kind in (ATTRIBUTE["t"], ATTRIBUTE["tensors"]):
                    read_tensor(part, found)
    found.operations.add(name if domain in STANDARD else f"{domain}.{name}")


def read_tensor(data: memoryview, found: Contents) -> None:
    """Note whether a tensor's numbers lie elsewhere."""
    found.external |= any(number == TENSOR["external_data"] for number, _ in fields(data))


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field, the value a memoryview, or an int where the field is a varint."""
    position, end = 0, len(data)
    while position < end:
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


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, seven bits a byte, and where the next field begins."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise NotOnnx("a number of more than ten bytes")


def text(value: memoryview | bytes) -> str:
    """Bytes as UTF-8."""
    return bytes(value).decode()
