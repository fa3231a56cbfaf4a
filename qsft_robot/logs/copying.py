"""Copies of logs as content: whatever HDF5 points elsewhere with is read, or refused by name."""

from __future__ import annotations

from collections.abc import Collection

import h5py
import numpy as np

from qsft_robot.logs.hdf5_members import Member, arrays, members, place
from qsft_robot.logs.hdf5_rows import check_written, read_rows
from qsft_robot.logs.other_files import check_log

# Bytes of a dataset that are read at once.
_BLOCK = 1 << 26
# Groups inside of groups; more hold themselves.
_DEEPEST = 32
_OBSERVED = ("obs", "next_obs")


def copy_log(
    demo: h5py.Group, data: h5py.Group, name: str, keys: Collection[str] | None
) -> h5py.Group:
    """Copy one log into `data` under `name`, with all observation keys or those of `keys`.

    Datasets keep their own form (chunks, compression). Links are followed; virtual datasets and
    those whose numbers lie in other files become plain ones. ValueError names what can't be carried
    (references) or read.
    """
    check_log(demo)
    copied = data.create_group(name)
    _copy_attributes(demo, copied)
    for item, found in members(demo).items():
        if keys is None or item not in _OBSERVED:
            _copy(found, copied, item, 0)
            continue
        inside = copied.create_group(item)
        for key, dataset in arrays(demo, item).items():
            if key in keys:
                _copy(dataset, inside, key, 0)
    return copied


def _copy(found: Member, into: h5py.Group, name: str, depth: int) -> None:
    if isinstance(found, h5py.Group):
        if depth > _DEEPEST:
            raise ValueError(f"{place(found)}: a group that holds itself, or groups without end.")
        inside = into.create_group(name)
        _copy_attributes(found, inside)
        for item, each in members(found).items():
            _copy(each, inside, item, depth + 1)
        return
    if _refers(found.dtype):
        raise ValueError(
            f"{place(found)}: holds references, which lead nowhere in another file. Write what "
            "they point to, or take the entry out."
        )
    if not found.is_virtual and not found.external:
        into.copy(found, into, name)
        check_attributes(found)
        return
    check_written(found)
    plain = into.create_dataset(name, found.shape, found.dtype)
    rows = max(1, _BLOCK // max(1, found.dtype.itemsize * int(np.prod(found.shape[1:]))))
    if not found.shape:
        plain[()] = read_rows(found)
    for begin in range(0, found.shape[0] if found.shape else 0, rows):
        plain[begin : begin + rows] = read_rows(found, np.s_[begin : begin + rows], raw=True)
    _copy_attributes(found, plain)


def _refers(dtype: np.dtype) -> bool:
    if dtype.names:
        return any(_refers(dtype[field]) for field in dtype.names)
    inner = h5py.check_vlen_dtype(dtype)
    if isinstance(inner, np.dtype):
        return _refers(inner)
    return h5py.check_ref_dtype(dtype) is not None


def check_attributes(item: Member) -> None:
    """ValueError where an attribute is a reference."""
    for attribute in item.attrs:
        if _refers(item.attrs.get_id(attribute).dtype):
            raise ValueError(
                f"{place(item)}: attribute {attribute} is a reference, which leads nowhere in "
                "another file; take it out."
            )


def _copy_attributes(item: Member, copied: Member) -> None:
    check_attributes(item)
    for attribute in item.attrs:
        copied.attrs[attribute] = item.attrs[attribute]
