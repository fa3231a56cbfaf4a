"""Logs with the wrong outcome, found by V: 20 of 400 are turned, two halves trained, all ranked.

    python scripts/find_mislabels.py runs/mislabels

Recall and precision among the first 20 and 40 are printed twice: with V of the policy that never
saw the log, and, for comparison, with V of the one that learned its (perhaps wrong) outcome.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from qsft_robot.logs.reader import iter_episodes, read_env_args
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.rollouts.value_ranking import rank_by_value

HALVES = ("half_a", "half_b")


def main(
    out: Positional[Path],
    logs: Path | None = None,
    episodes: int = 400,
    wrong: int = 20,
    behavior_steps: int = 300,
    value_steps: int = 600,
    seed: int = 0,
) -> None:
    """Collect, turn outcomes, train on each half, rank.

    Args:
        out: Folder for logs and runs.
        logs: Clean logs that all ran to their end; collected when not given.
        episodes: Logs to collect.
        wrong: Logs whose outcome is turned.
        behavior_steps: Updates of the behavior stage.
        value_steps: Updates of the value stage.
        seed: Of the logs, of the outcomes that are turned and of training.
    """
    out.mkdir(parents=True, exist_ok=True)
    if logs is None:
        logs = out / "clean.hdf5"
        _run("collect", "tabletop/place-uncut", "--out", logs, "--episodes", episodes, "--cameras",
             "--seed", seed)  # fmt: skip
    spoiled = out / "spoiled.hdf5"
    turned = turn_outcomes(logs, spoiled, wrong, seed)
    for half in HALVES:
        _run("train", "--preset", "tabletop/low_dim", "--data.path", spoiled, "--data.filter-key",
             half, "--out", out / half, "--optim.behavior-steps", behavior_steps,
             "--optim.value-steps", value_steps, "--optim.batch-size", 64, "--model.width", 48,
             "--model.depth", 1, "--seed", seed)  # fmt: skip
    from qsft_robot.build import open_policy

    policies = [open_policy(out / half, runtime="torch") for half in HALVES]
    held_out = [x.name for x in rank_by_value(spoiled, policies)]
    told = [
        x for p, h in zip(policies, HALVES, strict=True) for x in rank_by_value(spoiled, [p], h)
    ]
    learned = [x.name for x in sorted(told, key=lambda x: -x.suspicion)]
    for name, ranked in (("V of the other half", held_out), ("V of the own half", learned)):
        for first in (wrong, 2 * wrong):
            hits = len(turned & set(ranked[:first]))
            print(
                f"{name}: {hits} of {wrong} wrong outcomes among the first {first} of "
                f"{len(ranked)}: recall {hits / wrong:.2f}, precision {hits / first:.2f}"
            )


def turn_outcomes(logs: Path, out: Path, wrong: int, seed: int) -> set[str]:
    """Write the logs with `wrong` outcomes turned, in two halves; return the names of those."""
    rng = np.random.default_rng(seed)
    names = [episode.name for episode in iter_episodes(logs, keys=())]
    order = [names[i] for i in rng.permutation(len(names))]
    turned, first = set(order[:wrong]), set(rng.permutation(order)[: len(order) // 2])
    with DemonstrationWriter(out, read_env_args(logs)) as writer:
        for episode in iter_episodes(logs):
            if episode.name in turned:
                rewards = np.zeros(len(episode), np.float32)
                rewards[-1] = not episode.success
                episode = replace(episode, rewards=rewards, success=not episode.success)  # noqa: PLW2901
            writer.append(episode, [HALVES[episode.name not in first]])
    return turned


def _run(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "qsft_robot.cli", *map(str, words)], check=True)


if __name__ == "__main__":
    tyro.cli(main)
