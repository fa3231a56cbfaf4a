"""The long run of the promise's state machine: shares of it until so many runs were made.

Each share is a process of its own with a seed of its own, and one line of counts in --out. It goes
on where it was stopped, and counts only lines of the code at hand: the loop and the test itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEST = "tests/control/test_promise.py"


def fingerprint() -> str:
    """What the runs say something about: the loop, and the test that judges it."""
    files = sorted((ROOT / "qsft_robot/control").glob("*.py"))
    files += [ROOT / TEST, ROOT / "tests/shared/promised_world.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


def share(runs: int, seed: int) -> tuple[dict[str, int], str | None]:
    """One share; what happened in it, and the violation that ended it, if any."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        told = {"QSFT_PROMISE_RUNS": str(runs), "QSFT_PROMISE_COUNTS": str(counts)}
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
        words += ["--tb=short", "--show-capture=no", f"--hypothesis-seed={seed}", str(ROOT / TEST)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **told}
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if not counts.exists():
            raise RuntimeError(f"the test did not run: {done.stdout[-500:]}{done.stderr[-500:]}")
        return json.loads(counts.read_text()), done.stdout if done.returncode else None


def total(out: Path, code: str) -> tuple[Counter[str], int, int]:
    """What the shares of this code counted, the violations, and the next seed."""
    counts, violations, following = Counter[str](), 0, 0
    for line in out.read_text().splitlines() if out.exists() else []:
        row = json.loads(line)
        following = max(following, row["seed"] + 1)
        if row["code"] == code:
            counts.update(row["counts"])
            violations += row["violation"] is not None
    return counts, violations, following


def main() -> None:
    """Run the shares that are missing and print the counts as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--share", type=int, default=400, help="runs of one process")
    parser.add_argument("--out", type=Path, default=Path("promise.jsonl"), help="lines of counts")
    flags = parser.parse_args()
    code = fingerprint()
    while True:
        counts, violations, seed = total(flags.out, code)
        if counts["runs"] >= flags.runs:
            break
        found, violation = share(min(flags.share, flags.runs - counts["runs"]), seed)
        row = {"code": code, "seed": seed, "violation": violation, "counts": found}
        with flags.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    print(f"| what | number |\n|---|---|\n| violations | {violations} |")
    for key, n in sorted(counts.items()):
        print(f"| {key} | {n} |")


if __name__ == "__main__":
    main()
