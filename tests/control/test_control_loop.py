"""The loop under a clock of its own: grid, chunks, watchdog, limits, ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qsft_robot.control.decisions import Answer
from qsft_robot.control.limits import ActionLimiter, Limits
from qsft_robot.control.loop import ControlLoop, EpisodeEnd, LoopSettings
from qsft_robot.control.robot import Outcome
from qsft_robot.types import Observation

HZ = 10.0
PERIOD = 1 / HZ


class TimedDecider:
    """Answers `decide(tick)` after `seconds(tick)` of the fake clock."""

    def __init__(
        self, clock, decide: Callable[[int], Any], seconds: Callable[[int], float]
    ) -> None:
        self.clock, self.decide, self.seconds = clock, decide, seconds
        self.asked: list[int] = []
        self.steps: list[int | None] = []
        self.pending: tuple[int, float] | None = None

    @property
    def busy(self) -> bool:
        return self.pending is not None

    def ask(self, observation: Observation, tick: int) -> None:
        assert self.pending is None
        self.asked.append(tick)
        self.steps.append(observation.step)
        self.pending = (tick, self.clock.time + self.seconds(tick))

    def answer(self, until: float) -> Answer | None:
        if self.pending is None:
            return None
        tick, ready = self.pending
        if ready > max(until, self.clock.time):
            self.clock.time = max(self.clock.time, until)
            return None
        self.clock.time = max(self.clock.time, ready)
        self.pending = None
        try:
            return Answer(tick, self.decide(tick), None, self.seconds(tick))
        except Exception as error:
            return Answer(tick, None, error, self.seconds(tick))


def chunk_of(horizon):
    """For tick k the chunk k, k + 1, ...: each action is the tick that it is meant for."""
    return lambda tick: np.arange(tick, tick + horizon, dtype=np.float32)[:, None]


@pytest.fixture
def make(clock, joint_arm):
    """Builds a loop, its arm and its decider around one clock."""
    return lambda **settings: built(clock, settings.pop("joint", joint_arm(clock)), **settings)


def built(clock, robot, *, decide=None, seconds=0.01, horizon=1, request=None, **settings):
    takes = seconds if callable(seconds) else (lambda tick: seconds)
    decider = TimedDecider(clock, decide or chunk_of(horizon), takes)
    settings = LoopSettings(HZ, **{"max_steps": 20, **settings})
    limits = Limits(robot.spec.action_low, robot.spec.action_high)
    loop = ControlLoop(
        robot, decider, ActionLimiter(limits, robot.spec, HZ), settings, clock, horizon=horizon,
        stop_request=request or (lambda: None),
    )  # fmt: skip
    return loop, robot, decider


class Tape:
    """Keeps what a recorder is told."""

    def __init__(self):
        self.rows, self.end = [], None

    def step(self, observation, action, held):
        self.rows.append((float(observation.state["count"][0]), float(action[0]), held))

    def finish(self, observation, end):
        self.last, self.end = float(observation.state["count"][0]), end


def test_a_fast_policy_of_single_actions_decides_and_acts_in_the_same_tick(make):
    loop, robot, decider = make(seconds=0.03)
    assert loop.run_episode() == EpisodeEnd("steps", None, 20)
    assert robot.sent[:20] == list(range(20))
    assert decider.asked == list(range(20))
    assert np.diff(robot.times[:20]) == pytest.approx(PERIOD)
    report = loop.report()
    assert (report["overruns"], report["held_ticks"]) == (0, 0)
    assert report["effective_hz"] == pytest.approx(HZ, rel=0.06)


def test_the_policy_is_told_the_step_of_what_it_sees(make):
    loop, _, decider = make(horizon=8, execute_steps=3, seconds=0.07)
    loop.run_episode()
    assert decider.steps == decider.asked
    assert set(np.diff(decider.asked)) <= {3, 4}


def test_sending_that_takes_long_shifts_no_later_tick(make, clock, joint_arm):
    joint = joint_arm(clock, send_s=[0.0, 0.05, 0.12, 0.0, 0.35])
    loop, robot, _ = make(joint=joint, seconds=0.0)
    loop.run_episode()
    grid = 100.0 + PERIOD * np.arange(40)
    late = np.array([np.min(np.abs(grid - t)) for t in robot.times[:20]])
    # Tick 3 began 0.02 s late, at once; after tick 4 lost three deadlines the grid goes on.
    assert late[:3] == pytest.approx(0, abs=1e-9)
    assert late[3] == pytest.approx(0.02)
    assert late[4] == pytest.approx(0, abs=1e-9)
    assert late[6:] == pytest.approx(0, abs=1e-9)
    report = loop.report()
    assert (report["overruns"], report["missed_deadlines"]) == (2, 2)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.15, 0.29])
def test_chunks_are_executed_while_the_next_one_is_decided_with_no_gap(make, seconds):
    loop, robot, _ = make(horizon=8, seconds=seconds)
    loop.run_episode()
    report = loop.report()
    held = 0 if seconds <= 0.05 else report["held_ticks"]
    assert report["held_ticks"] == held <= 3  # before the first chunk there is nothing to do
    acted = robot.sent[held if held == 0 else 0 :]
    # After the first chunk came, every action is the one that was meant for its tick.
    ticks = np.arange(20)
    found = np.array(acted[:20])
    assert found[held:] == pytest.approx(ticks[held:], abs=1e-4)


def test_between_chunks_that_come_late_the_arm_holds_and_goes_on(make):
    loop, robot, _ = make(horizon=7, seconds=0.5, late_ticks=0, max_steps=40)
    assert loop.run_episode().reason == "steps"
    assert loop.watchdog.held_ticks > 5
    assert loop.watchdog.holds > 1
    # Only actions that were meant for their very tick, and repetitions of the last one.
    for tick, sent in enumerate(robot.sent[:40]):
        assert sent == tick or (sent == robot.sent[tick - 1] if tick else sent == 0)


def test_a_policy_whose_chunks_are_over_when_they_come_never_moves_the_arm(make):
    loop, robot, _ = make(horizon=2, seconds=0.5, stop_after_s=1.0)
    assert loop.run_episode().reason == "watchdog"
    assert set(robot.sent) == {0.0}


def test_without_an_answer_the_arm_holds_and_then_the_episode_stops(make):
    loop, robot, _ = make(seconds=lambda tick: 0.01 if tick < 5 else 1e9, stop_after_s=1.0)
    tape = Tape()
    end = loop.run_episode(tape)
    assert end.reason == "watchdog"
    assert robot.sent[:5] == [0, 1, 2, 3, 4]
    assert set(robot.sent[5:]) == {4.0}
    assert [held for _, _, held in tape.rows] == [False] * 5 + [True] * 10
    assert loop.report()["stops"] == 1


def test_it_goes_on_when_answers_come_again(make):
    def decide(tick):
        if 5 <= tick < 9:
            raise ConnectionError("the server is gone")
        return chunk_of(1)(tick)

    loop, robot, _ = make(decide=decide)
    assert loop.run_episode().reason == "steps"
    assert robot.sent[:20] == [0, 1, 2, 3, 4, 4, 4, 4, 4, *range(9, 20)]
    report = loop.report()
    assert report["failed_decisions"] == 4
    assert (report["held_ticks"], report["holds"]) == (4, 1)
    assert "the server is gone" in loop.last_error


@pytest.mark.parametrize(
    "garbage",
    [None, "text", np.zeros(3, np.float32), np.zeros((1, 2), np.float32), np.zeros((0, 1)),
     np.full((1, 1), np.nan, np.float32), np.array([["a"]])],
)  # fmt: skip
def test_garbage_is_never_sent(make, garbage):
    loop, robot, _ = make(
        decide=lambda tick: garbage if tick > 2 else chunk_of(1)(tick), stop_after_s=0.5
    )
    assert loop.run_episode().reason == "watchdog"
    assert set(robot.sent) == {0.0, 1.0, 2.0}


def test_a_broken_sensor_asks_the_policy_nothing_and_holds(make):
    loop, robot, decider = make(stop_after_s=0.5)
    robot.reading = float("nan")
    end = loop.run_episode()
    assert end.reason == "watchdog"
    assert decider.asked == []
    assert robot.sent == []  # where it stands is unknown, so nothing is sent
    assert loop.report()["bad_observations"] == 6


def test_the_operator_ends_an_episode_and_says_how_it_went(make):
    for word, success in (("stop", None), ("quit", None), ("done", True), ("failed", False)):
        loop, _, _ = make(request=iter([None] * 3 + [word] * 2).__next__)
        assert loop.run_episode() == EpisodeEnd(word, success, 3)


def test_a_robot_that_knows_ends_its_own_episode(make, clock, joint_arm):
    class Reaching(joint_arm):
        def begin_episode(self, seed):
            self.sent.clear()

        def outcome(self):
            return Outcome(bool(self.sent) and self.sent[-1] >= 7)

    loop, _, _ = make(joint=Reaching(clock))
    assert loop.run_episode() == EpisodeEnd("success", True, 8)


def test_an_error_of_the_robot_is_raised_after_the_recorder_heard_of_the_end(make):
    loop, robot, _ = make()
    robot.fails_at = 4
    tape = Tape()
    with pytest.raises(RuntimeError, match="bus"):
        loop.run_episode(tape)
    assert tape.end == EpisodeEnd("robot", None, 4)
    assert len(tape.rows) == 4


def test_the_recorder_gets_each_action_with_what_was_seen_before_it(make):
    loop, _, _ = make()
    tape = Tape()
    loop.run_episode(tape)
    assert [seen for seen, _, _ in tape.rows] == list(range(20))
    assert [action for _, action, _ in tape.rows] == list(range(20))
    assert tape.last == 20


def test_the_arm_is_left_holding(make):
    loop, robot, _ = make()
    loop.run_episode()
    assert robot.sent[20:] == [19.0]


def test_episodes_do_not_see_each_other(make):
    loop, robot, decider = make(horizon=6, max_steps=4)
    loop.run_episode()
    robot.sent.clear()
    decider.pending = None  # as DecisionThread.reset, which waits for what is under way
    loop.run_episode()
    assert robot.sent[:4] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong",
    [{"control_hz": 0.0}, {"execute_steps": 0}, {"max_steps": 0}, {"late_ticks": -1},
     {"decide_share": 1.0}, {"blend_steps": -1}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=r"give|must"):
        LoopSettings(**{"control_hz": HZ, **wrong})


def test_a_driver_may_fill_the_same_arrays_again(make):
    loop, robot, _ = make()
    row, image = np.zeros(1, np.float32), np.zeros((2, 2, 3), np.uint8)
    robot.get_observation = lambda: Observation({"front": image}, {"q": row}, "go")
    now = loop.observe()
    row[:], image[:] = 7, 7
    assert not now.state["q"].any()
    assert not now.images["front"].any()


@pytest.mark.parametrize("seconds", [0.01, 0.15, 0.33])
def test_a_robot_that_steps_gets_each_action_at_its_step(make, clock, joint_arm, seconds):
    """As a simulator, or a recording that is replayed: it stands still between commands."""
    arm = joint_arm(clock, send_s=[0.0, 0.24, 0.0, 0.35])
    arm.spec = replace(arm.spec, stepped=True, measured=None)
    loop, robot, _ = make(joint=arm, seconds=seconds, horizon=8, execute_steps=4)
    loop.run_episode()
    assert robot.sent[:12] == [float(i) for i in range(12)]
