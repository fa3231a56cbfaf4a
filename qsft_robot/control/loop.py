"""The control loop: observe, decide, limit, send, on a grid of deadlines that does not drift."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from qsft_robot.control.cadence import Cadence, Clock, Grid
from qsft_robot.control.chunks import ChunkExecution
from qsft_robot.control.decisions import Answer, Decider
from qsft_robot.control.limits import KINDS, ActionLimiter
from qsft_robot.control.robot import EpisodicRobot, Robot
from qsft_robot.control.watchdog import Stance, Watchdog
from qsft_robot.types import Observation


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs."""

    control_hz: float
    # Ticks of a chunk that go by before the next decision is asked for. None: half of the chunk, so
    # that the other half covers the time that the decision takes.
    execute_steps: int | None = None
    # Ticks over which a new chunk replaces the old one; None: all that both cover.
    blend_steps: int | None = None
    # Without an action for so long, the arm holding, the episode is stopped.
    stop_after_s: float = 2.0
    # Ticks past its time at which an action still runs if nothing newer came.
    late_ticks: int = 1
    # Share of a period that a tick without an action waits for its decision.
    decide_share: float = 0.7
    # Ticks of an episode; None: until something else ends it.
    max_steps: int | None = None

    def __post_init__(self) -> None:
        if not self.control_hz > 0:
            raise ValueError(f"--control-hz {self.control_hz}: give actions a second above 0.")
        for name in ("execute_steps", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give at least 1.")
        if self.late_ticks < 0 or (self.blend_steps or 0) < 0 or not 0 < self.decide_share < 1:
            raise ValueError(
                f"late_ticks {self.late_ticks} and blend_steps {self.blend_steps} must not be "
                f"negative, decide_share {self.decide_share} lies between 0 and 1."
            )


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode ended."""

    # success, over, steps, watchdog, or what the operator asked for: stop, quit, failed, done
    reason: str
    success: bool
    steps: int
    # The last error of the policy, where the watchdog stopped the episode.
    error: str | None = None


class Recorder(Protocol):
    """What is told of every tick."""

    def step(self, observation: Observation, action: np.ndarray, held: bool) -> None:
        """`action` [d] was sent after `observation`."""
        ...

    def finish(self, observation: Observation, end: EpisodeEnd) -> None:
        """The episode is over; `observation` was seen last."""
        ...


class ControlLoop:
    """Runs episodes of one policy on one robot."""

    def __init__(
        self,
        robot: Robot,
        decider: Decider,
        limiter: ActionLimiter,
        settings: LoopSettings,
        clock: Clock,
        *,
        horizon: int = 1,
        instruction: str | None = None,
        stop_request: Callable[[], str | None] = lambda: None,
        tell: Callable[[ControlLoop, int], None] | None = None,
    ) -> None:
        """`instruction` replaces the robot's own. `stop_request` is asked at every tick for a
        reason to end the episode; `tell(loop, steps)` is called after every tick."""
        self.robot, self.limiter, self.settings = robot, limiter, settings
        self.cadence = Cadence(settings.control_hz)
        self.watchdog = Watchdog(settings.stop_after_s)
        self.chunks = ChunkExecution(robot.spec.switches, settings.blend_steps, settings.late_ticks)
        self.last_error: str | None = None
        self._decider, self._clock = decider, clock
        self._execute = settings.execute_steps or max(1, -(-horizon // 2))
        self.instruction, self._stop_request, self._tell = instruction, stop_request, tell

    def observe(self) -> Observation:
        """The robot's observation with the instruction that the policy is to get, its arrays
        copied: a driver may fill the same ones again."""
        seen = self.robot.get_observation()
        return replace(
            seen,
            images={key: np.array(x) for key, x in seen.images.items()},
            state={key: np.array(x) for key, x in seen.state.items()},
            instruction=seen.instruction if self.instruction is None else self.instruction,
        )

    def run_episode(self, recorder: Recorder | None = None) -> EpisodeEnd:
        """One episode, from the first tick to its end; the arm is left holding, also on errors of
        the robot, which are raised after the recorder got what was there."""
        for part in (self.chunks, self.watchdog, self.limiter):
            part.reset()
        self.last_error = None
        began = self._clock.now()
        grid = Grid(began, self.settings.control_hz)
        tick = steps = 0
        seen: Observation | None = None
        end = EpisodeEnd("robot", False, 0)
        try:
            while True:
                self._clock.sleep_until(grid.begin(tick))
                self.cadence.add("wake", self._clock.now() - grid.begin(tick))
                seen = self._observed()
                reason, success = self._reason(steps)
                if reason is None:
                    action, held = self._choose(seen, tick, grid)
                    if self.watchdog.stance is Stance.STOP:
                        reason = "watchdog"
                if reason is not None:
                    end = EpisodeEnd(reason, success, steps, self.last_error)
                    return end
                steps += 1
                sent = self._send(action)
                if recorder is not None and sent is not None:
                    recorder.step(seen, sent, held)
                self._count(tick, grid)
                if self._tell is not None:
                    self._tell(self, steps)
                now = self._clock.now()
                if self.robot.spec.stepped and sent is None:
                    # Nothing has moved: the same tick again, a period later.
                    grid = grid.put_off(tick, grid.begin(tick + 1))
                    continue
                following = tick + 1 if self.robot.spec.stepped else grid.next_tick(tick, now)
                if now > grid.begin(tick + 1):
                    self.cadence.overruns += 1
                    self.cadence.missed_deadlines += following - tick - 1
                    if self.robot.spec.stepped:
                        grid = grid.put_off(following, now)
                tick = following
        finally:
            self.cadence.active_s += self._clock.now() - began if steps else 0.0
            self._stand_still(seen)
            if recorder is not None and seen is not None:
                recorder.finish(seen, replace(end, steps=steps))

    def report(self) -> dict[str, object]:
        """The cadence report with what the watchdog and the limits counted."""
        dog = self.watchdog
        held = {"held_ticks": dog.held_ticks, "holds": dog.holds, "stops": dog.stops}
        clamps = {kind: self.limiter.clamps[kind] for kind in KINDS}
        return {**self.cadence.report(), **held, "clamps": clamps}

    def _observed(self) -> Observation:
        began = self._clock.now()
        seen = self.observe()
        self.cadence.add("observe", self._clock.now() - began)
        return seen

    def _reason(self, steps: int) -> tuple[str | None, bool]:
        """Why the episode is over before this tick acts, and whether it succeeded."""
        if isinstance(self.robot, EpisodicRobot):
            outcome = self.robot.outcome()
            if outcome.success:
                return "success", True
            if outcome.over:
                return "over", False
        request = self._stop_request()
        if request is not None:
            return request, request == "done"
        if self.settings.max_steps is not None and steps >= self.settings.max_steps:
            return "steps", False
        return None, False

    def _choose(self, seen: Observation, tick: int, grid: Grid) -> tuple[np.ndarray | None, bool]:
        """The action of this tick within the limits, and whether it is a hold."""
        sound = all(np.isfinite(row).all() for row in seen.state.values())
        if not sound:
            self.cadence.counts["bad_observations"] += 1
        action = self._decided(seen, tick, grid, sound)
        if action is not None and not np.isfinite(action).all():
            self.limiter.clamps["nan"] += 1
            action = None
        stance = self.watchdog.tick(action is not None, self._clock.now())
        if stance is Stance.ACT and action is not None:
            return self.limiter.apply(action, seen), False
        return self.limiter.hold(seen), True

    def _decided(self, seen: Observation, tick: int, grid: Grid, sound: bool) -> np.ndarray | None:
        """What the policy wants now: from the chunk at hand, else waited for within the tick."""
        self._fetch(grid.start, tick)
        asked = False
        if sound and not self._decider.busy and self._wants_new(tick):
            self._decider.ask(seen, tick)
            asked = True
        patience = grid.begin(tick) + self.settings.decide_share / self.settings.control_hz
        while not self.chunks.covers(tick) and self._decider.busy:
            if not self._fetch(patience, tick):
                break  # no time is left in this tick
            if sound and not asked and not self.chunks.covers(tick):
                # The answer was to an older question, and came too late to be of use.
                self._decider.ask(seen, tick)
                asked = True
        return self.chunks.take(tick)

    def _wants_new(self, tick: int) -> bool:
        return not self.chunks.covers(tick) or self.chunks.used(tick) >= self._execute

    def _fetch(self, until: float, tick: int) -> bool:
        """Take the decision if it is there by `until`; whether one came, good or bad."""
        answer = self._decider.answer(until)
        if answer is None:
            return False
        self.cadence.add("decide", answer.seconds)
        problem = _problem(answer, self.robot.spec.action_dim)
        if problem is None and answer.actions is not None:
            self.chunks.add(answer.tick, answer.actions, tick)
        else:
            self.cadence.counts["failed_decisions"] += 1
            self.last_error = problem
        return True

    def _send(self, action: np.ndarray | None) -> np.ndarray | None:
        if action is None:
            return None
        began = self._clock.now()
        really = self.robot.send_action(action)
        sent = action if really is None else np.asarray(really, np.float32)
        self.limiter.sent(sent)
        self.cadence.add("send", self._clock.now() - began)
        return sent

    def _count(self, tick: int, grid: Grid) -> None:
        self.cadence.ticks += 1
        self.cadence.add("tick", self._clock.now() - grid.begin(tick))

    def _stand_still(self, seen: Observation | None) -> None:
        """Leave the arm holding; it may be the robot itself that has failed."""
        with suppress(Exception):
            hold = self.limiter.hold(seen)
            if hold is not None:
                self.robot.send_action(hold)


def _problem(answer: Answer, action_dim: int) -> str | None:
    """Why an answer can't be executed, or None."""
    if answer.error is not None:
        return f"{type(answer.error).__name__}: {answer.error}"
    actions = answer.actions
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu":
        return f"the policy answered {type(actions).__name__}, not an array of numbers"
    if actions.ndim != 2 or actions.shape[1] != action_dim or not len(actions):
        return f"the policy answered shape {actions.shape}, not [h, {action_dim}]"
    return None
