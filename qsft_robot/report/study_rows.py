"""Rows of docs/results.json: rates and means pooled over seeds, with command and commit."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from qsft_robot.files import read_json, write_json
from qsft_robot.intervals import mean_interval, seed_interval, wilson

# What `value`, `low` and `high` of a row are.
SUCCESS_RATE, MEAN_RETURN = "success_rate", "mean_return"
_KEY = ("task", "observations", "setting", "method")


def run_verb(words: str, log: Path, root: Path) -> None:
    """Run one `qsft-robot` command on one thread in the folder `root`, its output into `log`;
    RuntimeError names the log when it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ qsft-robot {words}\n")
        file.flush()
        command = [sys.executable, "-m", "qsft_robot.cli", *shlex.split(words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, stdout=file, stderr=file, env=environment, cwd=root, check=False
        )
    if done.returncode:
        raise RuntimeError(f"`qsft-robot {words}` failed; see {log}")


def on_ray(words: str, address: str | None) -> str:
    """The words of a command; those of `collect` and `evaluate` with the address of a cluster,
    which has more processes than one."""
    if address is None or words.split(maxsplit=1)[0] not in ("collect", "evaluate"):
        return words
    return f"{words.replace(' --workers 1', '')} --ray {address}"


def result_row(
    task: str,
    observations: str,
    setting: str,
    method: str,
    summaries: Sequence[Mapping[str, Any]],
    script: Path,
    metric: str = SUCCESS_RATE,
) -> dict[str, Any]:
    """The seeds' summaries (evaluation/<name>/summary.json) as one row: `value` of `metric` with
    its interval over episodes (Wilson's of a success rate, Student's of a mean return) and the one
    that knows the seeds (None for the mean of one seed), and the success rate in any case (None
    where the environment tells none).

    `script` is the file that this process runs, in the repository's scripts.
    """
    n = sum(s["n"] for s in summaries)
    told: dict[str, Any] = {}
    rate: float | None = None
    # Of an environment that tells no success there is no rate.
    if all(s["success_rate"] is not None for s in summaries):
        told, rate = _success_rate(summaries)
    if metric == MEAN_RETURN:
        told = _mean_return(summaries)
    return {
        "task": task,
        "observations": observations,
        "method": method,
        "setting": setting,
        "seeds": len(summaries),
        "n": n,
        "success_rate": rate,
        **told,
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "commit": commit(script.parent),
    }


def _success_rate(summaries: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], float]:
    """The rate of all episodes with both intervals, and the rate by itself."""
    by_seed = [round(s["success_rate"] * s["n"]) for s in summaries]
    counts = [s["n"] for s in summaries]
    rate = wilson(sum(by_seed), sum(counts))
    seed_low, seed_high = seed_interval(by_seed, counts)
    told = {
        "metric": SUCCESS_RATE,
        "value": round(rate.rate, 4),
        "low": round(rate.low, 4),
        "high": round(rate.high, 4),
        "seed_low": round(seed_low, 4),
        "seed_high": round(seed_high, 4),
        "by_seed": [round(s["success_rate"], 4) for s in summaries],
    }
    return told, round(rate.rate, 4)


def _mean_return(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean return of all whole episodes, and the share of commands that were refused."""
    counts = [s["n"] - s["broken"] for s in summaries]
    means = [s["mean_return"] for s in summaries]
    n = sum(counts)
    mean = sum(count * each for count, each in zip(counts, means, strict=True)) / n
    squares = sum(
        (count - 1) * s["return_deviation"] ** 2 + count * (s["mean_return"] - mean) ** 2
        for count, s in zip(counts, summaries, strict=True)
    )
    low, high = mean_interval(mean, math.sqrt(squares / (n - 1)), n)
    of_seeds: tuple[float, float] | None = None
    if len(means) > 1:
        of_seeds = mean_interval(sum(means) / len(means), stdev(means), len(means))
    refused = [s["refused_commands"]["rate"] for s in summaries if "refused_commands" in s]
    return {
        "metric": MEAN_RETURN,
        "value": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "seed_low": None if of_seeds is None else round(of_seeds[0], 4),
        "seed_high": None if of_seeds is None else round(of_seeds[1], 4),
        "by_seed": [round(each, 4) for each in means],
        **({"refused": round(sum(refused) / len(refused), 4)} if refused else {}),
    }


def commit(folder: Path) -> str:
    """The short hash of the code in `folder`."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def merge_rows(results: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put rows into a file of results, in place of those of the same task, observations, setting
    and method that have no more seeds."""
    known = read_json(results) if results.exists() else []
    table = {tuple(row[k] for k in _KEY): row for row in known}
    for row in rows:
        name = tuple(row[k] for k in _KEY)
        if name not in table or table[name]["seeds"] <= row["seeds"]:
            table[name] = row
    write_json(results, [table[name] for name in sorted(table)])


def row_text(row: Mapping[str, Any]) -> str:
    """A row as one line for people."""
    return (
        f"{row['task']} {row['observations']} {row['setting']} {row['method']:<28} "
        f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] n={row['n']} "
        f"{row['by_seed']}"
    )
