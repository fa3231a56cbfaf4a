"""A copy of a file of logs with V and the advantage of each frame beside its rewards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from qsft_robot.files import atomic_file
from qsft_robot.labeling.frame_labels import FrameLabels
from qsft_robot.logs.checks import demo_group, open_demonstrations, select_demos
from qsft_robot.logs.relabel import check_own
from qsft_robot.logs.writer import write_error

# Datasets of each log, float32 [t], and the attribute of `data` that says where they come from.
VALUE, ADVANTAGE, LABELS = "qsft_value", "qsft_advantage", "qsft_labels"


def check_logs(path: Path, filter_key: str | None, own: bool) -> int:
    """How many logs are to be labeled; with `own` ValueError where one is not the file's own."""
    with open_demonstrations(path) as file:
        names = select_demos(file, filter_key)
        if own:
            check_own(file, names)
    return len(names)


def write_labeled(
    path: Path, out: Path, labels: Sequence[FrameLabels], about: Mapping[str, str]
) -> None:
    """Copy `path` to `out` (which may be the same) with labels, those of before replaced; `out`
    appears whole or not at all."""
    try:
        with atomic_file(out) as temporary:
            shutil.copyfile(path, temporary)
            with h5py.File(temporary, "r+") as file:
                for log in labels:
                    demo = demo_group(file, log.name)
                    for key, rows in ((VALUE, log.value), (ADVANTAGE, log.advantage)):
                        if key in demo:
                            del demo[key]
                        demo[key] = rows.astype(np.float32)
                file["data"].attrs[LABELS] = json.dumps(dict(about))
    except (OSError, RuntimeError) as problem:
        raise write_error(out, problem) from problem
