"""ReST (Gulcehre et al., arXiv 2308.08998) over the verbs: grow, improve, and again.

    python scripts/run_rest.py --recipe games/wordle --preset games/wordle --rounds 3

Grow: the newest policy plays episodes, which join all earlier logs. Improve: a policy is trained on
them, by each of the chosen ways: `filtered_sft` imitates the share of the logs with the highest
returns (ReST's own), `qsft` is Q-SFT on all of them. Each way grows logs of its own from the same
scripted logs. Rounds, resuming and the evaluation are those of run_flywheel.py: what is there is
kept, and no round plays an episode of the evaluation. `episodes` is the cost, those of scripts and
of policies together.
Results: OUT/rest.json and a table.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from run_flywheel import ROOT, row_of, seed_of, turn_of

from qsft_robot.files import write_json
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.rollouts.collect import env_seed

# How a policy is made of the logs -> words of `train`.
WAYS = {"filtered_sft": "--method filtered_sft --filtered-share {share}", "qsft": "--method qsft"}


def check_seeds(options: argparse.Namespace) -> None:
    """ValueError where an episode of the evaluation is played in any round, before the first."""
    evaluated = set(range(EVALUATION_SEED, EVALUATION_SEED + options.episodes))
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        if both := evaluated & {env_seed(seed + 1, index) for index in range(options.logs)}:
            raise ValueError(f"the scripted logs of seed {seed} hold the evaluation's {both}.")
        for turn in range(1, options.rounds + 1):
            seed_of(turn, seed, options)


def rows_of(way: str, options: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """One row a round, the first of the scripted logs alone."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    words = WAYS[way].format(share=options.share)
    asked = argparse.Namespace(**{**vars(options), "train": f"{words} {options.train}"})
    rows = []
    for turn in range(options.rounds + 1):
        found = [turn_of(out / way / str(seed), turn, seed, asked) for seed in seeds]
        row = row_of(turn, found, turn * options.own_logs)
        row = {"improve": way, "episodes": options.logs + row["played"], **row}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| improve | round | episodes | logs' success | success | interval | mean return | n |",
        "|---" * 8 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row['improve']} | {row['turn']} | {row['episodes']} | "
            f"{row['logs_success_rate']:.3f} | {row['success_rate']:.3f} | {row['low']:.3f} to "
            f"{row['high']:.3f} | {row['mean_return']:.3f} | {row['n']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every way for every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="games/wordle")
    parser.add_argument("--preset", default="games/wordle")
    parser.add_argument("--improve", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--share", type=float, default=0.2, help="of the logs, for filtered_sft")
    parser.add_argument("--logs", type=int, default=2000, help="scripted logs of round 0")
    parser.add_argument("--own-logs", type=int, default=2000, help="the policy's, each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=1000, help="of each evaluation")
    parser.add_argument("--train", default="", help="further words for every `train`")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "rest")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, which is loaded later
    check_seeds(options)
    began, rows, out = time.monotonic(), list[dict[str, Any]](), options.out.resolve()
    for way in options.improve:
        rows += rows_of(way, options, out)
        write_json(out / "rest.json", {"command": shlex.join(sys.argv), "rows": rows})
        print(f"{time.monotonic() - began:6.0f} s  {way}: {rows[-1]}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    try:
        main()
    except (RuntimeError, ValueError) as problem:
        sys.exit(f"error: {problem}")
