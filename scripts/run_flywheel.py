"""Turns the flywheel: logs train a policy, its own episodes join the logs, and it trains again.

    python scripts/run_flywheel.py

Turn 0 is a policy from scripted logs of mixed quality. Each turn lets the newest policy act, labels
its episodes by the environment's success, merges them with all earlier logs and trains anew on all
of them. Every policy is evaluated on the same episodes, which no turn plays. With the words
`--train "--method filtered_sft"` this is ReST: grow by the policy's own episodes, improve by
imitating what succeeded.
Results: OUT/flywheel.json and a table; `played` is what a turn has cost, in episodes of policies.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from qsft_robot import cli
from qsft_robot.files import read_json, write_json
from qsft_robot.intervals import wilson
from qsft_robot.presets.look_up import EVALUATION_SEED
from qsft_robot.rollouts.collect import env_seed

ROOT = Path(__file__).resolve().parent.parent


def qsft(words: str, log: Path) -> None:
    """Run one `qsft-robot` command, its output into `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        print(f"$ qsft-robot {words}", flush=True)
        status = cli.main(shlex.split(words))
    if status:
        raise RuntimeError(f"`qsft-robot {words}` failed; see {log}")


def turn_of(folder: Path, turn: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Logs, policy and evaluation of one turn; what is there already is kept."""
    log = folder / "flywheel.log"
    logs, run = folder / f"logs_{turn}.hdf5", folder / f"run_{turn}"
    if not logs.exists() and turn == 0:
        words = f"--episodes {options.logs} --cameras --seed {seed + 1}"
        qsft(f"collect {options.recipe} {words} --workers 1 --out {logs}", log)
    if not logs.exists():
        own = folder / f"own_{turn}.hdf5"
        own_seed = seed_of(turn, seed, options)
        words = f"--episodes {options.own_logs} --seed {own_seed} --workers 1"
        qsft(
            f"collect {options.recipe} --policy {folder / f'run_{turn - 1}'} {words} --out {own}",
            log,
        )
        qsft(f"merge {folder / f'logs_{turn - 1}.hdf5'} {own} --out {logs}", log)
    if not (run / "policy").exists():
        resume = f"--resume {run}" if (run / "checkpoint").exists() else ""
        words = f"--data.path {logs} --out {run} --seed {seed} {options.train}"
        qsft(f"train {resume or f'--preset {options.preset} {words}'}", log)
    summary = run / "evaluation" / "policy" / "summary.json"
    if not summary.exists():
        qsft(f"evaluate {run} --episodes {options.episodes} --workers 1", log)
    return {
        "policy": read_json(summary),
        "logs": read_json(run / "policy" / "policy.json")["data"],
    }


def seed_of(turn: int, seed: int, options: argparse.Namespace) -> int:
    """The seed of a turn's own episodes: no scene is seen twice. ValueError where one of them is an
    episode of the evaluation."""
    chosen = 1000 * turn + seed + 1
    played = {env_seed(chosen, index) for index in range(options.own_logs)}
    if both := played & set(range(EVALUATION_SEED, EVALUATION_SEED + options.episodes)):
        raise ValueError(f"turn {turn} would play the evaluation's seeds {sorted(both)}.")
    return chosen


def row_of(turn: int, found: list[dict[str, Any]], played: int) -> dict[str, Any]:
    """One turn over all seeds, before which a policy of each had played so many episodes."""
    n = sum(each["policy"]["n"] for each in found)
    rate = wilson(sum(round(each["policy"]["success_any"]["successes"]) for each in found), n)
    return {
        "turn": turn,
        "played": played,
        "logs": found[0]["logs"]["episodes"],
        "logs_success_rate": sum(each["logs"]["success_rate"] for each in found) / len(found),
        "success_rate": rate.rate,
        "low": rate.low,
        "high": rate.high,
        "n": n,
        "by_seed": [each["policy"]["success_rate"] for each in found],
        "mean_return": sum(each["policy"]["mean_return"] for each in found) / len(found),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| turn | played | logs | their success | policy's success | 95 % interval | mean return "
        "| n | seeds |",
        "|---" * 9 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row['turn']} | {row['played']} | {row['logs']} | {row['logs_success_rate']:.3f} | "
            f"{row['success_rate']:.3f} | {row['low']:.3f} to {row['high']:.3f} | "
            f"{row['mean_return']:.3f} | {row['n']} | "
            f"{len(row['by_seed'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Turn the flywheel for every seed and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tabletop/place")
    parser.add_argument("--preset", default="tabletop/low_dim")
    parser.add_argument("--logs", type=int, default=200, help="scripted logs of turn 0")
    parser.add_argument("--own-logs", type=int, default=600, help="the policy's, each turn")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=200, help="of each evaluation")
    parser.add_argument("--train", default="", help="further words for every `train`")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "flywheel")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, which is loaded later
    out = options.out.resolve()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    began = time.monotonic()
    rows = []
    for turn in range(options.turns + 1):
        found = [turn_of(out / str(seed), turn, seed, options) for seed in seeds]
        rows.append(row_of(turn, found, turn * options.own_logs))
        write_json(out / "flywheel.json", {"command": shlex.join(sys.argv), "rows": rows})
        print(f"{time.monotonic() - began:6.0f} s  turn {turn}: {rows[-1]}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
