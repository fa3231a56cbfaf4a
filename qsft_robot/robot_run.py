"""A run: a policy drives a robot for some episodes, watched, limited, logged and reported."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from qsft_robot.cadence import WallClock, report_table
from qsft_robot.control_loop import ControlLoop, EpisodeEnd, LoopSettings, Recorder
from qsft_robot.decisions import DecisionThread
from qsft_robot.files import write_json
from qsft_robot.limits import ActionLimiter, limits_from_policy
from qsft_robot.operator_input import HELP, OperatorInput
from qsft_robot.policy_folder import PolicySpec
from qsft_robot.robot import EpisodicRobot, Robot
from qsft_robot.robot_check import Difference, check_start
from qsft_robot.run_log import RunLog
from qsft_robot.types import Observation, Policy

# Decisions before the first tick: the first ones load code and fill caches.
WARM_UP = 3
WARM_UP_S = 120.0
_STATUS_EVERY_S = 0.25


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked for."""

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
    # What an episode counts as that ends by its time limit, where the robot itself can't tell:
    # "success", "failure", or None: cut short.
    outcome: str | None = None
    # Whether episodes become logs.
    record: bool = True

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ValueError(f"--episodes {self.episodes}: give at least 1.")


@dataclass(frozen=True)
class RunResult:
    """What a run left."""

    ends: tuple[EpisodeEnd, ...]
    report: dict[str, Any]
    logs: Path | None
    # Whether it ended as asked: not by the watchdog.
    orderly: bool


def run_robot(
    robot: Robot,
    policy: Policy,
    description: Mapping[str, Any],
    settings: RunSettings,
    *,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = print,
    watch: Callable[[ControlLoop, int], None] | None = None,
) -> RunResult:
    """Connect, check, warm up, run the episodes, report to <out>/cadence.json, join the logs.

    `recorder` is told of every tick of every episode besides the log; `watch` is called after every
    tick. ValueError when robot and policy do not fit; errors of the robot are raised after what
    was recorded is written.
    """
    spec, hz = PolicySpec.of(description), settings.loop.control_hz
    decider = DecisionThread(policy)
    status = _Status()
    with OperatorInput() as operator:
        robot.connect()
        try:
            limits = limits_from_policy(
                robot.spec, spec, description, hz, off=settings.limits_off, **settings.limits
            )
            instruction = _instruction(settings.instruction, spec)

            def tell(loop: ControlLoop, steps: int) -> None:
                status.tell(loop, steps)
                if watch is not None:
                    watch(loop, steps)

            loop = ControlLoop(
                robot,
                decider,
                ActionLimiter(limits, robot.spec, hz),
                settings.loop,
                WallClock(),
                horizon=spec.horizon,
                instruction=instruction,
                stop_request=operator.request,
                tell=tell,
            )
            if isinstance(robot, EpisodicRobot):
                robot.begin_episode(settings.seed)
            seen = loop.observe()
            if not seen.instruction and spec.instructions:
                if len(spec.instructions) > 1:
                    raise ValueError(
                        "the robot names no task; give --instruction, one of: "
                        + "; ".join(spec.instructions[:20])
                    )
                loop.instruction = spec.instructions[0]
                seen = loop.observe()
            passed = check_start(
                robot.spec,
                spec,
                hz,
                description=description,
                observation=seen,
                accept=settings.accept,
            )
            took = _warm_up(decider, seen, settings.seed)
            say(_opening(robot, spec, settings, passed, limits.to_json(), took))
            if operator.has_keys:
                say(HELP)
            log = RunLog(settings.out, robot.spec.env_args) if settings.record else None
            return _episodes(loop, decider, operator, status, settings, description, log, recorder)
        finally:
            status.end()
            decider.close()
            with suppress(Exception):  # it may be gone; what brought us here is the news
                robot.disconnect()


def _episodes(
    loop: ControlLoop,
    decider: DecisionThread,
    operator: OperatorInput,
    status: _Status,
    settings: RunSettings,
    description: Mapping[str, Any],
    log: RunLog | None,
    recorder: Recorder | None,
) -> RunResult:
    ends: list[EpisodeEnd] = []
    rows: list[dict[str, Any]] = []
    fingerprint = policy_hash(description)
    robot = loop.robot
    logs = None
    try:
        for i in range(settings.episodes):
            seed = settings.seed + i
            operator.begin_episode()
            if isinstance(robot, EpisodicRobot):
                robot.begin_episode(seed)
            else:
                operator.wait_for_start(f"episode {i + 1} of {settings.episodes}")
            if operator.quits:
                break
            decider.reset(seed, WARM_UP_S)
            recorders: list[Recorder] = [] if recorder is None else [recorder]
            if log is not None:
                told = {
                    "seed": seed,
                    "policy_sha256": fingerprint,
                    "method": description.get("method"),
                    "control_hz": settings.loop.control_hz,
                    "began": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                recorders.append(_WithOutcome(log.episode(told), settings.outcome))
            status.begin(f"episode {i + 1} of {settings.episodes}")
            end = loop.run_episode(_Both(recorders) if recorders else None)
            ends.append(end)
            rows.append({"seed": seed, **vars(end)})
            if end.reason in ("quit", "watchdog"):
                break
    finally:
        status.end()
        report = {**loop.report(), "episodes": rows, "policy_sha256": fingerprint}
        counts = getattr(robot, "counts", None)
        if counts:
            report["robot"] = dict(counts)
        write_json(settings.out / "cadence.json", report)
        if log is not None:
            logs = log.merge()
    return RunResult(tuple(ends), report, logs, all(e.reason != "watchdog" for e in ends))


def policy_hash(description: Mapping[str, Any]) -> str:
    """What tells one policy from another: the SHA-256 of its folder's SHA256SUMS, or, where only a
    server knows that, of its description."""
    if "policy_sha256" in description:
        return str(description["policy_sha256"])
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def print_result(result: RunResult, console: Console | None = None) -> None:
    """The cadence table, how the episodes ended, and where the logs are."""
    console = console or Console()
    console.print(report_table(result.report))
    clamps = {kind: n for kind, n in result.report["clamps"].items() if n}
    console.print(f"clamps: {', '.join(f'{k} {n}' for k, n in clamps.items()) or 'none'}")
    for i, end in enumerate(result.ends):
        why = f" ({end.error})" if end.error and end.reason == "watchdog" else ""
        console.print(f"episode {i + 1}: {end.reason} after {end.steps} ticks{why}")
    won = sum(end.success for end in result.ends)
    console.print(f"{won} of {len(result.ends)} episodes succeeded")
    if result.logs is not None:
        console.print(f"logs: {result.logs}", soft_wrap=True)


class _Both:
    """Tells several recorders; every one gets its `finish`, the first error is raised."""

    def __init__(self, recorders: list[Recorder]) -> None:
        self._recorders = recorders

    def step(self, observation: Observation, action: np.ndarray, held: bool) -> None:
        for recorder in self._recorders:
            recorder.step(observation, action, held)

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        errors = []
        for recorder in self._recorders:
            try:
                recorder.finish(observation, end)
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


class _WithOutcome:
    """A recorder that hears of a time limit what the person says that it means."""

    def __init__(self, inner: Recorder, outcome: str | None) -> None:
        self._inner, self._outcome = inner, outcome
        self.step = inner.step

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        if end.reason == "steps" and self._outcome is not None:
            won = self._outcome == "success"
            end = EpisodeEnd("done" if won else "failed", won, end.steps, end.error)
        self._inner.finish(observation, end)


class _Status:
    """The live line: at most four times a second, only on a terminal."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last = 0.0
        self._what = ""

    def begin(self, what: str) -> None:
        self._what = what

    def tell(self, loop: ControlLoop, steps: int) -> None:
        now = time.monotonic()
        if not self._live or now - self._last < _STATUS_EVERY_S:
            return
        self._last = now
        decided = loop.cadence.seconds["decide"]
        late = f"{1e3 * decided[-1]:.0f} ms" if decided else "-"
        print(
            f"\r{self._what}: tick {steps}, {loop.watchdog.stance.value}, decision {late}, "
            f"{loop.cadence.overruns} overruns, {loop.watchdog.held_ticks} held, "
            f"{sum(loop.limiter.clamps.values())} clamps   ",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def end(self) -> None:
        if self._live and self._last:
            print(file=sys.stderr)
            self._last = 0.0


def _instruction(given: str | None, spec: PolicySpec) -> str | None:
    if given is not None and spec.instructions and given not in spec.instructions:
        print(
            f"note: the policy was not trained on the instruction {given!r}; it knows: "
            f"{'; '.join(spec.instructions[:5])}",
            file=sys.stderr,
        )
    return given


def _warm_up(decider: DecisionThread, seen: Observation, seed: int) -> float:
    """Ask a few times before anything moves; seconds of the last decision. The policy's own error
    where it can't decide."""
    took = 0.0
    decider.reset(seed, WARM_UP_S)
    for _ in range(WARM_UP):
        decider.ask(seen, 0)
        answer = decider.answer(time.monotonic() + WARM_UP_S)
        if answer is None:
            raise RuntimeError(f"the policy did not decide within {WARM_UP_S:g} s.")
        if answer.error is not None:
            raise answer.error
        took = answer.seconds
    return took


def _opening(
    robot: Robot,
    spec: PolicySpec,
    settings: RunSettings,
    passed: list[Difference],
    limits: Mapping[str, Any],
    took: float,
) -> str:
    """What the person should know before the arm moves."""
    hz = settings.loop.control_hz
    lines = [
        f"robot {robot.spec.name} at {hz:g} Hz, chunks of {spec.horizon}; a decision takes "
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
    if missing:
        lines.append(f"no limit of: {', '.join(missing)} (neither in the policy nor given)")
    lines += [f"accepted: {difference.what}" for difference in passed]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join("-" if v is None else f"{v:.3g}" for v in value) + "]"
    return f"{value:.3g}"
