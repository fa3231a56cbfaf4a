"""Observations to hold two ways of running a policy against each other: recorded, or random."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qsft_robot.logs.checks import ANY_SCALE, masks_of, open_demonstrations, select_demos
from qsft_robot.logs.reader import iter_episodes
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.types import Observation


def recorded_observations(
    path: Path,
    description: PolicyDescription,
    count: int,
    steps: int = 16,
    instruction: str | None = None,
) -> list[list[Observation]]:
    """Up to `count` observations of a data file: one list a log, its first `steps` rows, logs drawn
    from those that the policy was trained on, else, in a file without their mask, from all.
    `instruction` goes before the file's own.

    FileNotFoundError when there is no file; ValueError when it lacks a key of the policy.
    """
    with open_demonstrations(path) as file:
        mask = description.data.filter_key
        names = select_demos(file, mask if mask in masks_of(file) else None)
    cameras, state_keys = list(description.cameras), list(description.state_keys)
    found: list[list[Observation]] = []
    for i in np.random.default_rng(0).permutation(len(names)):
        left = count - sum(len(log) for log in found)
        if left <= 0:
            break
        (episode,) = iter_episodes(
            path,
            keys=[*state_keys, *cameras],
            names=[names[i]],
            instruction=instruction,
            log_end="terminal",
            action_scale=ANY_SCALE,
        )
        rows = episode.observations
        found.append(
            [
                Observation(
                    {key: rows[key][t] for key in cameras},
                    {key: rows[key][t] for key in state_keys},
                    episode.instruction,
                )
                for t in range(min(len(episode), steps, left))
            ]
        )
    return found


def random_observations(
    description: PolicyDescription, count: int, steps: int = 16, seed: int = 0
) -> list[list[Observation]]:
    """`count` observations that nobody saw: state drawn with the logs' mean and deviation, random
    pixels, the policy's instructions; in lists of up to `steps`, each as one episode."""
    rng = np.random.default_rng(seed)
    instructions = description.data.instructions or [""]
    stats = description.norm_stats

    def draw(log: int) -> Observation:
        images = {
            key: rng.integers(0, 256, (*size, 3), dtype=np.uint8)
            for key, size in description.cameras.items()
        }
        state = {
            key: rng.normal(stats.mean[key], stats.std[key]).astype(np.float32)
            for key in description.state_keys
        }
        return Observation(images, state, instructions[log % len(instructions)])

    return [
        [draw(log) for _ in range(min(steps, count - first))]
        for log, first in enumerate(range(0, count, steps))
    ]
