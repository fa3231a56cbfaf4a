"""Wall time of an evaluation with two simulator processes against one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.collect import CollectPart, collect
from qsft_robot.config import TrainConfig
from qsft_robot.evaluate import evaluate
from qsft_robot.policy import load_policy
from qsft_robot.presets import apply_presets, recipe, with_settings
from qsft_robot.train import train

GROUP = "evaluation"


def train_policy(folder: Path) -> Path:
    """A policy of the demo's shape after two updates a stage: it never succeeds, so every episode
    runs to its limit and the work is the same each time."""
    os.environ["QSFT_CACHE"] = str(folder / "cache")
    logs = folder / "place.hdf5"
    chosen = recipe("tabletop/place")
    kwargs = {"cameras": list(chosen.cameras), "image_size": chosen.image_size, "task": "place"}
    parts = [CollectPart(3)]
    collect({"env_name": "tabletop", "env_kwargs": kwargs}, logs, parts, progress=False)
    settings = {
        "data.path": logs,
        "out": folder / "run",
        "optim.behaviour_steps": 2,
        "optim.value_steps": 2,
        "optim.batch_size": 8,
    }
    return train(with_settings(apply_presets(TrainConfig(), ["tabletop/pixels"]), settings))


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """One row; the start of the processes belongs to the time."""
    episodes, repeats, limit = (2, 1, 5) if quick else (100, 3, 50)
    say("a policy to evaluate")
    torch.set_num_threads(1)
    policy = load_policy(train_policy(folder))
    env_args = policy.description["env_args"]

    def seconds(workers: int) -> float:
        taken = seconds_of(
            lambda: evaluate(
                policy,
                env_args,
                range(100_000, 100_000 + episodes),
                workers=workers,
                env_overrides={"max_steps": limit},
                progress=False,
            )
        )
        say(f"{workers} worker{'s' * (workers > 1)}: {taken:.1f} s")
        return taken

    found = in_turns({f"{n}": lambda n=n: seconds(n) for n in (1, 2)}, repeats)
    yield compare(
        GROUP,
        "evaluation_two_workers_vs_one",
        found["2"],
        found["1"],
        f"s for {episodes} episodes of {limit} steps, two 64x64 cameras, one policy thread",
        1.6,
        "higher",
        ratio="peer / ours",
    )
