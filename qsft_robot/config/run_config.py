"""The config.json of a run folder, of any version."""

from __future__ import annotations

from pathlib import Path

from qsft_robot.config.earlier import upgrade_settings
from qsft_robot.config.json_form import from_json
from qsft_robot.config.train import TrainConfig
from qsft_robot.files import read_json

CONFIG = "config.json"


def read_config(run: Path) -> TrainConfig:
    """The settings that a run was started with."""
    path = run / CONFIG
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: no object of settings, but {type(value).__name__}.")
    try:
        return from_json(TrainConfig, upgrade_settings(value))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no settings of a run: {error}") from error
