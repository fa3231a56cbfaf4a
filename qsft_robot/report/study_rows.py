"""Rows of docs/results.json: success rates pooled over seeds, with the command and the commit."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsft_robot.files import read_json, write_json
from qsft_robot.intervals import seed_interval, wilson

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


def result_row(
    task: str,
    observations: str,
    setting: str,
    method: str,
    summaries: Sequence[Mapping[str, Any]],
    script: Path,
) -> dict[str, Any]:
    """The seeds' summaries (evaluation/<name>/summary.json) as one row, with Wilson's interval and
    the one that knows the seeds.

    `script` is the file that this process runs, in the repository's scripts.
    """
    n = sum(s["n"] for s in summaries)
    successes = sum(round(s["success_rate"] * s["n"]) for s in summaries)
    rate = wilson(successes, n)
    by_seed = [round(s["success_rate"] * s["n"]) for s in summaries]
    seed_low, seed_high = seed_interval(by_seed, [s["n"] for s in summaries])
    return {
        "task": task,
        "observations": observations,
        "method": method,
        "setting": setting,
        "seeds": len(summaries),
        "n": n,
        "success_rate": round(rate.rate, 4),
        "low": round(rate.low, 4),
        "high": round(rate.high, 4),
        "seed_low": round(seed_low, 4),
        "seed_high": round(seed_high, 4),
        "by_seed": [round(s["success_rate"], 4) for s in summaries],
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "commit": commit(script.parent),
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
        f"{row['success_rate']:.3f} [{row['low']:.3f}, {row['high']:.3f}] n={row['n']} "
        f"{row['by_seed']}"
    )
