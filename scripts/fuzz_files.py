"""Every verb on files that no recorder wrote: right content or one line, never a traceback.

    python scripts/fuzz_files.py --inputs 2000

Each input is answered by exit status 0 (or 1, where a replay differs) with content that is looked
at, or by 2 and one line that names the file; no control character is printed, nothing is left half
written. Inputs are tried in a child process: one that kills it, takes longer than a minute
(--seconds: give more where other work has the processor) or wants more than 2 GiB is a failure too.
Inputs that failed stay in --keep; --resume goes on where an earlier call was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from strange_child import SECONDS, Child
from strange_inputs import KINDS, make_bases

BATCH = 100


def run_batch(number: int, count: int, child: Child, results: Path, kinds: list[str]) -> None:
    """`count` inputs, the outcome of each as one line of JSON in `results`."""
    tried: list[int] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(kinds), st.integers(0, 2**32 - 1))
    def one(kind: str, drawn: int) -> None:
        tried.append(drawn)  # hypothesis likes some numbers, which would be the same input again
        outcome = child.try_input(kind, f"{number} {drawn} {tried.count(drawn)}")
        with results.open("a") as file:
            print(json.dumps({**outcome, "batch": number}), file=file)

    one()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=["all", *KINDS], default="all")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time limit of an input")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--resume", action="store_true", help="keep the batches that are whole")
    flags = parser.parse_args()
    keep = flags.keep.resolve()
    keep.mkdir(parents=True, exist_ok=True)
    results = keep / "results.jsonl"
    kinds = [kind for kind in KINDS if flags.kind in ("all", kind)]
    whole = Counter(row["batch"] for row in _rows(results)) if flags.resume else Counter()
    kept = [row for row in _rows(results) if whole[row["batch"]] >= BATCH]
    results.write_text("".join(json.dumps(row) + "\n" for row in kept))
    make_bases(keep / "bases")
    began = time.monotonic()
    with Child(keep / "bases", keep, flags.seconds) as child:
        for first in range(0, flags.inputs, BATCH):
            number = flags.seed * 1_000_003 + first
            if whole[number] < BATCH:
                run_batch(number, min(BATCH, flags.inputs - first), child, results, kinds)
    return report(results, time.monotonic() - began)


def _rows(results: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in results.read_text().splitlines()] if results.exists() else []


def report(results: Path, seconds: float) -> int:
    """Print the counts; exit status 1 where anything failed."""
    rows = _rows(results)
    table = Counter((row["kind"], row["verb"], row["status"]) for row in rows)
    print(f"{len(rows)} inputs, the last of them in {seconds:.0f} s")
    for kind, verb in sorted({key[:2] for key in table}):
        counts = {status: n for (k, v, status), n in table.items() if (k, v) == (kind, verb)}
        told = ", ".join(f"{status} {n}" for status, n in sorted(counts.items(), key=str))
        print(f"  {kind:<10} {verb:<16} {told}")
    total = Counter(row["status"] for row in rows)
    print("all: " + ", ".join(f"{status} {n}" for status, n in sorted(total.items(), key=str)))
    failures = Counter(row["what"][:300] for row in rows if row["status"] == "FAILED")
    for what, n in failures.most_common():
        print(f"FAILED x{n}: {what!r}")
    held = max((row.get("held", 0) for row in rows), default=0)
    print(f"the largest child held {held / 2**20:.0f} MiB")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
