"""Action chunks in time, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsft_robot.control.chunks import ChunkExecution, blend


def ramp(start: int, rows: int, d: int = 2) -> np.ndarray:
    """A chunk whose action for tick k is k in every dimension."""
    return np.repeat(np.arange(start, start + rows, dtype=np.float32)[:, None], d, axis=1)


def test_blending_passes_over_linearly_and_jumps_at_neither_end() -> None:
    old, new = np.zeros((4, 1), np.float32), np.ones((4, 1), np.float32)
    assert blend(old, new)[:, 0] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert blend(old, new, ramp=1)[:, 0] == pytest.approx([0.5, 1, 1, 1])
    assert blend(old, new, ramp=0)[:, 0] == pytest.approx([1, 1, 1, 1])


@given(st.integers(1, 12), st.integers(0, 12), st.randoms(use_true_random=False))
def test_blending_stays_between_both_and_leaves_agreement_alone(rows, passage, random) -> None:
    draw = np.random.default_rng(random.randrange(2**32))
    old, new = draw.normal(size=(2, rows, 3)).astype(np.float32)
    mixed = blend(old, new, ramp=passage)
    assert (mixed >= np.minimum(old, new) - 1e-6).all()
    assert (mixed <= np.maximum(old, new) + 1e-6).all()
    assert blend(new, new, ramp=passage) == pytest.approx(new, abs=1e-6)


def test_switches_are_taken_from_the_new_chunk() -> None:
    old, new = np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)
    assert np.array_equal(blend(old, new, switches=(1,))[:, 1], new[:, 1])


def test_a_broken_old_chunk_does_not_outlive_a_good_new_one() -> None:
    old, new = np.full((3, 2), np.nan, np.float32), np.ones((3, 2), np.float32)
    assert np.array_equal(blend(old, new), new)


def test_a_chunk_runs_action_by_action_and_then_there_is_nothing() -> None:
    chunks = ChunkExecution(late_ticks=0)
    assert chunks.take(0) is None
    chunks.add(0, ramp(0, 3), now=0)
    taken = [chunks.take(k) for k in range(5)]
    assert [None if a is None else a[0] for a in taken] == [0, 1, 2, None, None]


@given(st.integers(1, 20), st.integers(0, 30))
def test_a_chunk_is_for_the_ticks_after_its_observation_however_late_it_comes(h, late) -> None:
    chunks = ChunkExecution(late_ticks=0)
    chunks.add(5, ramp(5, h), now=5 + late)
    action = chunks.take(5 + late)
    assert (action is None) == (late >= h)
    if action is not None:
        assert action[0] == 5 + late


def test_the_overlap_of_two_chunks_is_blended_and_the_rest_is_the_new_one() -> None:
    chunks = ChunkExecution()
    chunks.add(0, np.zeros((6, 1), np.float32), now=0)
    for k in range(3):
        chunks.take(k)
    # Decided from tick 2, there at tick 3: the ticks 3, 4 and 5 overlap.
    chunks.add(2, np.ones((6, 1), np.float32), now=3)
    found = [float(chunks.take(k)[0]) for k in range(3, 8)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert chunks.take(9) is None


def test_chunks_that_agree_are_executed_as_one_path_whatever_arrives_when() -> None:
    draw = np.random.default_rng(0)
    chunks, asked = ChunkExecution(), 0
    chunks.add(0, ramp(0, 8), now=0)
    for tick in range(200):
        if tick - asked > draw.integers(1, 6):
            delay = int(draw.integers(0, 3))
            chunks.add(tick - delay, ramp(tick - delay, 8), now=tick)
            asked = tick
        assert chunks.take(tick)[0] == pytest.approx(tick, abs=1e-4)


def test_an_answer_that_a_newer_one_overtook_is_dropped() -> None:
    chunks = ChunkExecution(late_ticks=0)
    chunks.add(4, ramp(4, 2), now=4)
    chunks.add(3, ramp(100, 5), now=4)
    assert chunks.take(4)[0] == 4


def test_an_action_that_nothing_replaced_may_run_late_once() -> None:
    chunks = ChunkExecution(late_ticks=1)
    chunks.add(0, ramp(0, 1), now=1)
    assert chunks.take(1)[0] == 0
    assert chunks.take(1) is None
    chunks.add(2, ramp(2, 1), now=4)
    assert chunks.take(4) is None


def test_nothing_is_left_of_the_episode_before() -> None:
    chunks = ChunkExecution()
    chunks.add(0, ramp(0, 5), now=0)
    chunks.reset()
    assert chunks.take(1) is None
    assert not chunks.covers(1)
