"""Messages between processes: JSON with numpy arrays in it, framed as a header and raw buffers."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

ARRAY, TEXTS = "__array__", "__texts__"
_HEAD = struct.Struct("<Q")
_ALIGNMENT = 16


def pack(message: Any) -> bytes:
    """Frame a JSON tree that may hold numpy arrays of numbers, or of str (dtype object, one axis);
    numpy scalars become numbers.

    Layout: length of the header (8 bytes), header (JSON: the tree with array numbers, and dtype,
    shape and offset of each array), buffers. Raises TypeError on anything that JSON lacks.
    """
    arrays: list[np.ndarray] = []

    def default(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            is_text = value.dtype == object and value.ndim == 1
            if is_text and all(isinstance(x, str) for x in value):
                return {TEXTS: value.tolist()}
            if value.dtype.hasobject:
                raise TypeError(
                    f"an array of dtype {value.dtype} can't be sent, only numbers and str can"
                )
            arrays.append(np.ascontiguousarray(value).reshape(value.shape))
            return {ARRAY: len(arrays) - 1}
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"a {type(value).__name__} can't be sent, only JSON types and arrays can")

    tree = json.dumps(message, default=default)
    table, offset = [], 0
    for array in arrays:
        offset += -offset % _ALIGNMENT
        table.append([array.dtype.str, array.shape, offset])
        offset += array.nbytes
    header = json.dumps([table, tree]).encode()
    header += b" " * (-(_HEAD.size + len(header)) % _ALIGNMENT)
    base = _HEAD.size + len(header)
    frame = bytearray(base + offset)
    frame[: _HEAD.size] = _HEAD.pack(len(header))
    frame[_HEAD.size : base] = header
    for array, (_, _, start) in zip(arrays, table, strict=True):
        frame[base + start : base + start + array.nbytes] = array.tobytes()
    return bytes(frame)


def unpack(frame: bytes) -> Any:
    """Undo `pack`; the arrays are writable views into one copy of the frame."""
    memory = bytearray(frame)
    (length,) = _HEAD.unpack_from(memory)
    base = _HEAD.size + length
    table, tree = json.loads(bytes(memory[_HEAD.size : base]))

    def array_of(value: dict[str, Any]) -> Any:
        if value.keys() == {TEXTS}:
            return np.array(value[TEXTS], object)
        if value.keys() != {ARRAY}:
            return value
        name, shape, start = table[value[ARRAY]]
        dtype = np.dtype(name)
        count = int(np.prod(shape, dtype=np.int64))
        if not count:
            return np.zeros(shape, dtype)
        return np.frombuffer(memory, dtype, count, base + start).reshape(shape)

    return json.loads(tree, object_hook=array_of)
