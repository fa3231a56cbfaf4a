"""The bytes of an ONNX graph that carries all of its weights, checked without the package onnx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from qsft_robot.files import regular_file

# The messages of onnx.proto that can hold a tensor: message -> field -> the message in it.
_HOLD: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}  # fmt: skip
# Of a tensor: names of the file that holds its numbers, and whether they lie there.
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
# A graph in a node in a graph ...: deeper is made to exhaust the stack.
_DEEPEST = 64


def read_graph(path: Path) -> bytes:
    """The bytes of an ONNX file.

    ValueError when it is none, or when one of its tensors lies in another file: onnxruntime would
    read that from the current directory, or from wherever the name leads.
    """
    data = regular_file(path).read_bytes()
    try:
        kinds = [field for field, _ in _fields(memoryview(data))]
        external = 7 not in kinds or _names_a_file(memoryview(data), "model", 0)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: not an ONNX graph, or cut ({error}).") from error
    if 7 not in kinds:
        raise ValueError(f"{path}: not an ONNX graph.")
    if external:
        raise ValueError(
            f"{path}: some of its weights lie in another file (external data), which is not read: "
            "a policy's graph carries its own. Export the policy again (qsft-robot export RUN)."
        )
    return data


def _names_a_file(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deep")
    holds = _HOLD[kind]
    for field, value in _fields(message):
        if kind == "tensor" and field in (_EXTERNAL_DATA, _DATA_LOCATION) and value != 0:
            return True
        inner = holds.get(field)
        if inner and isinstance(value, memoryview) and _names_a_file(value, inner, depth + 1):
            return True
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a protobuf message; bytes are not copied."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
        elif wire in (1, 2, 5):
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, at = _varint(message, at)
            if at + size > end:
                raise ValueError(f"a field of {size} bytes where {end - at} are left")
            yield field, message[at : at + size]
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")
