"""Messages between robots and the policy server: msgpack with numpy arrays, as openpi packs them.

An array is the map `{b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [...]}`, a
numpy scalar `{b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}`. What is read was written
by a stranger: numbers of a few types only, every length limited, and no way to run anything.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

# As numpy's dtype.str writes them. No objects, records, strings or complex numbers.
DTYPES = frozenset(
    ["|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
)
MAX_DEPTH = 16
# An empty list is one byte on the wire and 56 in memory: count them, so that a message of the
# allowed size can't become many times that.
MAX_CONTAINERS = 4096
MAX_LENGTH = 1 << 16  # entries of one list or map
# Entries of all lists and maps of one request: two-letter words take 100 ns and 50 bytes each.
MAX_ENTRIES = 1 << 14
MAX_DIMENSIONS = 8
_ARRAY = {b"__ndarray__", b"data", b"dtype", b"shape"}
_SCALAR = {b"__npgeneric__", b"data", b"dtype"}


class WireError(ValueError):
    """A frame that is no message, or one beyond the limits."""


def pack(message: Any) -> bytes:
    """Pack JSON types, bytes, numpy arrays and numpy scalars; the bytes are those of openpi.

    TypeError or ValueError on anything else, arrays of objects included.
    """
    return msgpack.packb(message, default=_encode)


def unpack(frame: bytes, max_entries: int | None = None) -> Any:
    """Undo `pack`. Arrays are read-only views of the frame. WireError on anything malformed, and on
    more than `max_entries` in all lists and maps together."""
    count = entries = 0
    longest = MAX_LENGTH if max_entries is None else min(MAX_LENGTH, max_entries)

    def counted(value: Any) -> Any:
        nonlocal count, entries
        count += 1
        entries += len(value)
        if count > MAX_CONTAINERS:
            raise WireError(f"the message holds more than {MAX_CONTAINERS} lists and maps")
        if max_entries is not None and entries > max_entries:
            raise WireError(f"the message holds more than {max_entries} entries")
        return value

    def decoded(value: dict[Any, Any]) -> Any:
        return _decode(counted(value))

    try:
        message = msgpack.unpackb(
            frame,
            object_hook=decoded,
            list_hook=counted,
            max_ext_len=0,
            max_array_len=longest,
            max_map_len=longest,
        )
    except WireError:
        raise
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        # Some of msgpack's errors have no words.
        said = str(error) or type(error).__name__
        raise WireError(f"the message is no msgpack of openpi's form ({said})") from None
    _check_depth(message)
    return message


def _encode(value: Any) -> Any:
    """The map of an array or a numpy scalar."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.str not in DTYPES:
            raise ValueError(
                f"an array of dtype {value.dtype} can't be sent; numbers of {sorted(DTYPES)} can"
            )
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": value.shape,
            }
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} can't be sent; JSON types, bytes and numbers can")


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _scalar(value)
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value[b"dtype"]
    if not isinstance(name, str) or name not in DTYPES:
        raise WireError(f"dtype {_short(name)} is not allowed; allowed are {sorted(DTYPES)}")
    return np.dtype(name)


def _array(value: dict[Any, Any]) -> np.ndarray:
    if value.keys() != _ARRAY:
        raise WireError("an array has the entries __ndarray__, data, dtype and shape, all as bytes")
    dtype, data, shape = _dtype(value), value[b"data"], value[b"shape"]
    if not isinstance(data, bytes):
        raise WireError(f"the data of an array are bytes, not {type(data).__name__}")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(n) is int and 0 <= n <= 1 << 31 for n in shape)
    ):
        raise WireError(
            f"shape {_short(shape)}: a list of at most {MAX_DIMENSIONS} lengths is needed"
        )
    # Python's whole numbers don't overflow, so a huge shape can't pass for a small one.
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"shape {_short(shape)} of {dtype.str} does not fit {len(data)} bytes")
    if dtype == np.bool_:
        # A byte other than 0 and 1 is no truth value.
        return np.frombuffer(data, np.uint8).reshape(shape).astype(np.bool_)
    return np.frombuffer(data, dtype).reshape(shape)


def _scalar(value: dict[Any, Any]) -> np.generic:
    if value.keys() != _SCALAR:
        raise WireError("a scalar has the entries __npgeneric__, data and dtype, all as bytes")
    dtype, data = _dtype(value), value[b"data"]
    if type(data) not in (bool, int, float):
        raise WireError(f"the data of a scalar are a number, not {type(data).__name__}")
    kinds = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}[dtype.kind]
    if type(data) not in kinds:
        raise WireError(f"{_short(data)} is no {dtype.str}")
    if dtype.kind in "iu" and not np.iinfo(dtype).min <= data <= np.iinfo(dtype).max:
        raise WireError(f"{_short(data)} is beyond {dtype.str}")
    with np.errstate(over="ignore"):
        return dtype.type(data)


def _check_depth(message: Any) -> None:
    level = [message]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise WireError(f"the message is nested more than {MAX_DEPTH} deep")


def _short(value: Any) -> str:
    """A few words for a value that may be huge or deeply nested."""
    if isinstance(value, list) and len(value) <= MAX_DIMENSIONS:
        return f"[{', '.join(type(x).__name__ if type(x) is not int else str(x) for x in value)}]"
    if isinstance(value, str | int | float):
        return repr(value)[:80]
    return f"({type(value).__name__})"
