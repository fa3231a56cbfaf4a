"""Deadlines are a grid that does not drift, and the report counts what was lost on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsft_robot.control.cadence import Cadence, Grid, percentiles, report_table

RATES = st.floats(1.0, 200.0)


@given(RATES, st.floats(0, 1e6), st.integers(0, 10**6))
def test_tick_k_begins_k_periods_after_the_start_whatever_went_before(hz, start, tick) -> None:
    grid = Grid(start, hz)
    assert grid.begin(tick) == start + tick / hz


@given(RATES, st.integers(0, 1000), st.floats(0, 0.999))
def test_a_tick_done_in_time_is_followed_by_the_next(hz, tick, share) -> None:
    grid = Grid(5.0, hz)
    assert grid.next_tick(tick, grid.begin(tick) + share / hz) == tick + 1


@given(RATES, st.integers(0, 1000), st.floats(1.001, 50))
def test_a_late_tick_is_followed_by_the_one_whose_time_it_is(hz, tick, periods) -> None:
    grid = Grid(5.0, hz)
    now = grid.begin(tick) + periods / hz
    following = grid.next_tick(tick, now)
    assert following > tick
    if following > tick + 1:
        assert grid.begin(following) <= now + 1e-6
    assert now < grid.begin(following + 1) + 1e-6


def test_percentiles_are_milliseconds() -> None:
    found = percentiles(np.linspace(0, 0.1, 101).tolist())
    assert found == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0, "n": 101}


def test_the_report_is_json_and_a_table() -> None:
    cadence = Cadence(20.0)
    cadence.add("observe", 0.002)
    cadence.ticks, cadence.overruns, cadence.active_s = 40, 1, 2.0
    report = cadence.report()
    assert report["effective_hz"] == 20.0
    assert report["overrun_share"] == pytest.approx(1 / 40)
    assert list(report["latency_ms"]) == ["observe"]
    assert json.loads(json.dumps(report)) == report
    assert report_table(report).row_count == 1


def test_a_run_that_never_ticked_has_a_report_too() -> None:
    assert report_table(Cadence(10.0).report()).row_count == 0
