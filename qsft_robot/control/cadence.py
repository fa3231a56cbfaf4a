"""The loop's grid of deadlines, and the report of how well it was kept."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from rich.table import Table

# Parts of a tick, in order. decide: from asking the policy to its answer, wherever it runs.
# wake: how late the loop woke up for the tick. tick: from its deadline to the action being sent.
STAGES = ("wake", "observe", "decide", "send", "tick")


class Clock(Protocol):
    """Seconds of a monotonic clock, and sleeping until one of them."""

    def now(self) -> float: ...

    def sleep_until(self, moment: float) -> None: ...


class WallClock:
    """The system's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleep; a spin at the end was not needed (docs/real_robot.md has the lateness)."""
        while (left := moment - time.monotonic()) > 0:
            time.sleep(left)


@dataclass(frozen=True)
class Grid:
    """Deadlines on an absolute grid: tick k begins at `start` + k / `hz`, whatever went before."""

    start: float
    hz: float

    def begin(self, tick: int) -> float:
        """When a tick begins."""
        return self.start + tick / self.hz

    def next_tick(self, tick: int, now: float) -> int:
        """The tick that follows `tick`, which was done at `now`: the next one, at once if its time
        has begun, or, where whole periods went by, the one whose time it is. So a late tick delays
        no later one."""
        return max(tick + 1, math.floor((now - self.start) * self.hz + 1e-9))

    def put_off(self, tick: int, now: float) -> Grid:
        """A grid on which `tick` begins at `now` at the earliest, and all others as much later."""
        return replace(self, start=self.start + max(0.0, now - self.begin(tick)))


@dataclass
class Cadence:
    """Durations of a run, by stage."""

    control_hz: float
    # stage -> seconds of each tick (decide: of each decision)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})
    ticks: int = 0
    # Ticks that ended after the next one should have begun, and the deadlines lost to them.
    overruns: int = 0
    missed_deadlines: int = 0
    # Seconds from the first to the last tick of every episode.
    active_s: float = 0.0
    # kind -> how often
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage].append(seconds)

    def report(self) -> dict[str, Any]:
        """The report as JSON types; latencies in milliseconds."""
        return {
            "control_hz": self.control_hz,
            "effective_hz": round(self.ticks / self.active_s, 3) if self.active_s else None,
            "ticks": self.ticks,
            "overruns": self.overruns,
            "overrun_share": round(self.overruns / self.ticks, 6) if self.ticks else None,
            "missed_deadlines": self.missed_deadlines,
            **{key: int(value) for key, value in sorted(self.counts.items())},
            "latency_ms": {s: percentiles(self.seconds[s]) for s in STAGES if self.seconds[s]},
        }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the largest, in milliseconds."""
    row = np.asarray(seconds) * 1e3
    found = {f"p{q}": round(float(np.percentile(row, q)), 3) for q in (50, 95, 99)}
    return {**found, "max": round(float(row.max()), 3), "n": len(row)}


def report_table(report: Mapping[str, Any]) -> Table:
    """The cadence report for a terminal."""
    table = Table(title="cadence", title_justify="left")
    for column in ("stage", "p50 ms", "p95 ms", "p99 ms", "max ms", "n"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, row in report["latency_ms"].items():
        numbers = [f"{row[key]:.2f}" for key in ("p50", "p95", "p99", "max")]
        table.add_row(stage, *numbers, str(row["n"]))
    hz = report["effective_hz"]
    said = [
        f"{'-' if hz is None else f'{hz:.2f}'} of {report['control_hz']:g} Hz",
        f"{report['ticks']} ticks",
        f"{report['overruns']} overruns",
        *(
            f"{value} {key.replace('_', ' ')}"
            for key, value in report.items()
            if key.startswith(("held", "stop", "failed", "bad")) and value
        ),
    ]
    table.caption, table.caption_justify = ", ".join(said), "left"
    return table
