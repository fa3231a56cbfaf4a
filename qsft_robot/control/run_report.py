"""Settings and result of a robot run, and how they are printed."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from qsft_robot.control.cadence import report_table
from qsft_robot.control.loop import ControlLoop, EpisodeEnd, LoopSettings
from qsft_robot.control.robot import RobotSpec
from qsft_robot.control.start_up_check import Difference
from qsft_robot.control.supervisor import LEFT
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.printed_text import cell, one_line

_STATUS_EVERY_S = 0.25
# Logs keep the seed of each episode in 64 bits.
MAX_SEED = 2**63


@dataclass(frozen=True)
class RunSettings:
    """Settings of a robot run."""

    out: Path
    loop: LoopSettings
    episodes: int = 1
    seed: int = 0
    # Replaces the robot's own instruction.
    instruction: str | None = None
    # Differences of the start-up check that may be passed.
    accept: tuple[str, ...] = ()
    # Fields of Limits that replace the policy's statistics, and kinds of limits to leave out.
    limits: Mapping[str, Any] = field(default_factory=dict)
    limits_off: Collection[str] = ()
    # What tells the arm from others on this computer, for its lock; None: no other run can have it.
    arm: str | None = None
    # What an episode counts as that ends by its time limit: "success" or "failure". None: a failure
    # where the robot itself can tell success, else cut short.
    outcome: str | None = None
    # Whether episodes become logs.
    record: bool = True

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"--episodes {self.episodes}: give at least 1.")
        if not 0 <= self.seed < MAX_SEED - self.episodes:
            raise ValueError(f"--seed {self.seed}: give a whole number from 0 to {MAX_SEED:.0e}.")


@dataclass(frozen=True)
class RunResult:
    """Result of a robot run."""

    ends: tuple[EpisodeEnd, ...]
    report: dict[str, Any]
    logs: Path | None
    # Whether it ended as asked: not by the watchdog, nor because another policy answers.
    orderly: bool
    # What could not be done to leave the arm holding and disconnected, in words.
    left: tuple[str, ...] = ()

    @property
    def status(self) -> int:
        """The exit status: 0 as asked, 1 stopped by the watchdog, 3 the arm was not left as
        promised."""
        if self.left:
            return LEFT
        return 0 if self.orderly else 1


class StatusLine:
    """The live line: at most four times a second, only on a terminal. A thread of its own writes
    it, since a terminal that takes no more text must not stop the control loop."""

    def __init__(self) -> None:
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._last = 0.0
        self._what = ""
        self._lines: queue.Queue[str | None] = queue.Queue(maxsize=8)
        self._writer: threading.Thread | None = None

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError):  # the terminal may have gone
                print(line, end="", file=sys.stderr, flush=True)

    def begin(self, what: str) -> None:
        self._what = what

    def say(self, line: str) -> None:
        """A line of its own, without waiting for whoever reads it."""
        self._put(f"\r{line}\n" if self._live else f"{line}\n")

    def _put(self, text: str) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="status line", daemon=True)
            self._writer.start()
        with suppress(queue.Full):  # what went before is still being written
            self._lines.put_nowait(text)

    def tell(self, loop: ControlLoop, steps: int) -> None:
        now = time.monotonic()
        if not self._live or now - self._last < _STATUS_EVERY_S:
            return
        self._last = now
        decided = loop.cadence.seconds["decide"]
        late = f"{1e3 * decided[-1]:.0f} ms" if decided else "-"
        line = (
            f"\r{self._what}: tick {steps}, {loop.watchdog.stance.value}, decision {late}, "
            f"{loop.cadence.overruns} overruns, {loop.watchdog.held_ticks} held, "
            f"{sum(loop.limiter.clamps.values())} clamps   "
        )
        self._put(line)

    def end(self) -> None:
        """Finish the live line; what was said is out, unless the terminal takes no text."""
        if self._live and self._last:
            self._put("\n")
        self._last = 0.0
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(queue.Full):
                self._lines.put_nowait(None)
            writer.join(0.5)


def opening(
    robot: RobotSpec,
    spec: PolicySpec,
    settings: RunSettings,
    passed: list[Difference],
    limits: Mapping[str, Any],
    took: float,
) -> str:
    """The summary for the operator before the arm moves."""
    hz = settings.loop.control_hz
    lines = [
        f"robot {robot.name} at {hz:g} Hz, chunks of {spec.horizon}; a decision takes "
        f"{1e3 * took:.1f} ms of a {1e3 / hz:.1f} ms period"
    ]
    if took > spec.horizon / hz:
        lines.append(
            f"warning: a decision takes longer than the {spec.horizon} actions it gives: the arm "
            "will hold between them; train with a longer --tokenizer.horizon or lower --control-hz"
        )
    missing = [
        name
        for name, value in (("change", limits["change"]), ("workspace box", limits["box_low"]))
        if value is None
    ]
    said = {k: v for k, v in limits.items() if v is not None}
    lines.append("limits: " + "; ".join(f"{k} {_short(v)}" for k, v in said.items()))
    if robot.measured is None and not robot.is_displacement.all():
        lines.append(
            "no limit of change for the first action: the robot doesn't say where it stands "
            "(RobotSpec.measured)"
        )
    if missing:
        lines.append(f"no limit of: {', '.join(missing)} (neither in the policy nor given)")
    lines += [f"accepted: {difference.what}" for difference in passed]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join("-" if v is None else f"{v:.3g}" for v in value) + "]"
    return f"{value:.3g}"


def print_result(result: RunResult, console: Console | None = None) -> None:
    """The cadence table, how the episodes ended, and where the logs are."""
    console = console or Console()
    console.print(report_table(result.report))
    clamps = {kind: n for kind, n in result.report["clamps"].items() if n}
    console.print(f"clamps: {', '.join(f'{k} {n}' for k, n in clamps.items()) or 'none'}")
    for i, end in enumerate(result.ends):
        why = f" ({one_line(end.error)})" if end.error else ""
        console.print(cell(f"episode {i + 1}: {end.reason} after {end.steps} ticks{why}"))
    if result.logs is not None:
        won = sum(bool(end.success) for end in result.ends)
        untold = sum(end.success is None for end in result.ends)
        said = f"{won} of {len(result.ends)} episodes succeeded"
        if untold:
            said += (
                f"; of {untold} nothing told success (keys y and n, --outcome, or afterwards "
                "qsft-robot relabel)"
            )
        console.print(said)
        console.print(cell(f"logs: {result.logs}"), soft_wrap=True)
