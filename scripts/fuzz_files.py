"""Every verb on files that no recorder wrote: right content or one line, never a traceback.

    python scripts/fuzz_files.py --inputs 2000

Each input is answered by exit status 0 (or 1, where a replay differs) with content that is looked
at, or by 2 and one line that names the file; no control character is printed, nothing is left half
written. A second process watches: an input that takes longer than a minute, or more than 2 GiB,
is a failure too. Inputs that failed stay in --keep.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from strange_inputs import KINDS, Bases, Failure, make_bases, try_input

BATCH = 200
SECONDS, BYTES = 60.0, 2 << 30


def run_batch(number: int, count: int, bases: Bases, work: Path, results: Path, kinds: str) -> None:
    """`count` inputs, the outcome of each as one line of JSON in `results`."""
    tried: list[int] = []
    chosen = [kind for kind in KINDS if kinds in ("all", kind)]

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(chosen), st.integers(0, 2**32 - 1))
    def one(kind: str, drawn: int) -> None:
        tried.append(drawn)  # hypothesis likes some numbers, which would be the same input again
        rng = random.Random(f"{number} {drawn} {tried.count(drawn)}")
        with TemporaryDirectory(dir=work) as name, results.open("a") as file:
            folder = Path(name)
            try:
                outcome: dict[str, Any] = try_input(kind, bases, folder, rng)
            except Failure as failure:
                outcome = failure.told
                _keep(folder, results.parent, outcome)
            print(json.dumps(outcome), file=file, flush=True)

    one()


def _keep(folder: Path, keep: Path, outcome: dict[str, Any]) -> None:
    """Move what failed aside, once for each way to fail."""
    known = keep / f"failed_{abs(hash(outcome['what'][:60])) % 10**8}"
    if not known.exists():
        os.rename(folder, known)
        folder.mkdir()
        (known / "outcome.json").write_text(json.dumps(outcome, indent=1))


def _memory(pid: int) -> int:
    """Bytes that a process holds."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def watch(process: subprocess.Popen[bytes], results: Path) -> str | None:
    """Wait for a batch; what ended it where it hung, grew or died."""
    started, lines, moved, base = time.monotonic(), 0, time.monotonic(), 0
    while process.poll() is None:
        time.sleep(0.05)
        there = results.read_text().count("\n") if results.exists() else 0
        now, held = time.monotonic(), _memory(process.pid)
        if there != lines or now - started < 20:  # the imports come first
            lines, moved, base = there, now, held
        if now - moved > SECONDS:
            process.kill()
            return f"hung for {SECONDS:.0f} s"
        if held - base > BYTES:
            process.kill()
            return f"took {held / 2**30:.1f} GiB"
    return None if process.returncode == 0 else f"died with status {process.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=["all", *KINDS], default="all")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    keep = flags.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    results = keep / "results.jsonl"
    if flags.batch is not None:
        with TemporaryDirectory(prefix="fuzz-") as work:
            run_batch(
                flags.batch, flags.inputs, Bases(keep / "bases"), Path(work), results, flags.kind
            )
        return 0
    results.unlink(missing_ok=True)
    make_bases(keep / "bases")
    began, ended = time.monotonic(), []
    for first in range(0, flags.inputs, BATCH):
        words = [sys.executable, __file__, "--kind", flags.kind, "--keep", str(keep)]
        words += ["--inputs", str(min(BATCH, flags.inputs - first))]
        number = flags.seed * 1_000_003 + first
        log = (keep / "stderr.txt").open("wb")
        process = subprocess.Popen([*words, "--batch", str(number)], stdout=log, stderr=log)
        fault = watch(process, results)
        if fault is not None:
            tail = (keep / "stderr.txt").read_text(errors="replace").strip().splitlines()[-1:]
            ended.append(f"batch {number}: {fault} {' '.join(tail)}")
    return report(results, ended, time.monotonic() - began)


def report(results: Path, ended: list[str], seconds: float) -> int:
    """Print the counts; exit status 1 where anything failed."""
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    table = Counter((row["kind"], row["verb"], row["status"]) for row in rows)
    print(f"{len(rows)} inputs in {seconds:.0f} s")
    for kind, verb in sorted({key[:2] for key in table}):
        counts = {status: n for (k, v, status), n in table.items() if (k, v) == (kind, verb)}
        told = ", ".join(f"{status} {n}" for status, n in sorted(counts.items(), key=str))
        print(f"  {kind:<10} {verb:<16} {told}")
    total = Counter(row["status"] for row in rows)
    print("all: " + ", ".join(f"{status} {n}" for status, n in sorted(total.items(), key=str)))
    failures = Counter(row["what"][:300] for row in rows if row["status"] == "FAILED")
    for what, n in failures.most_common():
        print(f"FAILED x{n}: {what!r}")
    for line in ended:
        print(f"FAILED: {line}")
    return 1 if failures or ended else 0


if __name__ == "__main__":
    sys.exit(main())
