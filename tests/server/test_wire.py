"""Messages: openpi's bytes both ways, and nothing but numbers within limits from a stranger."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import openpi_client.msgpack_numpy as openpi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qsft_robot.server.wire import DTYPES, MAX_CONTAINERS, MAX_DEPTH, WireError, pack, unpack

DTYPE = st.sampled_from(sorted(DTYPES)).map(np.dtype)
ARRAYS = DTYPE.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)
SCALARS = DTYPE.flatmap(lambda dtype: hnp.arrays(dtype, ())).map(lambda x: x[()])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | ARRAYS
    | SCALARS
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):  # numpy's float64 travels as Python's float
        return a == b or bool(np.isnan(a) and np.isnan(b))
    if isinstance(a, np.ndarray | np.generic):
        equal_nan = a.dtype.kind == "f"
        return (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and np.array_equal(a, b, equal_nan=equal_nan)
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None)
@given(TREES)
def test_a_message_comes_back_as_it_was(message):
    assert same(unpack(pack(message)), message)


@settings(deadline=None)
@given(TREES)
def test_the_bytes_are_those_of_openpi_and_openpi_reads_them(message):
    assert pack(message) == openpi.packb(message)
    assert same(openpi.unpackb(pack(message)), unpack(openpi.packb(message)))


def test_a_view_with_strides_is_sent_as_what_it_shows():
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)[::2, ::3]
    assert same(unpack(pack(array)), array.copy())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(frame):
    with suppress(WireError):
        unpack(frame)


@settings(deadline=None)
@given(TREES, st.data())
def test_a_damaged_message_is_a_message_or_a_wire_error(message, data):
    frame = bytearray(pack(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        frame[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    with suppress(WireError):
        unpack(bytes(frame[:cut]))


@pytest.mark.parametrize(
    "array",
    [
        np.array([{}], object),
        np.array(["a"]),
        np.array([b"a"]),
        np.array([1j]),
        np.zeros(1, [("x", "f4")]),
        np.array(["2020"], "M8[s]"),
        np.zeros(2, ">f4"),
    ],
)
def test_arrays_of_anything_but_numbers_are_neither_sent_nor_read(array):
    with pytest.raises(ValueError, match="can't be sent"):
        pack(array)
    entries = {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": array.shape,
    }
    with pytest.raises(WireError, match=r"dtype .* is not allowed"):
        unpack(msgpack.packb(entries))


def array_of(**changes: Any) -> bytes:
    """A packed array of four float32, with entries changed; None leaves one out."""
    entries = {"__ndarray__": True, "data": bytes(16), "dtype": "<f4", "shape": [4]} | changes
    return msgpack.packb({k.encode(): x for k, x in entries.items() if x is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [5]},
        {"shape": [2**62, 2**62]},
        {"shape": [2**32, 2**32]},  # overflows to 0 in 64 bits
        {"shape": [-4]},
        {"shape": [-1]},
        {"shape": [4.0]},
        {"shape": [True, 4]},
        {"shape": 4},
        {"shape": None},
        {"shape": [[4]]},
        {"shape": [1] * 40 + [4]},
        {"shape": [0, 2**31, 2**31, 2**31], "data": b""},
        {"data": "0000000000000000"},
        {"data": [0] * 16},
        {"data": None},
        {"dtype": None},
        {"dtype": "O"},
        {"dtype": "<f4,<f4"},
        {"dtype": b"<f4"},
        {"dtype": [["x", "<f4"]]},
        {"extra": 1},
    ],
)
def test_an_array_that_does_not_fit_its_bytes_is_refused(changes):
    with pytest.raises(WireError):
        unpack(array_of(**changes))


@pytest.mark.parametrize(
    ("dtype", "data"),
    [("<f4", "1.5"), ("|i1", 300), ("|u1", -1), ("<i4", 1.5), ("|b1", 2), ("<f4", None)],
)
def test_a_scalar_beyond_its_type_is_refused(dtype, data):
    entries = {b"__npgeneric__": True, b"data": data, b"dtype": dtype}
    with pytest.raises(WireError):
        unpack(msgpack.packb(entries))


def test_truth_values_are_zero_and_one_whatever_the_bytes_were():
    found = unpack(array_of(dtype="|b1", data=bytes([0, 1, 2, 255])))
    assert found.view(np.uint8).tolist() == [0, 1, 1, 1]


NESTED: dict[str, Callable[[int], bytes]] = {
    "lists": lambda n: b"\x91" * n + b"\xc0",
    "maps": lambda n: b"\x81\xa1a" * n + b"\xc0",
}


@pytest.mark.parametrize("kind", NESTED)
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 1000, 100_000])
def test_deep_nesting_is_refused(kind, depth):
    with pytest.raises(WireError):
        unpack(NESTED[kind](depth))


@pytest.mark.parametrize("kind", NESTED)
def test_nesting_up_to_the_limit_is_read(kind):
    unpack(NESTED[kind](MAX_DEPTH))


def test_many_empty_lists_are_refused_before_they_fill_the_memory():
    with pytest.raises(WireError, match=f"more than {MAX_CONTAINERS}"):
        unpack(b"\xdc\xff\xff" + b"\x90" * 0xFFFF)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xa1\xff",
        b"\x81\x01\x02",
        b"\x81\x90\x02",
        msgpack.packb(msgpack.ExtType(5, b"x")),
        msgpack.packb(msgpack.Timestamp(1)),
        pack({}) + pack({}),
        b"\x80\x04\x95\n\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",  # a pickle
    ],
)
def test_what_is_no_message_is_refused(frame):
    with pytest.raises(WireError):
        unpack(frame)
