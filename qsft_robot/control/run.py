"""A run: a policy drives a robot for some episodes, watched, limited, logged and reported."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.control.cadence import WallClock
from qsft_robot.control.decisions import DecisionThread
from qsft_robot.control.limits import ActionLimiter, limits_from_policy
from qsft_robot.control.loop import ControlLoop, EpisodeEnd, Recorder
from qsft_robot.control.operator_input import HELP, OperatorInput
from qsft_robot.control.robot import EpisodicRobot, Robot
from qsft_robot.control.run_log import RunLog
from qsft_robot.control.run_report import RunResult, RunSettings, StatusLine, opening
from qsft_robot.control.start_up_check import check_start
from qsft_robot.files import write_json
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.printed_text import say
from qsft_robot.types import Observation, Policy

# Decisions before the first tick: the first ones load code and fill caches.
WARM_UP = 3
WARM_UP_S = 120.0


def run_robot(
    robot: Robot,
    policy: Policy,
    description: Mapping[str, Any],
    settings: RunSettings,
    *,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = say,
    watch: Callable[[ControlLoop, int], None] | None = None,
) -> RunResult:
    """Connect, check, warm up, run the episodes, report to <out>/cadence.json, join the logs.

    `recorder` is told of every tick of every episode besides the log; `watch` is called after every
    tick. ValueError when robot and policy do not fit; errors of the robot are raised after what
    was recorded is written.
    """
    spec, hz = PolicySpec.of(description), settings.loop.control_hz
    decider = DecisionThread(policy)
    status = StatusLine()
    with OperatorInput() as operator:
        try:
            robot.connect()
            if isinstance(robot, EpisodicRobot):
                robot.begin_episode(settings.seed)
            seen = robot.get_observation()
            passed = check_start(
                robot.spec,
                spec,
                hz,
                description=description,
                observation=seen,
                accept=settings.accept,
            )
            instruction = settings.instruction or _only_instruction(seen, spec)
            if instruction is not None:
                seen = replace(seen, instruction=instruction)
            limits = limits_from_policy(
                robot.spec, spec, description, hz, off=settings.limits_off, **settings.limits
            )

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
            took = _warm_up(decider, seen, settings.seed)
            say(opening(robot, spec, settings, passed, limits.to_json(), took))
            if spec.instructions and seen.instruction not in spec.instructions:
                say(
                    f"note: the policy was not trained on {seen.instruction!r}; it knows: "
                    f"{'; '.join(spec.instructions[:5])}"
                )
            if operator.has_keys:
                say(HELP)
            log = None
            if settings.record:
                told = robot.spec.env_args or {"env_name": robot.spec.name, "control_hz": hz}
                log = RunLog(settings.out, told)
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
    status: StatusLine,
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
    # Where the robot itself tells success, a time limit without it is a failure.
    outcome = settings.outcome or ("failure" if isinstance(robot, EpisodicRobot) else None)
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
                recorders.append(log.episode(told, outcome))
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
        if isinstance(counts, Mapping) and counts:
            report["robot"] = dict(counts)
        write_json(settings.out / "cadence.json", report)
        if log is not None:
            logs = _joined(log)
    return RunResult(tuple(ends), report, logs, all(e.reason != "watchdog" for e in ends))


def _joined(log: RunLog) -> Path | None:
    """The joined logs. What keeps them apart is said and not raised: every episode is on disk, and
    an error of the robot may be under way."""
    try:
        return log.merge()
    except (OSError, ValueError) as error:
        warnings.warn(f"the episodes were recorded, but not joined: {error}", stacklevel=2)
        return None


def policy_hash(description: Mapping[str, Any]) -> str:
    """What tells one policy from another: the SHA-256 of its folder's SHA256SUMS, or, where only a
    server knows that, of its description."""
    if "policy_sha256" in description:
        return str(description["policy_sha256"])
    text = json.dumps(description, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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


def _only_instruction(seen: Observation, spec: PolicySpec) -> str | None:
    """The policy's instruction where it has but one and the robot names none; ValueError where it
    has several."""
    if seen.instruction or not spec.instructions:
        return None
    if len(spec.instructions) > 1:
        raise ValueError(
            "the robot names no task; give --instruction, one of: "
            + "; ".join(spec.instructions[:20])
        )
    return spec.instructions[0]


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
