"""What the end of a log means: success, a known failure, or a cut where the task could go on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import h5py
import numpy as np

from qsft_robot.logs.checks import check_demo, check_finite, select_demos

LogEnd = Literal["terminal", "truncated"]


def ends_by_name(
    file: h5py.File, log_end: LogEnd | Mapping[str, LogEnd] | None
) -> dict[str, LogEnd]:
    """Name of a demonstration -> what the end of it means when it is no success, where declared.

    `log_end` is for all or by filter key; ValueError on an unknown key or two answers for one log.
    """
    if log_end is None:
        return {}
    by_key = {None: log_end} if isinstance(log_end, str) else dict(log_end)
    ends: dict[str, LogEnd] = {}
    for key, end in by_key.items():
        if end not in ("terminal", "truncated"):
            raise ValueError(f"--data.log-end is 'terminal' or 'truncated', got '{end}'.")
        for name in select_demos(file, key):
            if ends.setdefault(name, end) != end:
                raise ValueError(
                    f"{file.filename}: {name} is under two filter keys whose --data.log-end differ."
                )
    return ends


def read_steps(demo: h5py.Group, key: str) -> np.ndarray:
    """A per-step dataset, [t] or [t, 1], as [t]."""
    array = demo[key][()]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"{demo.file.filename}: {demo.name[1:]}/{key}: shape {array.shape}; expected [t]."
        )
    check_finite(f"{demo.file.filename}: {demo.name[1:]}/{key}", array)
    return array


def success_signal(file: h5py.File, names: Sequence[str]) -> str:
    """Where this file marks success: per-step success, sparse rewards, the attribute, or dones."""
    demos = [file["data"][name] for name in names]
    for demo in demos:
        check_demo(demo)
    if all("success" in demo for demo in demos):
        return "success"
    levels = np.unique(np.concatenate([read_steps(demo, "rewards") for demo in demos]))
    if len(levels) == 2 and levels[0] == 0 and levels[1] > 0:
        return "rewards"
    if all("success" in demo.attrs for demo in demos):
        return "attribute"
    if all(read_steps(demo, "dones")[-1] > 0 for demo in demos):
        warnings.warn(
            f"{file.filename}: success is read from 'dones', for want of anything else, and every "
            f"one of the {len(demos)} logs ends with one, so that all of them count as successes. "
            "Where dones say only that a log is over, write success into the file "
            "(`qsft-robot relabel`).",
            stacklevel=2,
        )
    return "dones"


def first_success(demo: h5py.Group, signal: str) -> int | None:
    """Step of the first success; None when the log has none."""
    if signal == "attribute":
        return len(demo["actions"]) - 1 if bool(demo.attrs["success"]) else None
    marks = read_steps(demo, signal) > 0
    return int(marks.argmax()) if marks.any() else None


def ends_terminal(demo: h5py.Group, success: bool, end: LogEnd | None) -> bool:
    """Whether the log's end is terminal; otherwise it is truncated.

    A success is terminal, then a declared end decides, then the file's `terminated` and `truncated`
    (neither set: cut, so truncated); a file with only `dones` ends in terminals.
    """
    if success or end is not None:
        return success or end == "terminal"
    if "terminated" not in demo and "truncated" not in demo:
        return True
    if "terminated" not in demo:
        return not bool(read_steps(demo, "truncated")[-1])
    terminated = read_steps(demo, "terminated") > 0
    if terminated[:-1].any():
        raise ValueError(
            f"{demo.file.filename}: {demo.name[1:]}/terminated: set at step {terminated.argmax()} "
            f"of {len(terminated)}; only the last step of a log may terminate it."
        )
    return bool(terminated[-1])
