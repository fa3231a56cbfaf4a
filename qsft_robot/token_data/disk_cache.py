"""Room on disk for what can be made again: the entries that were idle longest give way."""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import sys
import uuid
import weakref
from contextlib import suppress
from pathlib import Path

from qsft_robot.files import is_abandoned
from qsft_robot.printed_text import printable, say

GIB = 1 << 30
# Of each kind of entry (frames, features); QSFT_CACHE_GIB sets another.
LIMIT_GIB = 32.0


class InUse:
    """Keeps one entry of the cache where it is for as long as this object lives.

    A lock of the operating system, so that it ends with the process however that ends. Sent to a
    worker, it locks for itself. FileNotFoundError when there is no such entry.
    """

    def __init__(self, entry: Path) -> None:
        self.entry = entry
        descriptor = os.open(entry, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        with suppress(OSError):  # a file system without locks, or a cache that is only to be read
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            os.utime(entry)

    def __reduce__(self) -> tuple[type[InUse], tuple[Path]]:
        return InUse, (self.entry,)


def in_use(entry: Path, marker: str) -> InUse | None:
    """Hold an entry if it is there and whole, which its file `marker` tells."""
    with suppress(FileNotFoundError):
        held = InUse(entry)
        if (entry / marker).is_file():
            return held
    return None


def make_room(folder: Path, need: int) -> None:
    """As `found_room`; ValueError where the disk is too full even so."""
    if not found_room(folder, need):
        free = shutil.disk_usage(folder).free
        raise ValueError(
            f"{folder}: {free / GIB:.3f} GiB free, the new entry of the cache needs "
            f"{need / GIB:.3f} GiB; set QSFT_CACHE to a folder on a larger disk."
        )


def found_room(folder: Path, need: int) -> bool:
    """Make room in `folder` for an entry of `need` bytes; whether it fits on the disk now.

    Entries go, the one that was idle longest first, until they and the new one keep to the limit
    (`QSFT_CACHE_GIB`, 32) and fit on the disk. One that a process reads stays, be the limit passed
    or not. ValueError where the limit is no positive number.
    """
    limit = _limit()
    folder.mkdir(parents=True, exist_ok=True)
    entries = sorted((_last_use(entry), _size(entry), entry) for entry in folder.iterdir())
    held, removed = sum(size for _, size, _ in entries), []
    for _, size, entry in entries:
        if entry.name.startswith("."):
            removable = is_abandoned(entry)
        else:
            removable = held + need > limit or need > shutil.disk_usage(folder).free
        if removable and _removed(entry):
            held -= size
            removed.append(size)
    if removed:
        say(
            f"{printable(folder)}: removed what was not used for longest, {sum(removed) / GIB:.3f} "
            f"GiB (QSFT_CACHE_GIB is {limit / GIB:g}, a new entry takes {need / GIB:.3f} GiB).",
            sys.stderr,
        )
    return need <= shutil.disk_usage(folder).free


def _limit() -> float:
    text = os.environ.get("QSFT_CACHE_GIB", str(LIMIT_GIB))
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise ValueError(
            f"QSFT_CACHE_GIB is {text!r}; it is the disk space in GiB that cached frames, and "
            f"cached features, may take each: a number above 0 ({LIMIT_GIB:g} when it is not set)."
        )
    return limit * GIB


def _last_use(entry: Path) -> float:
    """When an entry was last held; 0 for what another process has just renamed or removed."""
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(entry: Path) -> int:
    """Bytes of an entry; 0 for what another process has just renamed or removed."""
    try:
        return sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
    except FileNotFoundError:
        return 0


def _removed(entry: Path) -> bool:
    """Remove an entry unless a process holds it; it disappears in one step."""
    try:
        descriptor = os.open(entry, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside = entry.with_name(f".{entry.name}.{uuid.uuid4().hex[:8]}.old")
        os.replace(entry, aside)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    shutil.rmtree(aside, ignore_errors=True)
    return True
