"""Metrics of training: metrics.jsonl, a tracker of curves, and one progress line."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qsft_robot.files import atomic_file, read_text
from qsft_robot.json_kinds import is_number
from qsft_robot.training.tracking import Tracker

NAME = "metrics.jsonl"
# Without a terminal to rewrite, a progress line is printed this often (seconds).
QUIET_SECONDS = 15.0


class MetricsLog:
    """Averages metrics between two lines, writes them, and shows where training stands."""

    def __init__(
        self,
        run: Path,
        plan: Sequence[tuple[str, int]],
        tracker: Tracker,
    ) -> None:
        """`plan` lists (stage, updates). `tracker` gets every line, and is closed at the end."""
        self.path = run / NAME
        self.before = {}
        total = 0
        for stage, updates in plan:
            self.before[stage] = total
            total += updates
        self.total, self.updates = total, dict(plan)
        self.file = self.path.open("a")
        self.tracker = tracker
        self.sums: dict[str, float] = defaultdict(float)
        self.count, self.shown = 0, 0.0

    def add(
        self,
        stage: str,
        update: int,
        metrics: Mapping[str, Tensor | float],
        times: Mapping[str, float],
        *,
        write: bool,
        samples: int,
    ) -> None:
        """Add one update; with `write` the averages since the last line become a line."""
        for name, value in {**metrics, **times}.items():
            self.sums[name] += float(value)
        self.count += 1
        if not write:
            return
        step = self.before[stage] + update
        row: dict[str, Any] = {"step": step, "stage": stage, "update": update}
        row |= {name: total / self.count for name, total in self.sums.items()}
        row["time/samples_per_s"] = samples / (row["time/data_s"] + row["time/update_s"])
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        numbers = {k: x for k, x in row.items() if k not in ("step", "stage", "update")}
        self.tracker.add(step, numbers)
        self.sums.clear()
        self.count = 0
        self._show(row)

    def tensors(self) -> dict[str, Tensor]:
        """The averages begun since the last line, for an exact resume."""
        sums = {name: torch.tensor(x, dtype=torch.float64) for name, x in self.sums.items()}
        return {"count": torch.tensor(self.count), **sums}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        sums = {name: float(x) for name, x in tensors.items() if name != "count"}
        self.sums, self.count = defaultdict(float, sums), int(tensors["count"])

    def close(self) -> None:
        """Finish the line and the files."""
        if sys.stderr.isatty():
            print(file=sys.stderr)
        self.file.close()
        self.tracker.close()

    def _show(self, row: Mapping[str, Any]) -> None:
        now = time.monotonic()
        done = row["update"] == self.updates[row["stage"]]
        if not sys.stderr.isatty() and not done and now - self.shown < QUIET_SECONDS:
            return
        self.shown = now
        line = f"{row['stage']} {row['update']}/{self.updates[row['stage']]}"
        line += f"  loss {row['loss/total']:.4f}"
        if "q/value_mean" in row:
            line += f"  V {row['q/value_mean']:.3f} target {row['q/target_mean']:.3f}"
        line += (
            f"  data {1e3 * row['time/data_s']:.1f} ms  update {1e3 * row['time/update_s']:.1f} ms"
            f"  {row['time/samples_per_s']:.0f} samples/s"
        )
        end = "\r" if sys.stderr.isatty() and not done else "\n"
        print(f"{line:<110}", end=end, file=sys.stderr, flush=True)


def begin_metrics(run: Path, resume_at: int | None) -> None:
    """Empty a run's metrics.jsonl, or keep its lines up to the update that training resumes at."""
    if resume_at is None:
        (run / NAME).write_text("")
    else:
        keep_until(run / NAME, resume_at)


def keep_until(path: Path, step: int) -> None:
    """Drop the lines of metrics.jsonl after `step`, and a last one that a kill cut short."""
    lines = read_text(path).splitlines(keepends=True) if path.exists() else []
    lines = [line.rstrip("\n") for line in lines if line.endswith("\n")]
    kept = [line for i, line in enumerate(lines, 1) if _step(path, i, line) <= step]
    with atomic_file(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept))


def _step(path: Path, number: int, line: str) -> float:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}, line {number}: not valid JSON ({error}).") from error
    step = row.get("step") if isinstance(row, dict) else None
    if step is None or not is_number(step):
        raise ValueError(
            f"{path}, line {number}: no number of updates (step). Take the line out, or restore "
            "the file."
        )
    return float(step)
