"""Members, attributes and rows of an HDF5 file, each opened with one clear error where it can't be.

h5py answers a file that is odd with whatever its layers raise (KeyError for a link that leads
nowhere, TypeError for a type that numpy lacks, OSError without a name), and waits forever for a
pipe. Here all of them become a ValueError that names file and place.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from qsft_robot.logs.other_files import check_array, check_link

Member: TypeAlias = h5py.Group | h5py.Dataset
# Links that lead to links, and groups inside of groups.
_DEEPEST = 32
# Arrays of one log: more are a file made to keep readers busy.
_MOST = 10_000
# Deflate makes at most 1032 bytes of one. An array that is larger was never written in full.
_DENSEST, _SMALL = 1200, 1 << 28


def place(item: Member) -> str:
    """File and path of a member, for messages."""
    return f"{item.file.filename}: {(item.name or '/')[1:]}"


def inside(group: Member, name: str) -> str:
    """File and path of a member of `group` that may not be there."""
    return f"{place(group)}/{name}" if group.name not in ("/", None) else f"{place(group)}{name}"


@contextmanager
def damage_named(path: str | Path) -> Iterator[None]:
    """Turn what h5py raises inside of the block into a ValueError that names the file."""
    try:
        yield
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        raised_by = "" if trace is None else trace.tb_frame.f_code.co_filename
        if "h5py" not in raised_by.replace("\\", "/").split("/"):
            raise
        raise ValueError(
            f"{path}: HDF5 can't read it ({_reason(error)}): damaged, cut short or of a kind that "
            "is not read. Copy it again or collect it again."
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).strip("'\"").split()) or type(error).__name__


def member(group: h5py.Group, name: str, depth: int = 0) -> Member | None:
    """The group or dataset at `name` (a/b/c, too); None where there is none.

    ValueError on a link that leads nowhere, in a circle, or to what is no file.
    """
    found: Member | None = group
    for part in filter(None, name.split("/")):
        if not isinstance(found, h5py.Group):
            return None
        found = _linked(found, part, depth)
    return found


def _linked(group: h5py.Group, part: str, depth: int) -> Member | None:
    link = group.get(part, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        target = f"{link.path} of the file {link.filename}"
        check_link(inside(group, part), group.file.filename, link.filename)
    elif isinstance(link, h5py.SoftLink):
        target = str(link.path)
        if depth >= _DEEPEST:
            raise ValueError(f"{inside(group, part)}: its links lead in a circle ({target}).")
        # Walked by hand: a link on the way may lead to what must not be opened.
        start = group.file if target.startswith("/") else group
        if member(start, target, depth + 1) is None:
            raise ValueError(
                f"{inside(group, part)}: a link to {target}, where nothing is. {_MEND}"
            )
    else:
        target = ""
    try:
        found = group[part]
    except Exception as error:  # KeyError, OSError, RuntimeError: it differs by link and damage
        said = f"a link to {target}, which can't be opened" if target else "can't be opened"
        raise ValueError(f"{inside(group, part)}: {said} ({_reason(error)}). {_MEND}") from error
    if isinstance(found, h5py.Dataset):
        check_array(found)
    return found if isinstance(found, Member) else None


_MEND = "Take the entry out of the file, or bring what it names to where it is looked for."


def has(group: h5py.Group, name: str) -> bool:
    """Whether there is an entry of this name, one that leads nowhere included."""
    return group.get(name, getlink=True) is not None


def members(group: h5py.Group) -> dict[str, Member]:
    """Groups and datasets of a group by name; ValueError as `member`."""
    try:
        names = list(group)
    except Exception as error:
        raise ValueError(f"{place(group)}: can't be listed ({_reason(error)}).") from error
    found = {name: _linked(group, name, 0) for name in names}
    return {name: item for name, item in found.items() if item is not None}


def arrays(demo: h5py.Group, name: str) -> dict[str, h5py.Dataset]:
    """Datasets of the group `name` of a log and of the groups in it, by their path in it:
    {"proprio": ..., "images/left": ...}; {} where there is no such group.

    ValueError as `member`, on a group that holds itself, and on a dataset in the group's place.
    """
    group = member(demo, name)
    if group is None:
        return {}
    if not isinstance(group, h5py.Group):
        raise ValueError(f"{inside(demo, name)}: a dataset, where a group of arrays is expected.")
    found: dict[str, h5py.Dataset] = {}
    _gather(group, "", found, ())
    return found


def _gather(
    group: h5py.Group, prefix: str, found: dict[str, h5py.Dataset], above: tuple[object, ...]
) -> None:
    itself = (group.file.filename, h5py.h5o.get_info(group.id).addr)
    if itself in above or len(above) > _DEEPEST:
        raise ValueError(f"{place(group)}: a group that holds itself, or groups without end.")
    for name, item in members(group).items():
        if isinstance(item, h5py.Group):
            _gather(item, f"{prefix}{name}/", found, (*above, itself))
        else:
            found[prefix + name] = item
        if len(found) > _MOST:
            raise ValueError(f"{place(group)}: more than {_MOST} arrays in one log.")


def attribute(item: Member, name: str, default: Any = None) -> Any:
    """One attribute: str, number, bool, or numpy array of numbers or str; `default` where there is
    none or it is empty. ValueError where it can't be read."""
    if name not in item.attrs:
        return default
    where = f"{place(item)}: attribute {name}"
    try:
        value = item.attrs[name]
    except Exception as error:  # a type that numpy lacks, text that is no UTF-8, damage
        raise ValueError(f"{where}: can't be read ({_reason(error)}).") from error
    if isinstance(value, h5py.Empty):
        return default
    if isinstance(value, bytes | np.bytes_):
        return value.decode(errors="replace")
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else value
    return value


def kind_of(dataset: h5py.Dataset) -> str:
    """ "number" (bool, too), "text", or what else numpy or HDF5 call the type of the entries."""
    try:
        dtype = dataset.dtype
    except Exception as error:  # e.g. HDF5's bit fields, which numpy lacks
        return _reason(error)
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
        elif dataset.size:
            dataset.read_direct(out, rows)
            return out
        else:
            return out
    except MemoryError as error:
        raise ValueError(f"{place(dataset)}: {dataset.shape} do not fit into memory.") from error
    except Exception as error:  # OSError, RuntimeError, UnicodeDecodeError, ...
        raise ValueError(
            f"{place(dataset)}: can't be read ({_reason(error)}): damaged, or compressed in a way "
            "that this installation lacks."
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
                f"which is not there. {_MEND}"
            )


def room_for(where: str, size: int) -> None:
    """ValueError where so many bytes do not fit into the memory that this machine has left."""
    free = _free_memory()
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
