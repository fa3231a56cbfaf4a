"""Other files that an HDF5 file of logs points to: which of them are read, and which are refused.

HDF5 may take the rows of an array from anywhere on the disk (external storage, virtual data sets,
external links). A file of logs from somebody else could so carry any local file into what is made
of it, or wait for a pipe forever.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import h5py

from qsft_robot.files import contained

# A source of a source of a source ...: more are made to keep readers busy.
_DEEPEST = 8
_anywhere: ContextVar[bool] = ContextVar("anywhere", default=False)


@contextmanager
def files_from_anywhere(allowed: bool) -> Iterator[None]:
    """Inside, files outside of the folder of the logs are read too, where `allowed` says so."""
    token = _anywhere.set(allowed)
    try:
        yield
    finally:
        _anywhere.reset(token)


def check_log(demo: h5py.Group) -> None:
    """ValueError where arrays of a log lie in a file that is not read; as `check_link`."""
    for name in demo:
        check_member(demo, name)
        group = demo.get(name)
        if isinstance(group, h5py.Group):
            for inner in group:
                check_member(group, inner)


def check_link(where: str, file: str, name: str) -> Path:
    """The file that an external link, or a virtual data set, of `file` names; ValueError, beginning
    with `where`, unless it is a regular file in the folder of `file` or below it."""
    folder, named = Path(file).absolute().parent, Path(name)
    # The order in which HDF5 looks.
    tried = [named, folder / named.name] if named.is_absolute() else [folder / named, named]
    return _checked(where, folder, name, tried)


def check_array(array: h5py.Dataset, depth: int = 0) -> None:
    """ValueError where rows of an array lie in a file that is not read; as `check_link`."""
    elsewhere = array.external or ()
    if not elsewhere and not array.is_virtual:
        return  # before the names, which take longer: each of many thousands of arrays comes by
    where = f"{array.file.filename}: {(array.name or '')[1:]}"
    folder = Path(array.file.filename).absolute().parent
    for name, *_ in elsewhere:
        _checked(where, folder, name, [Path(name)])  # HDF5 looks in the current directory alone
    if not array.is_virtual:
        return
    if depth > _DEEPEST:
        raise ValueError(f"{where}: a virtual data set of virtual data sets without end.")
    sources = {(source.file_name, source.dset_name) for source in array.virtual_sources()}
    for name, inner in sorted(sources):
        if "%" in name.replace("%%", ""):
            raise ValueError(f"{where}: its rows lie in a series of files, {name}: copy them in.")
        if name == ".":
            check_member(array.file, inner, depth + 1)
            continue
        path = check_link(where, array.file.filename, name)
        if not h5py.is_hdf5(path):
            raise ValueError(f"{where}: its rows lie in {path}, which is no HDF5 file.")
        with h5py.File(path, "r") as other:
            check_member(other, inner, depth + 1)


def check_member(group: h5py.Group, path: str, depth: int = 0) -> None:
    """ValueError where a link on the way to `path`, or the array there, leads to a file that is not
    read; as `check_link`. What is not there is somebody else's error."""
    found: h5py.Group | h5py.Dataset = group.file if path.startswith("/") else group
    for part in filter(None, path.split("/")):
        if not isinstance(found, h5py.Group):
            return
        link = found.get(part, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            where = f"{found.file.filename}: {(found.name or '')[1:]}/{part}"
            other = check_link(where, found.file.filename, link.filename)
            if depth < _DEEPEST and h5py.is_hdf5(other):
                with h5py.File(other, "r") as file:
                    check_member(file, link.path, depth + 1)
        elif isinstance(link, h5py.SoftLink) and depth < _DEEPEST:
            check_member(found, link.path, depth + 1)
        try:
            found = found[part]
        except (KeyError, OSError, RuntimeError):
            return
    if isinstance(found, h5py.Dataset):
        check_array(found, depth)


def _checked(where: str, folder: Path, name: str, tried: list[Path]) -> Path:
    there = next((path for path in tried if path.exists()), None)
    said = f"{where}: stands in another file, {name}, which is"
    if there is None:
        raise ValueError(f"{said} not there. Take it out of the logs, or bring the file along.")
    if not there.is_file():
        raise ValueError(f"{said} no file that can be read (a folder, a pipe or a device).")
    if _anywhere.get():
        return there
    try:
        path = contained(folder, there)
    except ValueError:
        path = None
    # What hidden folders keep (keys, settings) is nobody's recording.
    if path is None or any(part.startswith(".") for part in _below(folder, there)):
        raise ValueError(
            f"{said} outside of {folder}, the folder of the logs. If you trust whoever made them, "
            "make one file of all: qsft-robot merge FILE --out WHOLE --files-from-anywhere."
        )
    return there


def _below(folder: Path, path: Path) -> tuple[str, ...]:
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).parts
