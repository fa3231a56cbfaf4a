"""Rows of HDF5 arrays, read with one clear error where they can't be."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from qsft_robot.logs.hdf5_members import MEND, damage_named, place, reason_of
from qsft_robot.logs.other_files import check_array, check_link

# Deflate makes at most 1032 bytes of one. An array that is larger was never written in full.
_DENSEST, _SMALL = 1200, 1 << 28
# So few numbers are read and then converted, which is sooner done than selecting where they go.
_FEW = 1 << 12
# Logs that any machine has the memory for, in bytes.
_SHORT = 1 << 20


def kind_of(dataset: h5py.Dataset) -> str:
    """ "number" (bool, too), "text", or what else numpy or HDF5 call the type of the entries."""
    try:
        dtype = dataset.dtype
    except Exception as error:  # e.g. HDF5's bit fields, which numpy lacks
        return reason_of(error)
    if dataset.shape is None:
        return "nothing (an empty dataspace)"
    if h5py.check_string_dtype(dtype) is not None:
        return "text"
    special = h5py.check_ref_dtype(dtype) or h5py.check_vlen_dtype(dtype)
    return "number" if dtype.kind in "biuf" and special is None else str(dtype)


def read_rows(
    dataset: h5py.Dataset, rows: Any = (), out: np.ndarray | None = None, raw: bool = False
) -> np.ndarray:
    """Rows of a dataset, all when not told; text as str (bytes where `raw`), into `out` where it is
    given (numbers become its type).

    ValueError where HDF5 can't read them, text is no UTF-8, or the array was never written.
    """
    check_written(dataset)
    try:
        if kind_of(dataset) == "text" and not raw:
            found = np.asarray(dataset.asstr()[rows], object)
        elif out is None:
            found = dataset[rows]
        elif dataset.size < _FEW and dataset.dtype.kind in "iuf":
            with np.errstate(all="ignore"):  # as HDF5 converts: what does not fit becomes Inf
                out[:] = dataset[rows]
            return out
        elif dataset.size:
            dataset.read_direct(out, rows)
            return out
        else:
            return out
    except MemoryError as error:
        raise ValueError(f"{place(dataset)}: {dataset.shape} do not fit into memory.") from error
    except Exception as error:  # OSError, RuntimeError, UnicodeDecodeError, ...
        raise ValueError(
            f"{place(dataset)}: can't be read ({reason_of(error)}): damaged, or compressed in a "
            "way that this installation lacks."
        ) from error
    if out is None:
        return found
    out[:] = found
    return out


def check_written(dataset: h5py.Dataset) -> None:
    """ValueError where parts of a dataset lie in files that are not there, and where it says to be
    far larger than all that was ever written of it: a few bytes could ask for all memory."""
    check_array(dataset)
    others = [name for name, *_ in dataset.external or ()]
    if dataset.is_virtual:
        others += [source.file_name for source in dataset.virtual_sources()]
        _check_sources(dataset)
    _check_external(dataset)
    stored = dataset.id.get_storage_size()
    for name in others:
        path = dataset.file.filename if name == "." else name
        beside = Path(dataset.file.filename).parent / path
        stored += os.path.getsize(beside if beside.is_file() else path)
    size = dataset.size * dataset.dtype.itemsize
    if size > _SMALL and size > _DENSEST * stored:
        raise ValueError(
            f"{place(dataset)}: {dataset.dtype} {dataset.shape} would take {size / 2**30:.3g} GiB, "
            f"but {stored} bytes of it were written; write it in full or leave it out."
        )


def _check_sources(dataset: h5py.Dataset) -> None:
    """ValueError where a virtual dataset names a dataset that its file lacks: HDF5 reads zeros."""
    file = Path(dataset.file.filename)
    for source in dataset.virtual_sources():
        if source.file_name == ".":
            there = source.dset_name in dataset.file
        else:
            path = check_link(place(dataset), str(file), source.file_name)
            with damage_named(path), h5py.File(path, "r") as other:
                there = source.dset_name in other
        if not there:
            raise ValueError(
                f"{place(dataset)}: is put together from {source.dset_name} of {source.file_name}, "
                f"which is not there. {MEND}"
            )

    if not _covered(dataset):
        raise ValueError(
            f"{place(dataset)}: is put together from other datasets, and no row of them stands for "
            "some of its own, which would be read as zeros. Write these rows, or take the log out."
        )


def _covered(dataset: h5py.Dataset) -> bool:
    """Whether every entry of a virtual dataset comes from some source: HDF5 reads others as zeros.

    Exact where sources are whole rows, as recorders write them; else by the number of entries."""
    if not dataset.shape:
        return bool(dataset.virtual_sources())
    rows, entries = np.zeros(dataset.shape[:1], bool), 0
    whole_rows = True
    for source in dataset.virtual_sources():
        try:
            low, high = (np.array(bound) for bound in source.vspace.get_select_bounds())
        except (RuntimeError, ValueError):  # without an end: it grows with its source
            return True
        selected = source.vspace.get_select_npoints()
        entries += selected
        sides = high - low + 1
        whole_rows &= selected == math.prod(sides.tolist())
        whole_rows &= tuple(sides[1:].tolist()) == dataset.shape[1:]
        rows[low[0] : high[0] + 1] = True
    return bool(rows.all()) if whole_rows else entries >= dataset.size


def _check_external(dataset: h5py.Dataset) -> None:
    """ValueError where files of external storage end before the array does: HDF5 reads zeros."""
    missing = dataset.size * dataset.dtype.itemsize if dataset.external else 0
    for name, offset, size in dataset.external or ():
        wanted = min(size, missing)
        if os.path.getsize(name) - offset < wanted:
            raise ValueError(
                f"{place(dataset)}: {wanted} bytes of it stand in {name} from byte {offset} on, "
                "where the file is shorter: the rest would be read as zeros. Copy the file again, "
                "or take the entry out."
            )
        missing -= wanted


def room_for(where: str, size: int) -> None:
    """ValueError where so many bytes do not fit into the memory that this machine has left."""
    free = None if size < _SHORT else _free_memory()
    if free is not None and size > free:
        raise ValueError(
            f"{where}: one log takes {size / 2**30:.3g} GiB of memory, and {free / 2**30:.3g} are "
            "free. Leave keys out, or cut the log into several."
        )


def _free_memory() -> int | None:
    """Bytes; None on a system that doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        told = dict(line.split(":", 1) for line in lines)
        free = int(told["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return free if limit == resource.RLIM_INFINITY else min(free, limit)
