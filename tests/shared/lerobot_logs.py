"""Logs with smooth frames, to go into LeRobot data sets, and changes of their Parquet files."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq

from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode

ENV = {"env_name": "tabletop", "type": 2, "env_kwargs": {"task": "place"}, "control_hz": 12.5}
# (steps, success, terminated, instruction)
KINDS = [
    (7, True, True, "lift the cube"),
    (4, False, True, "open the drawer"),
    (9, False, False, "lift the cube"),
    (1, True, True, "lift the cube"),
]


def smooth_frames(rng, steps, height, width):
    """Gradients that move: what a camera sees, not noise that no codec keeps."""
    y, x, t = np.meshgrid(np.arange(height), np.arange(width), np.arange(steps), indexing="ij")
    phase = rng.uniform(0, 6, 3)
    waves = [127 + 100 * np.sin(0.2 * x + 0.1 * y + 0.5 * t + p) for p in phase]
    return np.stack(waves, axis=-1).transpose(2, 0, 1, 3).astype(np.uint8)


def make(path, rng, kinds=KINDS, cameras=("front_image", "wrist_image"), size=(24, 32), **env):
    with DemonstrationWriter(path, {**ENV, **env}) as writer:
        for i, (steps, success, terminated, lang) in enumerate(kinds):
            rewards = np.zeros(steps, np.float32)
            rewards[-1] = success
            rows = {key: smooth_frames(rng, steps + 1, *size) for key in cameras}
            rows |= {
                "proprio": rng.normal(size=(steps + 1, 3)).astype(np.float32),
                "target": rng.normal(size=(steps + 1, 2)).astype(np.float32),
                "grip": rng.normal(size=(steps + 1, 1)).astype(np.float32),
            }
            actions = rng.uniform(-30, 30, (steps, 2)).astype(np.float32)
            masks = ["valid" if i == 2 else "train"]
            writer.append(
                Episode(
                    "", rows, actions, rewards, terminated, not terminated, success, lang,
                    {"seed": i, "reset_options": {"phase": "open"}},
                ),
                masks,
            )  # fmt: skip
    return path


def rewrite(folder, name, change):
    path = next(folder.glob(name))
    pq.write_table(change(pq.read_table(path)), path)
