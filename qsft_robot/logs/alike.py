"""Logs that look like one that was checked: opened and read without asking everything again.

In a file of many short logs the questions about an array (which link, which type, which layout, its
name) take a hundred times as long as its numbers. Here they are asked of one log, by all checks
there are; of the next only whether it is laid out in the same way. Whatever differs, or fails, is
left to those checks, which name it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5a, h5d, h5o, h5s, h5t

from qsft_robot.logs.hdf5_members import KeptGroup, arrays
from qsft_robot.logs.hdf5_rows import kind_of
from qsft_robot.logs.images import rows_decide

# Numbers of an array that is read whole, be it for its last row alone.
_SMALL = 1 << 16
# Attributes that no reader of logs asks for; a simulator's whole model, in robosuite's files.
_UNREAD = {b"model_file"}


# Where observations stand in a log.
_GROUPS = ("obs", "next_obs")


class _Array(NamedTuple):
    """An array of the log that was checked."""

    path: str
    encoded: bytes
    stored: h5t.TypeID  # as it lies in the file
    read_as: h5t.TypeID
    dtype: np.dtype
    row: tuple[int, ...]  # the shape of a row
    encoding: str | None  # of strings; None of numbers
    wanted: bool


class _Attribute(NamedTuple):
    name: str
    encoded: bytes
    stored: h5t.TypeID
    read_as: h5t.TypeID
    dtype: np.dtype
    is_text: bool


class AlikeLogs:
    """The layout of a log that was checked, and the logs that share it."""

    def __init__(self, groups: dict[bytes, list[Any]], found: list[_Array]) -> None:
        self._groups, self._arrays = groups, found
        self._attributes: list[_Attribute] = []
        self._names: list[bytes] = []

    @classmethod
    def of(cls, demo: h5py.Group, steps: Sequence[str], keys: Iterable[str]) -> AlikeLogs | None:
        """The layout of a log that passed `check_demo`; None where it has anything that must be
        looked at log by log. Of the logs alike the arrays `steps` are read, where they are there,
        and the rows of the observation keys `keys`."""
        if not isinstance(demo, KeptGroup):
            return None
        try:
            groups, inner = _groups_of(demo)
            if groups is None:
                return None
            wanted = {f"{group}/{key}" for group in _GROUPS for key in keys}
            at_top = {name: demo[name] for name in steps if name in demo}
            found = [
                _array_of(path, x, path in at_top or path in wanted)
                for path, x in {**at_top, **inner}.items()
            ]
            alike = cls(groups, [array for array in found if array is not None])
            return alike if None not in found and alike._learn_attributes(demo) else None
        except Exception:  # of what no reader asked for: then each log is looked at
            return None

    def _learn_attributes(self, demo: h5py.Group) -> bool:
        self._names = _attribute_names(demo.id)
        for name in self._names:
            if name in _UNREAD:
                continue
            attribute = h5a.open(demo.id, name)
            if attribute.shape != ():
                return False
            dtype, text = attribute.dtype, h5py.check_string_dtype(attribute.dtype)
            if dtype.kind not in "biuf" and (text is None or text.length is not None):
                return False
            read_as = h5t.py_create(dtype)
            told = _Attribute(
                *(name.decode(), name, attribute.get_type(), read_as, dtype, text is not None)
            )
            self._attributes.append(told)
        return True

    def open(self, data: KeptGroup, name: str) -> KeptGroup | None:
        """The log `name`, its wanted arrays and its attributes read; None where it differs from the
        one that was checked, or can't be read."""
        try:
            encoded = name.encode()
            if data.id.links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
                return None
            group = h5o.open(data.id, encoded)
            if any(_links(group, path) != links for path, links in self._groups.items()):
                return None
            demo = KeptGroup(h5py.Group(group), f"{data.place}/{name}", data)
            if not (self._read_attributes(demo) and self._read_arrays(demo)):
                return None
        except Exception:  # whatever it is, the checks of a single log say it in words
            return None
        return demo

    def _read_attributes(self, demo: KeptGroup) -> bool:
        if _attribute_names(demo.id) != self._names:
            return False
        for wanted in self._attributes:
            attribute = h5a.open(demo.id, wanted.encoded)
            if attribute.shape != () or not attribute.get_type().equal(wanted.stored):
                return False
            value = np.empty((), wanted.dtype)
            attribute.read(value, mtype=wanted.read_as)
            said = value[()]
            if wanted.is_text:
                said = said.decode("utf-8", "surrogateescape") if isinstance(said, bytes) else said
            demo.attributes[wanted.name] = said
        demo.attribute_names = frozenset(name.decode() for name in self._names)
        return True

    def _read_arrays(self, demo: KeptGroup) -> bool:
        length = None
        for array in self._arrays:
            dataset = h5d.open(demo.id, array.encoded)
            shape = dataset.shape
            length = shape[0] if length is None else length
            # Only what lies in one piece in this file has a place there; see `H5Dget_offset`.
            alike = (
                shape[0] == length
                and shape[1:] == array.row
                and dataset.get_offset() is not None
                and dataset.get_type().equal(array.stored)
            )
            if not alike or not length:
                return False
            if not array.wanted:
                continue
            if math.prod(shape) > _SMALL:
                return False
            rows = np.empty(shape, array.dtype)
            dataset.read(h5s.ALL, h5s.ALL, rows, array.read_as)
            if array.encoding is not None:
                texts = [text.decode(array.encoding) for text in rows.flat]
                rows = np.empty(shape, object)
                rows[:] = texts
            demo.rows[array.path] = rows
        told = demo.attributes.get("num_samples", length)
        demo.length = length
        return bool(told == length)


def _array_of(path: str, dataset: h5py.Dataset, wanted: bool) -> _Array | None:
    """None where the array is no numbers and no text of any length, does not lie in one piece in
    the file, or is to be read and may hold images."""
    kind = kind_of(dataset)
    if kind not in ("number", "text") or not dataset.ndim or dataset.id.get_offset() is None:
        return None
    if wanted and rows_decide(dataset):
        return None
    encoding = None
    if kind == "text":
        text = h5py.check_string_dtype(dataset.dtype)
        if text.length is not None or dataset.ndim != 1:
            return None
        encoding = text.encoding
    return _Array(
        path,
        path.encode(),
        dataset.id.get_type(),
        h5t.py_create(dataset.dtype),
        dataset.dtype,
        dataset.shape[1:],
        encoding,
        wanted,
    )


def _groups_of(
    demo: KeptGroup,
) -> tuple[dict[bytes, list[Any]] | None, dict[str, h5py.Dataset]]:
    """Links of the log (".") and of every group that holds observations, and the arrays in them;
    no links where one of them is no hard link, or leads to neither array nor group of arrays."""
    inner = {f"{top}/{key}": x for top in _GROUPS for key, x in arrays(demo, top).items()}
    folders = {str(folder) for path in inner for folder in PurePosixPath(path).parents}
    folders |= {top for top in _GROUPS if top in demo}
    # A group comes after the one that it stands in.
    groups = {path: _links(demo.id, path.encode()) for path in sorted(folders | {"."})}
    known = inner.keys() | folders
    for path, links in groups.items():
        for name, kind in links:
            foreign = path != "." and f"{path}/{name.decode()}" not in known
            if kind != h5py.h5l.TYPE_HARD or foreign:
                return None, inner
    return {path.encode(): links for path, links in groups.items()}, inner


def _links(group: Any, path: bytes) -> list[tuple[bytes, int]]:
    """Names and kinds of all links of a group."""
    found: list[tuple[bytes, int]] = []
    group.links.iterate(
        lambda name, link: found.append((name, link.type)), obj_name=path, info=True
    )
    return found


def _attribute_names(group: Any) -> list[bytes]:
    names: list[bytes] = []
    h5a.iterate(group, names.append)
    return names
