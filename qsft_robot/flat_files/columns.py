"""The columns of one flat file of steps (.npz or .hdf5), read in order and a few rows at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from numpy.lib import format as npy

from qsft_robot.files import regular_file
from qsft_robot.logs.hdf5_members import damage_named, members

# Bytes of rows that are read at once.
_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class Column:
    """One array [t, ...] of a flat file; `read(count)` gives its next rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[int], np.ndarray]

    def whole(self) -> np.ndarray:
        """All rows, of a column that was not begun."""
        return self.read(self.shape[0])


@contextmanager
def open_columns(path: Path) -> Iterator[Mapping[str, Column]]:
    """The columns of a flat file by name, datasets in groups by their path (infos/qpos).

    Each opening reads from the first row; memory is that of the rows asked for. ValueError names
    the file where it is neither kind, damaged, or holds what only pickle could read.
    """
    regular_file(path)
    with ExitStack() as stack:
        if zipfile.is_zipfile(path):
            with _zip_named(path):
                yield _npz_columns(path, stack.enter_context(zipfile.ZipFile(path)), stack)
        elif h5py.is_hdf5(path):
            with damage_named(path):
                file = stack.enter_context(h5py.File(path, "r"))
                yield {name: _hdf5_column(data) for name, data in _datasets(file, "").items()}
        else:
            raise ValueError(f"{path}: neither an .npz nor an HDF5 file, or cut short.")


@contextmanager
def _zip_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path}: damaged or cut short ({error}). Copy it again.") from error


def _npz_columns(path: Path, archive: zipfile.ZipFile, stack: ExitStack) -> dict[str, Column]:
    found = {}
    for name in archive.namelist():
        if name.endswith(".npy"):
            stream = stack.enter_context(archive.open(name))
            found[name.removesuffix(".npy")] = _npy_column(f"{path}: {name}", stream)
    return found


def _npy_column(where: str, stream: IO[bytes]) -> Column:
    try:
        version = npy.read_magic(stream)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](stream)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{where}: not an array as numpy writes it ({error}).") from error
    if dtype.hasobject:
        raise ValueError(f"{where}: holds Python objects, which are not read: save plain numbers.")
    if fortran and len(shape) > 1:
        raise ValueError(f"{where}: stands in column order; save np.ascontiguousarray of it.")
    row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize

    def read(count: int) -> np.ndarray:
        rows, left = bytearray(), count * row
        while left:
            block = stream.read(min(left, _AT_ONCE))
            if not block:
                raise ValueError(f"{where}: ends before its {shape[0]} rows do; copy it again.")
            rows += block
            left -= len(block)
        return np.frombuffer(rows, dtype).reshape(count, *shape[1:])

    return Column(shape, dtype, read)


def _datasets(group: h5py.Group, prefix: str) -> dict[str, h5py.Dataset]:
    found: dict[str, h5py.Dataset] = {}
    for name, item in members(group).items():
        if isinstance(item, h5py.Dataset):
            found[prefix + name] = item
        else:
            found |= _datasets(item, f"{prefix}{name}/")
    return found


def _hdf5_column(data: h5py.Dataset) -> Column:
    begun = 0

    def read(count: int) -> np.ndarray:
        nonlocal begun
        rows = data[begun : begun + count]
        begun += count
        return rows

    return Column(data.shape or (), data.dtype, read)


def join_npz(parts: Sequence[Path], file: IO[bytes]) -> None:
    """Write the rows of .npz files that have the same columns, one file's after the other's, as
    one compressed .npz; memory is that of one part's column."""
    with open_columns(parts[0]) as first:
        names = {name: (column.shape[1:], column.dtype) for name, column in first.items()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype) in names.items():
            total = 0
            for part in parts:
                with open_columns(part) as columns:
                    total += columns[name].shape[0]
            header = {
                "descr": npy.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (total, *shape),
            }
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array_header_1_0(stream, header)
                for part in parts:
                    with open_columns(part) as columns:
                        stream.write(columns[name].whole().tobytes())
