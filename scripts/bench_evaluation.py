"""Wall time of an evaluation with two simulator processes against one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from bench_policy import train_demo_policy
from bench_rows import Row, compare, in_turns, seconds_of

from qsft_robot.policy.token_policy import load_policy
from qsft_robot.rollouts.evaluate import evaluate

GROUP = "evaluation"


def rows(folder: Path, quick: bool, say: Callable[[str], None]) -> Iterator[Row]:
    """One row; the start of the processes belongs to the time."""
    episodes, repeats, limit = (2, 1, 5) if quick else (100, 3, 50)
    say("a policy to evaluate")
    torch.set_num_threads(1)
    policy = load_policy(train_demo_policy(folder)[1] / "policy")
    env_args = policy.description.env_args

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
