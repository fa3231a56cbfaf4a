"""The watchdog as a state machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qsft_robot.control.watchdog import Stance, Watchdog

STOP_AFTER = 1.0


class WatchdogMachine(RuleBasedStateMachine):
    """Against a model that keeps the moment since when there was no action."""

    def __init__(self) -> None:
        super().__init__()
        self.dog = Watchdog(STOP_AFTER)
        self.now = 0.0
        self.since: float | None = None
        self.stopped = False
        self.held = 0

    @rule(seconds=st.floats(0, 0.7), has_action=st.booleans())
    def tick(self, seconds: float, has_action: bool) -> None:
        self.now += seconds
        stance = self.dog.tick(has_action, self.now)
        if self.stopped:
            assert stance is Stance.STOP
            return
        if has_action:
            self.since = None
            assert stance is Stance.ACT
            return
        self.since = self.now if self.since is None else self.since
        self.stopped = self.now - self.since >= STOP_AFTER
        assert stance is (Stance.STOP if self.stopped else Stance.HOLD)
        self.held += not self.stopped

    @rule()
    def begin_episode(self) -> None:
        self.dog.reset()
        self.since, self.stopped = None, False
        assert self.dog.stance is Stance.ACT

    @invariant()
    def counts_what_was_held(self) -> None:
        assert self.dog.held_ticks == self.held
        assert self.dog.holds <= self.dog.held_ticks + self.dog.stops


TestWatchdogMachine = WatchdogMachine.TestCase


@given(st.lists(st.booleans(), max_size=40))
def test_it_never_acts_without_an_action(ticks) -> None:
    dog = Watchdog(10.0)
    stances = [dog.tick(has, 0.1 * i) for i, has in enumerate(ticks)]
    assert [s is Stance.ACT for s in stances] == ticks


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_it_needs_a_time_to_stop_after(seconds) -> None:
    with pytest.raises(ValueError, match="stop-after"):
        Watchdog(seconds)
