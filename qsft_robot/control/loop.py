"""The control loop: observe, decide, limit, send, on a grid of deadlines that does not drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from qsft_robot.control.cadence import Cadence, Clock, Grid
from qsft_robot.control.chunks import ChunkExecution
from qsft_robot.control.decisions import Answer, Decider
from qsft_robot.control.driver import Driver
from qsft_robot.control.limits import KINDS, ActionLimiter
from qsft_robot.control.readings import ReadingCheck
from qsft_robot.control.robot import Robot
from qsft_robot.control.supervisor import Supervisor
from qsft_robot.control.watchdog import Stance, Watchdog
from qsft_robot.types import Observation, PolicyChanged

# Attempts at the hold that ends an episode: a bus may fail once.
HOLD_ATTEMPTS = 3

# What a loop in Python can keep, how long an arm may go on under one command, and how long it may
# be left holding without an action.
MAX_CONTROL_HZ, MIN_CONTROL_HZ, MAX_STOP_AFTER_S = 1000.0, 0.01, 3600.0


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
        if not MIN_CONTROL_HZ <= self.control_hz <= MAX_CONTROL_HZ:
            raise ValueError(
                f"--control-hz {self.control_hz}: give actions a second, at least "
                f"{MIN_CONTROL_HZ:g}, at most {MAX_CONTROL_HZ:g}."
            )
        if not 0 < self.stop_after_s <= MAX_STOP_AFTER_S:
            raise ValueError(
                f"--stop-after {self.stop_after_s}: give seconds above 0, at most "
                f"{MAX_STOP_AFTER_S:g}."
            )
        for name in ("execute_steps", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give at least 1.")
        if self.late_ticks < 0 or (self.blend_steps or 0) < 0 or not 0 < self.decide_share < 1:
            raise ValueError(
                f"late_ticks {self.late_ticks} and blend_steps {self.blend_steps} must not be "
                f"negative, decide_share {self.decide_share} lies between 0 and 1."
            )

    @property
    def longest_gap_s(self) -> float:
        """Seconds between two commands after which the run ends; a gap that one tick makes is
        none."""
        return max(self.stop_after_s, 2 / self.control_hz)


@dataclass(frozen=True)
class EpisodeEnd:
    """How an episode ended."""

    # success, over, steps, watchdog, policy (another one answers now), robot (it failed), or what
    # the operator asked for: stop, quit, failed, done
    reason: str
    success: bool | None  # None where neither the robot nor a person told it
    steps: int
    # The last error, where the watchdog stopped the episode or another policy answers.
    error: str | None = None


class Recorder(Protocol):
    """Recorder of ticks."""

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
        robot: Robot | Driver,
        decider: Decider,
        limiter: ActionLimiter,
        settings: LoopSettings,
        clock: Clock,
        *,
        horizon: int = 1,
        instruction: str | None = None,
        readings: ReadingCheck | None = None,
        supervisor: Supervisor | None = None,
        stop_request: Callable[[], str | None] = lambda: None,
        tell: Callable[[ControlLoop, int], None] | None = None,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`instruction` replaces the robot's own; `readings` judges what it reads (every key of its
        specification when None). `stop_request` is asked at every tick for a reason to end the
        episode; `tell(loop, steps)` is called after every tick, `notice(text)` once for each kind
        of thing that a person should know."""
        self.driver = robot if isinstance(robot, Driver) else Driver(robot, clock)
        self.spec = self.driver.spec
        self.limiter, self.settings = limiter, settings
        self.readings = readings or ReadingCheck(self.spec, limiter.limits, settings.control_hz)
        self.supervisor = supervisor or Supervisor(self.driver, settings.longest_gap_s, clock)
        self.cadence = Cadence(settings.control_hz)
        self.watchdog = Watchdog(settings.stop_after_s)
        self.chunks = ChunkExecution(self.spec.switches, settings.blend_steps, settings.late_ticks)
        self.last_error: str | None = None
        # Why the arm may not be holding after the last episode, in words.
        self.unheld: str | None = None
        self._decider, self._clock = decider, clock
        self._execute = settings.execute_steps or max(1, -(-horizon // 2))
        self.instruction, self._stop_request, self._tell = instruction, stop_request, tell
        self._notice, self._noticed = notice, set[str]()

    def observe(self) -> Observation:
        """The robot's observation with the instruction that the policy is to get, its arrays
        copied: a driver may fill the same ones again."""
        seen = self.driver.observe()
        if self.instruction is None:
            return seen
        return replace(seen, instruction=self.instruction)

    def run_episode(self, recorder: Recorder | None = None) -> EpisodeEnd:
        """One episode, from the first tick to its end; the arm is left holding, also on errors of
        the robot, which are raised after the recorder got what was there. Where it could not be,
        `unheld` says why."""
        self.chunks.reset()
        self.watchdog.reset()
        self.limiter.reset(self.driver.episodic)
        # Why the arm holds, since it last acted.
        self._why: str | None = None
        self._told: bool | None = None  # success, by the robot
        self._changed: BaseException | None = None
        self.last_error = self.unheld = None
        tick = steps = 0
        seen: Observation | None = None
        end = EpisodeEnd("robot", None, 0)
        began = self._clock.now()
        try:
            # A robot that lays out its own episodes has just moved; one that was never looked at
            # has no reading to compare the first one with.
            fresh = self.driver.episodic or not self.readings.anchored
            self.readings.begin(self.observe() if fresh else None)
            began = self._fed = self._looked = self._clock.now()
            self._feed("the first tick")
            grid = Grid(began, self.settings.control_hz)
            while True:
                self._clock.sleep_until(grid.begin(tick))
                self.cadence.add("wake", self._clock.now() - grid.begin(tick))
                seen = self._observed()
                reason, success = self._reason(steps)
                if reason is None:
                    action, held = self._choose(seen, tick, grid)
                    reason, success = self._late(), self._told
                if reason is not None:
                    told = reason in ("watchdog", "policy")
                    end = EpisodeEnd(reason, success, steps, self.last_error if told else None)
                    return end
                steps += 1
                sent = self._send(action)
                if recorder is not None and sent is not None:
                    recorder.step(seen, sent, held)
                self._count(tick, grid)
                if self._tell is not None:
                    self._tell(self, steps)
                now = self._clock.now()
                if self.spec.stepped and sent is None:
                    # Nothing has moved: the same tick again, a period later.
                    grid = grid.put_off(tick, grid.begin(tick + 1))
                    continue
                following = tick + 1 if self.spec.stepped else grid.next_tick(tick, now)
                if now > grid.begin(tick + 1):
                    self.cadence.overruns += 1
                    self.cadence.missed_deadlines += following - tick - 1
                    if self.spec.stepped:
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

    def _reason(self, steps: int) -> tuple[str | None, bool | None]:
        """Why the episode is over before this tick acts, and whether it succeeded."""
        outcome = self.driver.outcome()
        self._told = told = outcome.success
        if told:
            return "success", True
        if outcome.over:
            return "over", told
        request = self._stop_request()
        if request is not None:
            return request, {"done": True, "failed": False}.get(request, told)
        if self.settings.max_steps is not None and steps >= self.settings.max_steps:
            return "steps", told
        return None, told

    def _late(self) -> str | None:
        """Why the episode ends although there may be an action: nothing came for too long, or the
        arm got no command for as long, whatever held it up."""
        gap = self._clock.now() - self._fed
        if self.supervisor.tripped or (
            gap >= self.settings.longest_gap_s and not self.spec.stepped
        ):
            blame = self.supervisor.blocked or f"the loop was held up for {gap:.2f} s"
            self.last_error = self._why = f"{blame}; the arm got no command meanwhile"
            self.watchdog.stop()
        if self.watchdog.stance is Stance.STOP:
            waited = f"no action for {self.settings.stop_after_s:g} s: the policy is late"
            self.last_error = self._why or waited
            return "watchdog"
        return "policy" if isinstance(self._changed, PolicyChanged) else None

    def _choose(self, seen: Observation, tick: int, grid: Grid) -> tuple[np.ndarray | None, bool]:
        """The action of this tick within the limits, and whether it is a hold."""
        now = self._clock.now()
        problem = self.readings.look(seen, now - self._looked)
        self._looked, self._changed = now, None
        if problem is not None:
            self.cadence.counts["bad_observations"] += 1
            self.last_error = self._why = problem
            self._say_once("reading", f"{problem}: such readings are not acted on")
        action = self._decided(seen, tick, grid, problem is None)
        if action is not None and not np.isfinite(action).all():
            self.limiter.clamps["nan"] += 1
            action = None
        # What can't be believed says nothing about where the arm is.
        trusted = seen if problem is None else None
        if action is not None and trusted is not None:
            action = self.limiter.apply(action, trusted)
        elif trusted is None:
            action = None
        if self.watchdog.tick(action is not None, self._clock.now()) is Stance.ACT:
            self._why = None
            return action, False
        return self.limiter.hold(trusted), True

    def _decided(self, seen: Observation, tick: int, grid: Grid, sound: bool) -> np.ndarray | None:
        """The policy's action for now: from the chunk at hand, else waited for within the tick."""
        self._fetch(grid.start, tick)
        asked = False
        if sound and not self._decider.busy and self._wants_new(tick):
            self._decider.ask(replace(seen, step=tick), tick)
            asked = True
        patience = grid.begin(tick) + self.settings.decide_share / self.settings.control_hz
        while not self.chunks.covers(tick) and self._decider.busy:
            if not self._fetch(patience, tick):
                break  # no time is left in this tick
            if sound and not asked and not self.chunks.covers(tick):
                # The answer was to an older question, and came too late to be of use.
                self._decider.ask(replace(seen, step=tick), tick)
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
        problem = _problem(answer, self.spec.action_dim)
        if problem is None and answer.actions is not None:
            self.chunks.add(answer.tick, answer.actions, tick)
        else:
            self.cadence.counts["failed_decisions"] += 1
            self.last_error = self._why = problem
            self._changed = answer.error
        return True

    def _send(self, action: np.ndarray | None) -> np.ndarray | None:
        """Hand a command over; what was really sent, as far as the driver can be believed."""
        self._fed = began = self._clock.now()
        self._feed("a command")
        if action is None:
            return None
        try:
            really = self.driver.send(action)
        except BaseException:
            if self.limiter.last is None:
                self.limiter.sent(action)  # it may have gone out, and nothing else is known
            raise
        # The command is out, whatever the driver tells of it.
        self.limiter.sent(action)
        self.readings.sent(action)
        self.cadence.add("send", self._clock.now() - began)
        if really is None:
            return action
        sent = None if really.row is None else self.limiter.believed(action, really.row)
        if sent is None:
            self.cadence.counts["strange_returns"] += 1
            self._say_once(
                "return",
                f"send_action says that it sent {really.words}, which is no action near the one "
                "it got: it should return None, or what it sent instead",
            )
            return action
        self.limiter.told(sent)
        return sent

    def _feed(self, doing: str) -> None:
        """Tell the supervisor; a robot that moves one step a command may take its time."""
        if not self.spec.stepped:
            self.supervisor.feed(doing)

    def _say_once(self, kind: str, text: str) -> None:
        if kind not in self._noticed:
            self._noticed.add(kind)
            self._notice(f"note: robot {self.spec.name}: {text}")

    def _count(self, tick: int, grid: Grid) -> None:
        self.cadence.ticks += 1
        self.cadence.add("tick", self._clock.now() - grid.begin(tick))

    def _stand_still(self, seen: Observation | None) -> None:
        """Leave the arm holding: by a command, else by the robot's second path."""
        problem: BaseException | None = None
        for _ in range(HOLD_ATTEMPTS):
            self._feed("the final hold")
            try:
                trusted = seen if seen is not None and self.readings.believes(seen) else None
                hold = self.limiter.hold(trusted)
                if hold is not None:
                    self.driver.send(hold)
                    self.limiter.sent(hold)
                self.supervisor.rest()
                return
            except BaseException as error:
                problem = error
        # The second path may block as well, and the arm moves.
        self.supervisor.feed("stop")
        said = f"the final hold could not be sent ({problem or type(problem).__name__})"
        try:
            stopped = self.driver.stop()
        except BaseException as error:
            self.unheld = f"{said}, and stop() failed ({error or type(error).__name__})"
            return
        finally:
            self.supervisor.rest()
        self.unheld = None if stopped else said
        if stopped:
            self._notice(f"note: robot {self.spec.name}: {said}; it was stopped by stop()")


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
