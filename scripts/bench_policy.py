"""A policy of the demo's shape to time, next to untrained: it never succeeds, so every episode
runs to its limit and the work is the same each time."""

from __future__ import annotations

import os
from pathlib import Path

from qsft_robot.config.train import TrainConfig
from qsft_robot.presets.look_up import apply_presets, recipe, with_settings
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.training.train import train


def train_demo_policy(folder: Path) -> tuple[Path, Path]:
    """Three logs and a run of two updates a stage, in `folder`; the logs and the run folder."""
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    logs = folder / "place.hdf5"
    chosen = recipe("tabletop/place")
    kwargs = {"cameras": list(chosen.cameras), "image_size": chosen.image_size, "task": "place"}
    parts = [CollectPart(3)]
    collect({"env_name": "tabletop", "env_kwargs": kwargs}, logs, parts, progress=False)
    settings = {
        "data.path": logs,
        "out": folder / "run",
        "optim.behavior_steps": 2,
        "optim.value_steps": 2,
        "optim.batch_size": 8,
    }
    train(with_settings(apply_presets(TrainConfig(), ["tabletop/pixels"]), settings))
    return logs, folder / "run"
