"""The past that a Decision Transformer reads: in closed form, and alike in logs and at play."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsft_robot.context import Memory
from qsft_robot.normalize import NormStats
from qsft_robot.past import Past
from qsft_robot.returns import ReturnRange
from qsft_robot.token_data.token_data import TokenData
from qsft_robot.types import Episode, Observation
from tokenizers_action.bins import UniformBinTokenizer

RETURNS = ReturnRange(1.0, -10.0, 30.0)


def episode(steps: int, seed: int = 0, dimensions: int = 2) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        name=f"demo_{seed}",
        observations={"state": rng.normal(size=(steps + 1, 3)).astype(np.float32)},
        actions=rng.uniform(-1, 1, (steps, dimensions)).astype(np.float32),
        rewards=rng.uniform(-1, 1, steps).astype(np.float32),
        terminated=True,
        truncated=False,
        success=True,
    )


@given(steps=st.integers(1, 12), stride=st.integers(1, 4))
def test_a_log_tells_at_each_row_what_playing_it_tells(steps, stride) -> None:
    log, past = episode(steps), Past(stride, 2, RETURNS)
    rows = past.of_log(log.actions, log.rewards)
    assert rows.shape == (steps + 1, past.width)
    total, span = float(log.rewards.sum(dtype=np.float64)), 40.0
    target = (total - RETURNS.low) / span
    memory = Memory(1, 0, 0, seed=0)
    for t in range(0, steps, stride):
        seen = Observation({}, {}, paid=float(log.rewards[:t].sum(dtype=np.float64)))
        np.testing.assert_allclose(rows[t], past.of_decision(memory, seen, target), atol=1e-6)
        chunk = log.actions[t : t + stride]
        missing = stride - len(chunk)
        memory.actions = np.concatenate([chunk, np.zeros((missing, 2), np.float32)])
    assert rows[-1, -1] == pytest.approx(-RETURNS.low / span)  # nothing is still to come


def test_a_return_that_nobody_counts_stays_as_it_was_asked_for() -> None:
    row = Past(1, 2, RETURNS).of_decision(Memory(1, 0, 0, seed=0), Observation({}, {}), 0.75)
    np.testing.assert_array_equal(row, np.float32([0, 0, 0.75]))


def test_windows_at_the_start_and_the_end_of_logs_hold_their_own_steps_alone() -> None:
    logs = [episode(5, 0), episode(3, 1)]
    stats, tokenizer = (
        NormStats.fit(logs, ["state"]),
        UniformBinTokenizer(action_dim=2, n_bins=8, horizon=1),
    )
    data = TokenData(
        logs, ["state"], [], None, stats, tokenizer, RETURNS, lambda _: np.zeros(1, np.int64), 4,
        reads_past=True,
    )  # fmt: skip
    steps, seen = data.window_steps(torch.arange(8))
    expected = [[s for s in range(end - 3, end + 1) if s >= first] for end, first in
                ((0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 5), (6, 5), (7, 5))]  # fmt: skip
    found = [row[mask].tolist() for row, mask in zip(steps, seen, strict=True)]
    assert found == expected
    assert data.actions is not None
    for end in range(8):
        window = data.batch(torch.tensor([end])).state[0][seen[end]]
        for frame, step in zip(window[1:], expected[end][:-1], strict=True):
            torch.testing.assert_close(frame[3:5], data.actions[step])
        to_go = [data.returns_to_go[data.episode_of_step[s], data.time_of_step[s]] for s in
                 expected[end]]  # fmt: skip
        torch.testing.assert_close(window[:, -1], torch.stack(to_go))
