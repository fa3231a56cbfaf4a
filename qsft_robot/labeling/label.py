"""Labels of logs by a critic, written for those who train other policies on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsft_robot.extras import require_packages
from qsft_robot.labeling.frame_labels import FrameLabels, label_frames
from qsft_robot.labeling.labeled_copy import check_logs, write_labeled
from qsft_robot.labeling.sidecars import (
    check_same_frames,
    lerobot_target,
    rlinf_target,
    write_lerobot,
    write_rlinf,
)
from qsft_robot.policy.description import LoadedPolicy
from qsft_robot.returns import ReturnRange


@dataclass(frozen=True)
class Targets:
    """Where labels go; at least one."""

    out: Path | None = None  # HDF5, a copy of the logs
    lerobot: Path | None = None  # a data set's folder, or a .parquet file
    rlinf: Path | None = None  # a data set's folder
    tag: str = "qsft"  # of RLinf's file
    positive: float = 0.3  # the share of frames whose advantage is true there


@dataclass(frozen=True)
class LabelReport:
    """What was labeled, and the files."""

    labels: tuple[FrameLabels, ...]
    files: tuple[Path, ...]
    threshold: float | None  # of RLinf's truth values

    def __str__(self) -> str:
        value = np.concatenate([log.value for log in self.labels])
        advantage = np.concatenate([log.advantage for log in self.labels])
        lines = [
            f"{len(value)} frames of {len(self.labels)} logs: V {value.mean():.3f} "
            f"({value.min():.3f} to {value.max():.3f}), advantage {advantage.mean():+.3f} "
            f"({advantage.min():+.3f} to {advantage.max():+.3f}), positive "
            f"{(advantage > 0).mean():.1%}"
        ]
        if self.threshold is not None:
            lines.append(f"true for RLinf from {self.threshold:+.4f} on")
        learned = sum(not log.held_out for log in self.labels)
        if learned:
            lines.append(
                f"note: {learned} logs were judged by a policy that may have learned from them, "
                "whose V remembers how they ended; two policies, each trained on one half, judge "
                "every log from outside (--also, docs/ecosystem.md)"
            )
        return "\n".join([*lines, *map(str, self.files)])


def label_logs(
    path: Path,
    policies: Sequence[LoadedPolicy],
    targets: Targets,
    *,
    steps: int = 10,
    filter_key: str | None = None,
    success_reward: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> LabelReport:
    """Label every frame (see `frame_labels.label_frames`) and write it to each target.

    Targets are checked before anything is computed, and each appears whole or not at all.
    `tell(done, of)` is called after each log. ValueError names the flag, file or log that is wrong.
    """
    if targets.out is None and targets.lerobot is None and targets.rlinf is None:
        raise ValueError("nowhere to write to: give --out, --lerobot or --rlinf, or several.")
    if not 0 < targets.positive < 1:
        raise ValueError(f"--positive {targets.positive}: a share lies between 0 and 1.")
    if targets.lerobot is not None or targets.rlinf is not None:
        require_packages("label --lerobot and --rlinf", "pyarrow")
    beside = None if targets.lerobot is None else lerobot_target(targets.lerobot)
    recap = None if targets.rlinf is None else rlinf_target(targets.rlinf, targets.tag)
    count = check_logs(path, filter_key, own=targets.out is not None)
    labels = []
    for log in label_frames(path, policies, steps, filter_key, success_reward):
        labels.append(log)
        if tell is not None:
            tell(len(labels), count)
    for folder in dict.fromkeys((targets.lerobot, targets.rlinf)):
        if folder is not None and folder.is_dir():
            check_same_frames(folder, labels)
    about = {
        "policy": " and ".join(_words(policy) for policy in policies),
        "logs": path.name,
        "steps": str(steps),
        "return_range": _range(policies[0].description.return_range),
    }
    files, threshold = [], None
    if beside is not None:
        write_lerobot(beside, labels, about)
        files.append(beside)
    if recap is not None:
        threshold = write_rlinf(recap, labels, targets.positive, about)
        files.append(recap)
    if targets.out is not None:
        write_labeled(path, targets.out, labels, about)
        files.append(targets.out)
    return LabelReport(tuple(labels), tuple(files), threshold)


def _words(policy: LoadedPolicy) -> str:
    data = policy.description.data
    mask = f", mask {data.filter_key}" if data.filter_key else ""
    return f"{policy.description.method} on {data.file}{mask}"


def _range(returns: ReturnRange | None) -> str:
    return "" if returns is None else str(returns.to_json())
