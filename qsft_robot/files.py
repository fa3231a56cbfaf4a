"""Files and folders that appear whole or not at all: temporary sibling, fsync, rename."""

from __future__ import annotations

import ctypes
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

SUMS = "SHA256SUMS"
# Seconds after which what a kill left half written is removed; a younger one may still be growing.
ABANDONED = 24 * 3600.0


def cache_folder() -> Path:
    """Where what can be made again is kept: $QSFT_CACHE, else ~/.cache/qsft-robot."""
    return Path(os.environ.get("QSFT_CACHE", Path.home() / ".cache" / "qsft-robot"))


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether nothing at or under `path` was written for a day."""
    try:
        newest = max(each.stat().st_mtime for each in (path, *path.rglob("*")))
    except FileNotFoundError:  # its writer has just finished
        return False
    return time.time() - newest > ABANDONED


def temporary_sibling(path: Path) -> Path:
    """A new hidden sibling of `path`; those that kills left to earlier writers are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????.tmp"):
        if is_abandoned(left):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it replaces `path`, else it is removed.

    An error, a full disk or a kill inside the block leaves the earlier file as it was; what a kill
    left behind goes with the next write of `path` after a day.
    """
    path = Path(path)
    temporary = temporary_sibling(path)
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit it gets its SHA256SUMS and takes
    the place of `path`, an earlier folder being removed last. On Linux the two change places in one
    step, so that a kill at any moment leaves a whole folder at `path`. FileExistsError where
    something else is there: only an empty folder, or one with a SHA256SUMS, is replaced."""
    path = Path(path)
    check_replaceable(path)
    temporary = temporary_sibling(path)
    temporary.mkdir()
    aside = temporary.with_suffix(".old")
    try:
        yield temporary
        write_sums(temporary)
        # Some libraries create their files for the owner alone, whatever the umask says: a service
        # that runs as another user could then read all but the weights.
        mode = stat.S_IMODE((temporary / SUMS).stat().st_mode)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(mode)
            _fsync(file)
        _fsync(temporary)
        if not (path.exists() and _exchange(temporary, path)):
            if path.exists():
                os.replace(path, aside)
            os.replace(temporary, path)
        _fsync(path.parent)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """FileExistsError where a folder that `atomic_folder` is to write would replace what it never
    wrote: ask before the work whose result goes there."""
    ours = (path / SUMS).is_file() or (path.is_dir() and not any(path.iterdir()))
    if path.exists() and not ours:
        raise FileExistsError(
            f"{path}: is already there, and was not written by qsft-robot (it has no {SUMS}), so "
            "it is not replaced. Give the name of a new folder."
        )


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places in one step; False where the system offers no such step."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:
        return False
    return rename(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over every file of `folder` (the format of the `sha256sum` command)."""
    sums = folder / SUMS
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f != sums)
    lines = [f"{sha256_of(f)}  {f.relative_to(folder).as_posix()}\n" for f in files]
    sums.write_text("".join(lines))


def check_sums(folder: Path) -> None:
    """Raise ValueError, naming the file, unless `folder` holds the files that SHA256SUMS lists, as
    it has them, and no others.

    Hidden files (.gitattributes, .DS_Store) are passed over: nothing reads them.
    """
    listed, there = _listed(folder), _files_in(folder)
    for name, digest in listed.items():
        if name not in there:
            raise ValueError(f"{folder}: {name} is listed in {SUMS} but missing; copy it again.")
        if sha256_of(folder / name) != digest:
            raise ValueError(
                f"{folder / name}: does not match {SUMS}, so it was changed or cut; copy it again."
            )
    if surplus := sorted(there - listed.keys() - {SUMS}):
        raise ValueError(
            f"{folder}: {', '.join(surplus[:5])}{' ...' if len(surplus) > 5 else ''} not listed in "
            f"{SUMS}, so the folder was changed after it was written: remove what was added, or "
            "copy the folder again."
        )


_SUM_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def _listed(folder: Path) -> dict[str, str]:
    """File name -> digest, as SHA256SUMS has them; ValueError on a line that is none, or twice."""
    sums = folder / SUMS
    if not sums.is_file():
        raise ValueError(
            f"{folder}: no {SUMS}, so the folder is incomplete or was not written by qsft-robot. "
            f"It holds: {[f.name for f in folder.iterdir()] if folder.is_dir() else 'nothing'}"
        )
    listed: dict[str, str] = {}
    for number, line in enumerate(read_text(sums).split("\n"), 1):
        if not line:
            continue
        found = _SUM_LINE.fullmatch(line)
        if found is None:
            raise ValueError(
                f"{sums}, line {number}: {line[:80]!r} is not a SHA-256 digest and a file name, as "
                "sha256sum writes them; copy the folder again."
            )
        digest, name = found.groups()
        if name in listed:
            raise ValueError(f"{sums}, line {number}: {name} is listed twice; copy it again.")
        inside(folder, name, f"{sums}, line {number}")
        listed[name] = digest
    return listed


def _files_in(folder: Path) -> set[str]:
    """Names of the files under `folder`, hidden ones aside; ValueError on what is neither a file
    nor a folder, and on a link that leads out."""
    found = set()
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in (*folders, *files):
            path = Path(at, name)
            if name.startswith("."):
                continue
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() and path.is_dir():
                raise ValueError(f"{path}: a link to a folder; copy the folder itself there.")
            if name in files:
                regular_file(contained(folder, path))
                found.add(relative)
    return found


def inside(folder: Path, name: Any, where: str) -> Path:
    """The path `name` under `folder`, for a name that stands in a file which others may have made.

    ValueError on an absolute path and on "..", beginning with `where`, and as `contained`.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(
            f"{where}: {str(name)[:200]!r} is not a path inside of {folder}: only such are read."
        )
    return contained(folder, folder / name)


def contained(folder: Path, path: Path) -> Path:
    """The path of something in `folder`; ValueError where a link leads out of it.

    A snapshot in the hub's cache may link into the blobs beside it.
    """
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    snapshots = [at for at in (root, *root.parents) if at.parent.name == "snapshots"]
    roots = [root, *(at.parents[1] / "blobs" for at in snapshots)]
    if not any(target.is_relative_to(each) for each in roots):
        raise ValueError(
            f"{path}: a link that leads out of {folder}, which is not followed; copy what it names "
            "there."
        )
    return path


def regular_file(path: Path) -> Path:
    """The path, of a file with an end: ValueError on a pipe, a device or a socket, from which
    reading would wait, or go on, forever; FileNotFoundError where there is nothing."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: not a regular file (a folder, pipe, device or socket).")
    return path


def read_text(path: Path) -> str:
    """A regular file's text; ValueError names the file when it is no UTF-8."""
    try:
        return regular_file(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not text in UTF-8 ({error}).") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; ValueError names the file when it is not JSON."""
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """JSON as it is defined: ValueError, beginning with `where`, on anything else, on what Python
    adds to it (NaN, Infinity) and on text that no file can hold (half of a surrogate pair)."""

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    try:
        value = json.loads(text, parse_constant=no_number)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(f"{where}: not valid JSON (nested too deep)") from error
    except ValueError as error:  # JSONDecodeError, UnicodeEncodeError, numbers of 5000 digits
        reason = " ".join(str(error).split())
        raise ValueError(f"{where}: not valid JSON ({reason})") from error
    return value
