"""Measure our speed beside the peers' and write docs/benchmarks.md and docs/benchmarks.json."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Before torch is loaded: worker processes share the cores, so everyone computes on one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "egl")

from bench_rows import Row

from qsft_robot.files import atomic_file, write_json
from qsft_robot.versions import software_versions

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (
    "loader", "training", "towers", "decision", "adapters",
    "rendering", "evaluation", "server", "onnx", "alfworld", "games", "tokenizers",
)  # fmt: skip
PEERS = ("robomimic", "transformers", "alfworld", "textworld")


def machine() -> dict[str, Any]:
    """Processor, cores, memory and GL platform; nothing that tells which machine it is."""
    facts = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in facts if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30),
        "system": platform.system(),
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "render_backend": os.environ["MUJOCO_GL"],
        "load": round(os.getloadavg()[0], 1),
    }


def versions() -> dict[str, str]:
    """Versions of ours and of the peers."""
    found = {name: x for name, x in software_versions().items() if x and name != "platform"}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The short hash of the code that ran; "" outside of a clone."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def page(rows: Sequence[Row], before: dict[str, Any]) -> str:
    """docs/benchmarks.md."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; the rows for programs are in `benchmarks.json`. Both sides of a",
        "ratio were measured in one run, in turns, on the same files; medians.",
        "",
        f"{datetime.now(UTC).date().isoformat()}, commit {commit()}; {before['processor']}, "
        f"{before['cores']} cores, {before['memory_gib']} GiB, {before['threads']} thread a "
        f"process, images by {before['render_backend']}; load before the run {before['load']}.",
        "",
        "| what | ours | peer | ratio | aim | reached | unit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≥" if row.better == "higher" else "≤"
        aim = "-" if row.aim is None else f"{sign} {row.aim:g}"
        reached = {True: "yes", False: "no", None: "-"}[row.reached]
        lines.append(
            f"| {row.name} | {row.ours:g} | {row.peer:g} | {row.ratio:g} | {aim} | {reached} | "
            f"{row.unit} |"
        )
    commands = dict.fromkeys(row.command for row in rows)
    lines += ["", "Commands:", "", *(f"- `{command}`" for command in commands), "", "Versions:", ""]
    lines += [f"- {name} {number}" for name, number in versions().items()]
    return "\n".join(lines) + "\n"


def run(groups: Sequence[str], quick: bool, out: Path) -> list[Row]:
    """Run the groups and write both files; after each group, so that a break keeps the others."""
    began, before = time.monotonic(), machine()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    # All at once: one that can't be imported must not show after ten minutes.
    modules = {group: import_module(f"bench_{group}") for group in groups}
    for group, module in modules.items():

        def say(text: str, group: str = group) -> None:
            seconds = time.monotonic() - began
            print(f"{seconds:6.0f} s  {group}: {text}", file=sys.stderr, flush=True)

        with tempfile.TemporaryDirectory(prefix="qsft-bench-") as folder:
            for row in module.rows(Path(folder), quick, say):
                rows.append(row)
                aim = "" if row.aim is None else f" (aim {row.aim:g}, {row.better} is better)"
                say(f"{row.name} = {row.ratio:g}{aim}")
        write_json(out / "benchmarks.json", [row.to_json() for row in rows])
        with atomic_file(out / "benchmarks.md") as temporary:
            temporary.write_text(page(rows, before))
    return rows


def main() -> None:
    """Run the chosen groups; print each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups of rows")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="walk through it with next to no repetitions; the numbers mean nothing",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the two files; docs for a whole run, else a temporary one",
    )
    options = parser.parse_args()
    out = options.out
    if out is None:
        whole = not options.quick and set(options.only) == set(GROUPS)
        out = ROOT / "docs" if whole else Path(tempfile.mkdtemp(prefix="qsft-bench-"))
    for row in run(options.only, options.quick, out):
        mark = {True: "reached", False: "MISSED", None: ""}[row.reached]
        aim = "-" if row.aim is None else f"{row.aim:g}"
        print(f"{row.name:<52} {row.ratio:>9g}  aim {aim:>5} {mark}")
    print(out / "benchmarks.json")


if __name__ == "__main__":
    main()
