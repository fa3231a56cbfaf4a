"""The bytes of an ONNX graph with all of its weights, finite, checked without the package onnx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

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
# Its kind of numbers, its name, and where the numbers stand: packed by kind, or as raw bytes.
_DATA_TYPE, _NAME, _FLOATS, _DOUBLES, _RAW = 2, 8, 4, 10, 9
# Kinds of floating point numbers; bfloat16 is the upper half of a float32.
_FLOAT_TYPES = {1: "<f4", 10: "<f2", 11: "<f8", 16: "<u2"}
_BFLOAT16 = 16
# A graph in a node in a graph ...: deeper is made to exhaust the stack.
_DEEPEST = 64


def read_graph(path: Path) -> bytes:
    """The bytes of an ONNX file.

    ValueError when it is none, when one of its tensors lies in another file (onnxruntime would
    read that from the current directory, or from wherever the name leads), or holds NaN or Inf.
    """
    data = regular_file(path).read_bytes()
    try:
        kinds = [field for field, _ in _fields(memoryview(data))]
        tensors = list(_tensors(memoryview(data), "model", 0)) if 7 in kinds else []
        external, broken = any(map(_names_a_file, tensors)), non_finite(tensors)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: not an ONNX graph, or cut ({error}).") from error
    if 7 not in kinds:
        raise ValueError(f"{path}: not an ONNX graph.")
    if external:
        raise ValueError(
            f"{path}: some of its weights lie in another file (external data), which is not read: "
            "a policy's graph carries its own. Export the policy again (qsft-robot export RUN)."
        )
    if broken is not None:
        raise ValueError(
            f"{path}: {broken} holds NaN or Inf, so the training broke down or the file was "
            "changed; export an earlier checkpoint, or train again."
        )
    return data


def non_finite(tensors: Iterable[memoryview]) -> str | None:
    """The name of the first tensor with NaN or Inf; None where there is none.

    A constant of one number, or one of zeros and -Inf alone, is a mask's: a graph that is sound has
    such, and the finite numbers of a decision are looked at all the same.
    """
    for tensor in tensors:
        fields = list(_fields(tensor))
        kind = next((value for field, value in fields if field == _DATA_TYPE), 0)
        if kind not in _FLOAT_TYPES:
            continue
        there = (_RAW, _FLOATS, _DOUBLES)
        data = b"".join(bytes(x) for f, x in fields if f in there and isinstance(x, memoryview))
        if len(data) % np.dtype(_FLOAT_TYPES[kind]).itemsize:
            raise ValueError("a tensor with a part of a number")
        numbers = np.frombuffer(data, _FLOAT_TYPES[kind])
        if kind == _BFLOAT16:
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        if numbers.size < 2 or np.isfinite(numbers).all():
            continue
        if not np.isin(numbers, [0, -np.inf]).all():
            name = next((x for f, x in fields if f == _NAME and isinstance(x, memoryview)), b"")
            return bytes(name).decode(errors="backslashreplace") or "a constant"
    return None


def with_scores(data: bytes) -> tuple[bytes, list[str]]:
    """A graph that also puts out what its ArgMax nodes choose from, and the names of that.

    Graphs of folders from before the output `finite` choose token 0 where the scores are NaN, and
    nothing else of them shows it. Repeated messages of a protobuf file are merged, so the outputs
    are added by writing them behind the graph.
    """
    model = memoryview(data)
    names = [name for field, graph in _fields(model) if field == 7 for name in _chosen_from(graph)]
    added = b"".join(_field(12, _field(1, name.encode())) for name in names)
    return data + (_field(7, added) if added else b""), names


def _chosen_from(graph: int | memoryview) -> Iterator[str]:
    """The first input of each ArgMax among the nodes of a graph."""
    assert isinstance(graph, memoryview)
    for field, node in _fields(graph):
        if field != 1 or not isinstance(node, memoryview):
            continue
        inside = [(f, bytes(x)) for f, x in _fields(node) if isinstance(x, memoryview) and f < 5]
        if (4, b"ArgMax") in inside:
            yield next(x for f, x in inside if f == 1).decode()


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, as protobuf writes it."""
    said, size = [number << 3 | 2], len(value)
    while size > 127:
        said.append(size & 127 | 128)
        size >>= 7
    return bytes([*said, size]) + value


def _tensors(message: memoryview, kind: str, depth: int) -> Iterator[memoryview]:
    """Every tensor in a message, wherever it stands."""
    if depth > _DEEPEST:
        raise ValueError("graphs nested too deep")
    if kind == "tensor":
        yield message
    holds = _HOLD[kind]
    for field, value in _fields(message):
        inner = holds.get(field)
        if inner and isinstance(value, memoryview):
            yield from _tensors(value, inner, depth + 1)


def _names_a_file(tensor: memoryview) -> bool:
    return any(f in (_EXTERNAL_DATA, _DATA_LOCATION) and x != 0 for f, x in _fields(tensor))


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
