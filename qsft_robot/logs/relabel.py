"""Relabeling of logs: success, rewards and ends of named logs, rewritten."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.logs.checks import (
    check_demo,
    demo_group,
    demo_names,
    masks_of,
    open_demonstrations,
)
from qsft_robot.logs.ends import OUTCOME, LogEnd, is_untold
from qsft_robot.logs.writer import write_error
from qsft_robot.names import no_such


def relabel(
    path: str | Path,
    out: str | Path,
    *,
    success: Sequence[str] = (),
    failure: Sequence[str] = (),
    failure_end: LogEnd = "terminal",
    reward: float = 1.0,
) -> Path:
    """Copy a robomimic-schema file to `out` with some of its logs relabeled; return `out`.

    `success` and `failure` name logs (demo_3) or masks. A success gets `reward` on its last step,
    0 elsewhere, and is terminal; a failure gets 0 throughout and the end that `failure_end` names
    (truncated: it was cut while the task could go on). Other logs and the masks stay as they are.
    `out` appears whole or not at all and may be `path` itself. ValueError on a name that is not
    there, and on a log that is called both.
    """
    path, out = Path(path), Path(out)
    with open_demonstrations(path) as file:
        good, bad = _named(file, success), _named(file, failure)
        check_own(file, [*good, *bad])
    both = [name for name in good if name in bad]
    if both:
        raise ValueError(f"{path}: {both[0]} is called a success and a failure.")
    if not good and not bad:
        raise ValueError(f"{path}: nothing to relabel; name logs or masks (--success, --failure).")
    if failure_end not in ("terminal", "truncated"):
        raise ValueError(f"an end is 'terminal' or 'truncated', got '{failure_end}'.")
    try:
        with atomic_file(out) as temporary:
            shutil.copyfile(path, temporary)
            with h5py.File(temporary, "r+") as file:
                for name in good:
                    _write(demo_group(file, name), reward, terminated=True)
                for name in bad:
                    _write(demo_group(file, name), 0.0, terminated=failure_end == "terminal")
    except (OSError, RuntimeError) as problem:
        raise write_error(out, problem) from problem
    return out


def _named(file: h5py.File, words: Sequence[str]) -> list[str]:
    """The logs that the words name, themselves or by mask."""
    masks, logs = masks_of(file), demo_names(file)
    names: list[str] = []
    for word in words:
        if word in logs:
            names.append(word)
        elif word in masks:
            names.extend(masks[word])
        else:
            there = [*logs, *masks]
            raise ValueError(f"{file.filename}: {no_such('demonstration or mask', word, there)}")
    return list(dict.fromkeys(names))


def check_own(file: h5py.File, names: Sequence[str]) -> None:
    """ValueError where a log is no good log, or is not this file's own: what is written to a link's
    target would change another log, or another file."""
    for name in names:
        check_demo(demo_group(file, name))
        link = file["data"].get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"{file.filename}: data/{name} is a link, and what it leads to would be changed "
                "too. Make a file of its own first (qsft-robot merge)."
            )


def _write(demo: h5py.Group, reward: float, terminated: bool) -> None:
    steps = check_demo(demo)
    last = np.arange(steps) == steps - 1
    succeeded = reward > 0
    values = {
        "rewards": np.where(last, reward, 0.0).astype(np.float32),
        "dones": last.astype(np.int64),
        "terminated": last & terminated,
        "truncated": last & (not terminated),
    }
    if "success" in demo:
        values["success"] = (last & succeeded).astype(demo["success"].dtype)
    for key, value in values.items():
        if key in demo:
            del demo[key]
        demo[key] = value
    if is_untold(demo):
        del demo.attrs[OUTCOME]
    demo.attrs["success"] = succeeded
