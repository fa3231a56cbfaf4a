"""The logs that a tokenizer is fit to, and those that are too short for its chunks."""

from __future__ import annotations

import numpy as np

from qsft_robot.config.data import DataConfig
from qsft_robot.logs.reader import read_episodes
from qsft_robot.normalize import NormStats
from qsft_robot.types import Episode


def long_enough(episodes: list[Episode], horizon: int, data: DataConfig) -> list[Episode]:
    """The logs to train on where some are shorter than a chunk: by --data.short-logs all, the
    others, or a ValueError that names the shortest."""
    short = [e for e in episodes if len(e) < horizon]
    if not short or data.short_logs == "keep":
        return episodes
    if data.short_logs == "drop" and len(short) < len(episodes):
        return [e for e in episodes if len(e) >= horizon]
    least = min(short, key=len)
    few = f"{len(short)} of {len(episodes)} logs are" if len(short) < len(episodes) else "all are"
    raise ValueError(
        f"{data.path}: {least.name} has {len(least)} steps, and a chunk (horizon) {horizon} ({few} "
        "shorter): lower the horizon, or give --short-logs (of train: --data.short-logs) keep, "
        "where a log past its end repeats its last action, or drop."
    )


def action_logs(data: DataConfig, horizon: int) -> tuple[list[np.ndarray], NormStats]:
    """The normalized actions of each log, [t, d], and their scale; ValueError on text commands and
    on logs that are too short."""
    scale = (data.action_low, data.action_high) if data.action_low else None
    episodes = read_episodes(
        data.path, keys=(), filter_key=data.filter_key, action_scale=scale, require_reward=False
    )
    if episodes[0].has_commands:
        raise ValueError(
            f"{data.path}: the actions are text commands, whose words are the tokens of "
            "--tokenizer.kind commands; there is nothing to fit."
        )
    episodes = long_enough(episodes, horizon, data)
    norm_stats = NormStats.fit(episodes, (), scale)
    return [norm_stats.normalize_actions(e.actions) for e in episodes], norm_stats
