"""Ends of logs: success, a known failure, or a cut where the task could go on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import h5py
import numpy as np

from qsft_robot.logs.checks import (
    check_demo,
    check_finite,
    demo_group,
    demo_names,
    select_demos,
    truth,
)
from qsft_robot.logs.hdf5_members import KeptGroup, attribute, member, place
from qsft_robot.logs.hdf5_rows import read_rows

LogEnd = Literal["terminal", "truncated"]
# The attribute of a log of which nobody, robot, environment or person, told whether it succeeded.
OUTCOME, UNTOLD = "outcome", "untold"
# Per-step truth values.
MARKS = ("dones", "terminated", "truncated", "success")


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
    kept = demo.rows if isinstance(demo, KeptGroup) else {}
    if key not in kept:
        kept[key] = read_rows(demo[key])
    array = kept[key]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{place(demo)}/{key}: shape {array.shape}; expected [t].")
    check_finite(f"{place(demo)}/{key}", array)
    return array


def is_untold(demo: h5py.Group) -> bool:
    """Whether the log says that nobody told whether it succeeded."""
    told = attribute(demo, OUTCOME)
    return isinstance(told, str) and told == UNTOLD and "success" not in demo.attrs


def untold_note(untold: int, of: int) -> str:
    """The note on logs that tell no success."""
    return (
        f"of {untold} of {of} demonstrations nobody told whether they succeeded; they count as not "
        "successful. Say which did: qsft-robot relabel --success NAMES --failure NAMES."
    )


def read_marks(demo: h5py.Group, key: str) -> np.ndarray:
    """A per-step mark as bool [t]; ValueError on what is neither true nor false (1 or 0)."""
    values = read_steps(demo, key)
    if values.dtype != bool and (odd := (values != 0) & (values != 1)).any():
        step = int(odd.argmax())
        raise ValueError(
            f"{place(demo)}/{key}: {values[step]} at step {step}, where true or false (1 or 0) is "
            "expected."
        )
    return values.astype(bool)


def marks_of(demo: h5py.Group) -> dict[str, np.ndarray]:
    """Every mark of a log; ValueError where one is none, its attribute `success` included."""
    if (told := attribute(demo, "success")) is not None:
        truth(f"{place(demo)}: attribute success", told)
    read = demo.rows if isinstance(demo, KeptGroup) else {}
    there = [key for key in MARKS if key in read or isinstance(member(demo, key), h5py.Dataset)]
    return {key: read_marks(demo, key) for key in there}


def success_signals(file: h5py.File, names: Sequence[str]) -> dict[str, str]:
    """The mark of success of each log: its per-step `success`, else its attribute (or that nobody
    told it), else, for all logs of the file that have neither, by their rewards if these are 0 and
    one other number, else by `dones`. A log that was merged in or relabeled so keeps its own mark.
    """
    signals = {}
    for name in names:
        demo = demo_group(file, name)
        check_demo(demo)
        if "success" in demo:
            signals[name] = "success"
        elif "success" in demo.attrs:
            signals[name] = "attribute"
        elif is_untold(demo):
            signals[name] = UNTOLD
    rest = [name for name in names if name not in signals]
    if rest:
        signals |= dict.fromkeys(rest, _common_signal(file, rest))
    return signals


def _common_signal(file: h5py.File, names: Sequence[str]) -> str:
    """The signal of logs without a mark of their own. A mask may hold failures alone, so what the
    rewards are like is asked of the whole file."""
    every = [demo_group(file, name) for name in demo_names(file)]
    bare = [
        read_steps(demo, "rewards")
        for demo in every
        if "success" not in demo
        and "success" not in demo.attrs
        and isinstance(member(demo, "rewards"), h5py.Dataset)
    ]
    if _are_marks(np.concatenate(bare)):
        return "rewards"
    if all(read_marks(demo_group(file, name), "dones")[-1] for name in names):
        warnings.warn(
            f"{file.filename}: success is read from 'dones', for want of anything else, and every "
            f"one of the {len(names)} logs ends with one, so that all of them count as successes. "
            "Where dones say only that a log is over, write success into the file "
            "(`qsft-robot relabel`).",
            stacklevel=2,
        )
    return "dones"


def _are_marks(rewards: np.ndarray) -> bool:
    """Whether rewards are 0 and one number above it."""
    levels = np.unique(rewards)
    return len(levels) == 2 and levels[0] == 0 and bool(levels[1] > 0)


def first_success(demo: h5py.Group, signal: str) -> int | None:
    """Step of the first success; None when the log has none."""
    if signal == UNTOLD:
        return None
    if signal == "attribute":
        if not truth(f"{place(demo)}: attribute success", attribute(demo, "success", False)):
            return None
        rewards = read_steps(demo, "rewards")
        return int((rewards > 0).argmax()) if _are_marks(rewards) else len(rewards) - 1
    marks = read_steps(demo, signal) > 0 if signal == "rewards" else read_marks(demo, signal)
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
        return not bool(read_marks(demo, "truncated")[-1])
    terminated = read_marks(demo, "terminated")
    if terminated[:-1].any():
        raise ValueError(
            f"{place(demo)}/terminated: set at step {terminated.argmax()} "
            f"of {len(terminated)}; only the last step of a log may terminate it."
        )
    return bool(terminated[-1])
