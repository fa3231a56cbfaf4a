"""Locks between runs: one arm, and one folder of logs, belong to one run at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from qsft_robot.control.robot import Robot, RobotSpec

# The lock of a folder of logs; it stays there, empty but for the number of the last process.
NAME = ".lock"


@contextmanager
def folder_lock(out: Path) -> Iterator[None]:
    """The folder of a run's logs, for one run; ValueError where another one has it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"--out {out}: is a file; give the name of a folder.") from None
    with _locked(out / NAME, f"--out {out}: another run writes into it; give another folder"):
        yield


@contextmanager
def arm_lock(arm: str) -> Iterator[None]:
    """The arm that `arm` names, for one run on this computer; ValueError where another one has
    it."""
    digest = hashlib.sha256(arm.encode()).hexdigest()[:32]
    path = Path(tempfile.gettempdir()) / f"qsft-robot-arm-{digest}.lock"
    with _locked(path, f"robot {arm}: another run drives it; end that one first"):
        yield


def arm_name(source: str | None, settings: Mapping[str, str]) -> str:
    """The name that tells an arm from others: the device among its settings (a path under /dev,
    which two drivers may name differently), else its file and all of its settings."""
    devices = sorted(_real(value) for value in settings.values() if value.startswith("/dev/"))
    if devices:
        return " ".join(devices)
    where, _, name = (source or "").rpartition(":")
    at = os.path.realpath(where) if where.endswith(".py") else where
    said = [f"{key}={value}" for key, value in sorted(settings.items())]
    return " ".join([f"{at}:{name}", *said])


def declared_device(robot: Robot) -> str | None:
    """What the robot's specification says that tells it from others; None where it says nothing, or
    not before it is connected."""
    try:
        spec = robot.spec
    except Exception:
        return None
    device = spec.device if isinstance(spec, RobotSpec) else None
    return _real(device) if isinstance(device, str) else None


def _real(device: str) -> str:
    return os.path.realpath(device) if device.startswith("/dev/") else device


@contextmanager
def _locked(path: Path, refusal: str) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except PermissionError as error:
        raise ValueError(f"{refusal} ({path}: {error.strerror}).") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise ValueError(f"{refusal} (process {holder or 'unknown'}).") from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
