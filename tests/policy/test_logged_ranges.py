"""Readings are compared with the logs' range, also where a folder tells mean and deviation only."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served_description import served

from qsft_robot.policy.description import Span
from qsft_robot.policy.logged_ranges import LoggedRanges, WatchedReadings
from qsft_robot.types import Observation

STATE = {"q": {"mean": [0.0, 5.0], "std": [1.0, 0.0]}}
STATS = {"state": STATE, "actions": {"low": [-1.0], "high": [1.0]}}
OLD = served(1, norm_stats=STATS, state_keys=["q"])
NEW = replace(OLD, state_range={"q": Span((-1.0, 5.0), (2.0, 5.0))})
NUMBER = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(NUMBER, NUMBER)
def test_far_is_beyond_the_range_by_three_times_its_width(first, second):
    found = list(LoggedRanges.of(NEW).far({"q": np.array([first, second])}))
    beyond = [max(-1 - first, first - 2) > 9, max(5 - second, second - 5) > 3e-3]
    assert bool(found) == any(beyond)
    if found:
        assert found[0].index == beyond.index(True)
        assert found[0].value == [first, second][found[0].index]


@settings(deadline=None)
@given(NUMBER)
def test_without_a_range_three_deviations_stand_for_it(first):
    found = list(LoggedRanges.of(OLD).far({"q": np.array([first, 5.0])}))
    assert bool(found) == (abs(first) > 3 + 3 * 6)


@settings(deadline=None)
@given(NUMBER)
def test_of_the_policys_keys_what_never_changed_in_the_logs_is_not_read(second):
    assert not list(LoggedRanges.of(NEW).far({"q": np.array([0.0, second])}, ["q"]))


class Counting:
    asked = 0

    def reset(self, seed: int = 0) -> None: ...

    def infer(self, observation: Observation) -> np.ndarray:
        self.asked += 1
        return np.zeros((1, 1), np.float32)


def test_far_readings_of_a_run_are_counted_said_once_and_refused_on_demand():
    near, far = (Observation({}, {"q": np.array([x, 5.0])}) for x in (0.0, 99.0))
    policy = Counting()
    watched = WatchedReadings(policy, NEW, refuse=False)
    with pytest.warns(UserWarning, match=r"'q'\[0\] reads 99, the logs had -1 to 2"):
        watched.infer(far)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched.infer(far)
        watched.infer(near)
    assert (watched.counts, policy.asked) == ({"q": 2}, 3)
    refusing = WatchedReadings(policy, NEW, refuse=True)
    with pytest.raises(ValueError, match="--refuse-far"):
        refusing.infer(far)
    refusing.infer(near)
    assert (refusing.counts, policy.asked) == ({"q": 1}, 4)
