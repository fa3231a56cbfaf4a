"""Verbs of the command line that make one file of logs out of others: merge, relabel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional


def merge(
    files: Positional[tuple[Path, ...]],
    out: Path,
    env_args_from: Path | None = None,
    common_keys: bool = False,
) -> None:
    """Join files of logs into one: earlier logs and those that a policy made since.

    Args:
        files: HDF5 files in robomimic's schema; their logs are numbered anew in this order.
        out: HDF5 file to write; it appears whole or not at all, and may be one of the files.
        env_args_from: The file whose environment is kept, where environments or rates differ.
        common_keys: Keep the observation keys that all files share, where they differ.
    """
    from qsft_robot.demonstrations import read_masks
    from qsft_robot.merge import merge_files
    from qsft_robot.step_progress import StepProgress

    with StepProgress("merge", "logs") as tell:
        merge_files(files, out, env_args_from=env_args_from, common_keys=common_keys, tell=tell)
    masks = ", ".join(f"{name} {len(names)}" for name, names in read_masks(out).items())
    print(f"{out}: {tell.done} logs of {len(files)} files; masks: {masks}")


def relabel(
    file: Positional[Path],
    out: Path,
    success: tuple[str, ...] = (),
    failure: tuple[str, ...] = (),
    failure_end: Literal["terminal", "truncated"] = "terminal",
) -> None:
    """Say anew which logs succeeded: success, rewards and ends of named logs.

    Args:
        file: HDF5 file in robomimic's schema.
        out: HDF5 file to write; it may be the same file.
        success: Logs (demo_3) or masks that succeeded: reward 1 on the last step.
        failure: Logs or masks that failed: no reward.
        failure_end: terminal: the failure is the outcome; truncated: it was cut while the task
            could go on.
    """
    from qsft_robot.relabel import relabel as run

    run(file, out, success=success, failure=failure, failure_end=failure_end)
    print(out)
