"""A run: a policy drives a robot for some episodes, watched, limited, logged and reported."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from qsft_robot.control.decisions import Cancelled, Decider, wait_for
from qsft_robot.control.driver import Driver
from qsft_robot.control.limits import ActionLimiter, Limits, limits_from_policy
from qsft_robot.control.locks import arm_lock, declared_device, folder_lock
from qsft_robot.control.loop import ControlLoop, EpisodeEnd, Recorder
from qsft_robot.control.operator_input import HELP, OperatorInput
from qsft_robot.control.readings import ReadingCheck
from qsft_robot.control.robot import Robot
from qsft_robot.control.run_log import RunLog
from qsft_robot.control.run_report import RunResult, RunSettings, StatusLine, opening
from qsft_robot.control.start_up_check import Difference, check_start
from qsft_robot.control.surroundings import Surroundings, Watch
from qsft_robot.files import write_json
from qsft_robot.policy.description import PolicyDescription
from qsft_robot.policy.folder import PolicySpec
from qsft_robot.policy.logged_ranges import WatchedReadings
from qsft_robot.printed_text import say
from qsft_robot.types import Observation, Policy

# Decisions before the first tick: the first ones load code and fill caches.
WARM_UP = 3
WARM_UP_S = 120.0
# Ends after which no other episode begins.
LAST = ("quit", "watchdog")


def run_robot(
    robot: Robot,
    policy: Policy,
    description: PolicyDescription,
    settings: RunSettings,
    *,
    recorder: Recorder | None = None,
    say: Callable[[str], None] = say,
    watch: Callable[[ControlLoop, int], None] | None = None,
    surroundings: Surroundings | None = None,
) -> RunResult:
    """Connect, check, warm up, run the episodes, leave the arm, report to <out>/cadence.json, join
    the logs.

    `recorder` is told of every tick of every episode besides the log; `watch` is called after every
    tick. ValueError when robot and policy do not fit, or another run has the arm or the folder;
    errors of the robot are raised after what was recorded is written.
    """
    PolicySpec.of(description)  # ValueError for one that acts by text
    # A driver may change the current folder.
    settings = replace(settings, out=settings.out.absolute())
    around = surroundings or Surroundings()
    driver = Driver(robot, around.clock)
    with ExitStack() as stack:
        stack.enter_context(np.errstate(all="ignore"))
        stack.enter_context(folder_lock(settings.out))
        for arm in {settings.arm, declared_device(robot)} - {None}:
            stack.enter_context(arm_lock(str(arm)))
        watched = stack.enter_context(around.watch(driver, settings.loop.longest_gap_s))
        run = _Run(driver, policy, description, settings, around, watched, say, watch)
        failure: BaseException | None = None
        try:
            run.start()
            run.episodes(recorder)
        except Cancelled:
            pass  # asked for, and nothing was under way
        except BaseException as error:
            failure = error
        left = run.leave()
        if failure is not None and left:
            said = f"{failure or type(failure).__name__}; {'; '.join(left)}"
            failure = RuntimeError(said).with_traceback(failure.__traceback__)
        try:
            return run.finish(left, failure)
        except BaseException as error:
            # Whatever keeps the report from being written, how the arm was left is said.
            if not left or error is failure:
                raise
            raise RuntimeError(f"{'; '.join(left)}; {error or type(error).__name__}") from error


class _Run:
    """One run between its first call of the driver and its report."""

    def __init__(
        self,
        driver: Driver,
        policy: Policy,
        description: PolicyDescription,
        settings: RunSettings,
        around: Surroundings,
        watched: Watch,
        say: Callable[[str], None],
        watch: Callable[[ControlLoop, int], None] | None,
    ) -> None:
        self.driver, self.policy, self.description = driver, policy, description
        self.settings, self.around, self.watched = settings, around, watched
        self.operator: OperatorInput = watched.operator
        driver.after = self.operator.take_back
        self.say, self.watch = say, watch
        self.status = StatusLine()
        self.decider: Decider = around.decider(policy)
        self.loop: ControlLoop | None = None
        self.log: RunLog | None = None
        self.ends: list[EpisodeEnd] = []
        self.rows: list[dict[str, Any]] = []
        # What the policy said of itself when it was opened; a server may be given another one.
        self._said = getattr(policy, "description", None)

    def start(self) -> None:
        """Connect, compare, warm up: nothing moves yet."""
        self.driver.connect()
        self.driver.begin_episode(self.settings.seed)
        seen = self.driver.observe()
        spec, passed, limits = self._agree(seen)
        instruction = self.settings.instruction or _only_instruction(seen, spec)
        if instruction is not None:
            seen = replace(seen, instruction=instruction)
        settings, robot = self.settings, self.driver.spec
        hz = settings.loop.control_hz

        def tell(loop: ControlLoop, steps: int) -> None:
            self.status.tell(loop, steps)
            if self.watch is not None:
                self.watch(loop, steps)

        self.loop = ControlLoop(
            self.driver,
            self.decider,
            ActionLimiter(limits, robot, hz),
            settings.loop,
            self.around.clock,
            horizon=spec.horizon,
            instruction=instruction,
            readings=self._readings(spec, limits),
            supervisor=self.watched.supervisor,
            stop_request=self.operator.request,
            tell=tell,
            notice=self.around.notice or self.status.say,
        )
        self.loop.readings.begin(seen)
        took = self._warm_up(seen)
        self.say(opening(robot, spec, settings, passed, limits.to_json(), took))
        if spec.instructions and seen.instruction not in spec.instructions:
            self.say(
                f"note: the policy was not trained on {seen.instruction!r}; it knows: "
                f"{'; '.join(spec.instructions[:5])}"
            )
        if self.operator.has_keys:
            self.say(HELP)
        if settings.record:
            told = robot.env_args or {"env_name": robot.name, "control_hz": hz}
            self.log = RunLog(settings.out, told)

    def episodes(self, recorder: Recorder | None) -> None:
        """The episodes, one after the other, until one ends the run."""
        settings, operator, loop = self.settings, self.operator, self.loop
        assert loop is not None
        for i in range(settings.episodes):
            seed, number = settings.seed + i, f"episode {i + 1} of {settings.episodes}"
            operator.begin_episode()
            if operator.quits:
                return
            if self.driver.episodic:
                self.driver.begin_episode(seed)
            else:
                operator.wait_for_start(number)
            if operator.quits:
                return
            self.decider.reset(seed, WARM_UP_S, lambda: operator.quits)
            self._take_changed_policy()
            recorders: list[Recorder] = [] if recorder is None else [recorder]
            fingerprint = policy_hash(self.description)
            if self.log is not None:
                told = {
                    "seed": seed,
                    "policy_sha256": fingerprint,
                    "method": self.description.method,
                    "control_hz": settings.loop.control_hz,
                    "began": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                recorders.append(self.log.episode(told, settings.outcome))
            self.status.begin(number)
            far = self._far_readings()
            end = loop.run_episode(_Both(recorders) if recorders else None)
            self.status.end()
            self.ends.append(end)
            row = {"seed": seed, **vars(end), "policy_sha256": fingerprint}
            if since := {k: n - far[k] for k, n in self._far_readings().items() if n > far[k]}:
                row["far_readings"] = since
            self.rows.append(row)
            if end.reason in LAST or loop.unheld is not None:
                return

    def leave(self) -> list[str]:
        """Disconnect; what could not be done to leave the arm as promised, in words."""
        left = [] if self.loop is None or self.loop.unheld is None else [self.loop.unheld]
        if self.driver.connected:
            self.watched.supervisor.feed("disconnect")
            try:
                self.driver.disconnect()
            except BaseException as error:
                left.append(f"disconnect failed ({error or type(error).__name__})")
            self.watched.supervisor.rest()
        self.operator.release()
        self.decider.close()
        self.status.end()
        return left

    def finish(self, left: list[str], failure: BaseException | None) -> RunResult:
        """Write the report and join the logs; `failure` is raised then."""
        logs, report = None, {}
        if self.loop is not None:
            report = {
                **self.loop.report(),
                "episodes": self.rows,
                "policy_sha256": policy_hash(self.description),
                "left": left,
            }
            if far := self._far_readings():
                report["far_readings"] = dict(far)
            counts = getattr(self.driver.robot, "counts", None)
            if isinstance(counts, Mapping) and counts:
                report["robot"] = dict(counts)
            write_json(self.settings.out / "cadence.json", report)
        if self.log is not None:
            logs = _joined(self.log)
        if failure is not None:
            raise failure
        tripped = self.watched.supervisor.tripped
        orderly = not tripped and all(e.reason not in ("watchdog", "policy") for e in self.ends)
        return RunResult(tuple(self.ends), report, logs, orderly and not left, tuple(left))

    def _far_readings(self) -> Counter[str]:
        """State key -> decisions asked for at readings of it far from the logs, where the policy
        is watched for them (policy/logged_ranges.py)."""
        if not isinstance(self.policy, WatchedReadings):
            return Counter()
        return Counter(self.policy.counts)

    def _agree(self, seen: Observation) -> tuple[PolicySpec, list[Difference], Limits]:
        """The policy's interface, the differences that may be passed, and the limits."""
        settings, spec = self.settings, PolicySpec.of(self.description)
        hz, robot = settings.loop.control_hz, self.driver.spec
        passed = check_start(
            robot, spec, hz, description=self.description, observation=seen, accept=settings.accept
        )
        limits = limits_from_policy(
            robot, spec, self.description, hz, off=settings.limits_off, **settings.limits
        )
        return spec, passed, limits

    def _readings(self, spec: PolicySpec, limits: Limits) -> ReadingCheck:
        return ReadingCheck(
            self.driver.spec,
            limits,
            self.settings.loop.control_hz,
            cameras=spec.cameras,
            state=spec.state,
            ranges=self.description.state_range,
            accept=self.settings.accept,
        )

    def _take_changed_policy(self) -> None:
        """A server may have come back with another policy: its own limits and hash count then."""
        said = getattr(self.policy, "description", None)
        if said is self._said or not isinstance(said, PolicyDescription):
            return
        assert self.loop is not None
        self._said, self.description = said, said
        seen = self.loop.observe()
        spec, _, limits = self._agree(seen)
        before = self.loop.limiter
        hz = self.settings.loop.control_hz
        self.loop.limiter = ActionLimiter(limits, self.driver.spec, hz, before.clamps)
        self.loop.limiter.take_over(before)
        readings, before_it = self._readings(spec, limits), self.loop.readings
        readings.take_over(before_it)
        self.loop.readings = readings
        self.say(f"note: another policy answers from here on: {policy_hash(self.description)[:12]}")

    def _warm_up(self, seen: Observation) -> float:
        """Ask a few times before anything moves; seconds of the last decision. The policy's own
        error where it can't decide."""
        took, cancelled = 0.0, lambda: self.operator.quits
        self.decider.reset(self.settings.seed, WARM_UP_S, cancelled)
        for _ in range(WARM_UP):
            self.decider.ask(seen, 0)
            give_up = self.around.clock.now() + WARM_UP_S
            late = f"the policy did not decide within {WARM_UP_S:g} s"
            answer = wait_for(self.decider, give_up, cancelled, late, self.around.clock)
            if answer.error is not None:
                raise answer.error
            took = answer.seconds
        return took


def _joined(log: RunLog) -> Path | None:
    """The joined logs. What keeps them apart is said and not raised: every episode is on disk, and
    an error of the robot may be under way."""
    try:
        return log.merge()
    except (OSError, ValueError) as error:
        warnings.warn(f"the episodes were recorded, but not joined: {error}", stacklevel=2)
        return None


def policy_hash(description: PolicyDescription) -> str:
    """The identity of a policy: the SHA-256 of its folder's SHA256SUMS, or, where only a server
    knows that, of its description."""
    if description.policy_sha256 is not None:
        return description.policy_sha256
    text = json.dumps(description.to_json(), sort_keys=True, default=str)
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
