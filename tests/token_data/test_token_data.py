"""Logs as tensors: contexts, histories, chunks and ends against the episodes they come from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qsft_robot.logs.reader import read_episodes
from qsft_robot.normalize import NormStats
from qsft_robot.returns import ReturnRange
from qsft_robot.token_data.run_data import read_run_data
from qsft_robot.token_data.token_data import TokenData, state_vector
from qsft_robot.training.describing import describe
from qsft_robot.types import Episode
from tokenizers_action.bins import UniformBinTokenizer
from tokenizers_action.protocol import action_chunks
from vlm.words import hash_words


def episode(name: str, steps: int, terminated: bool, reward: float = 0.0) -> Episode:
    """State x = 10 * number of the log + time; the reward comes with the last action."""
    x = 10.0 * int(name) + np.arange(steps + 1, dtype=np.float32)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = reward
    actions = np.linspace(-0.9, 0.9, 2 * steps, dtype=np.float32).reshape(steps, 2)
    return Episode(
        name, {"x": x[:, None]}, actions, rewards, terminated, not terminated, reward > 0
    )


def token_data(history: int = 1, horizon: int = 1, gamma: float = 0.9) -> TokenData:
    """Three logs of 3, 1 and 4 steps: a success, a failure, and a cut one."""
    episodes = [episode("0", 3, True, 1.0), episode("1", 1, True), episode("2", 4, False)]
    stats = NormStats({"x": np.zeros(1)}, {"x": np.ones(1)}, -np.ones(2), np.ones(2))
    tokenizer = UniformBinTokenizer(2, horizon, 10)
    returns = ReturnRange(gamma)
    return TokenData(episodes, ["x"], (), None, stats, tokenizer, returns, hash_words, history)


def test_rows_and_steps_number_the_logs_one_after_the_other():
    data = token_data()
    assert len(data) == 8
    assert data.rows == 11
    assert data.final_rows.tolist() == [3, 5, 10]
    assert data.row_of_step.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert data.time_of_step.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    assert data.state[:, 0].tolist() == [0, 1, 2, 3, 10, 11, 20, 21, 22, 23, 24]


def test_a_history_never_reaches_into_the_log_before():
    batch = token_data(history=3).context(torch.arange(11))
    assert batch.frame_mask.sum(1).tolist() == [1, 2, 3, 3, 1, 2, 1, 2, 3, 3, 3]
    assert batch.frame_mask[:, -1].all()
    for row, (window, mask) in enumerate(zip(batch.state[..., 0], batch.frame_mask, strict=True)):
        newest = token_data().state[row, 0]
        expected = newest - torch.tensor([2.0, 1.0, 0.0])
        assert torch.equal(window[mask], expected[mask])


def test_chunks_hold_the_next_actions_and_mask_what_lies_past_the_end():
    data = token_data(horizon=3)
    tokenizer = data.tokenizer
    batch = data.batch(torch.arange(8))
    decoded = tokenizer.decode(batch.action_ids.numpy())
    log = episode("2", 4, False)
    for step in range(4, 8):
        t, real = step - 4, min(3, 8 - step)
        assert batch.token_mask[step].tolist() == [i < 2 * real for i in range(6)]
        np.testing.assert_allclose(decoded[step, :real], log.actions[t : t + real], atol=0.11)


def test_action_chunks_repeat_the_last_action_behind_the_mask():
    chunks, real = action_chunks(np.arange(3, dtype=np.float32)[:, None], 2)
    assert chunks[..., 0].tolist() == [[0, 1], [1, 2], [2, 2]]
    assert real.tolist() == [[True, True], [True, True], [True, False]]


def test_the_next_row_lies_a_chunk_on_and_only_terminal_ends_stop_the_bootstrap():
    rows, ended = token_data().next_rows(torch.arange(8))
    assert rows.tolist() == [1, 2, 3, 5, 7, 8, 9, 10]
    assert ended.tolist() == [False, False, True, True, False, False, False, False]
    rows, ended = token_data(horizon=2).next_rows(torch.arange(8))
    assert rows.tolist() == [2, 3, 3, 5, 8, 9, 10, 10]
    assert ended.tolist() == [False, True, True, True, False, False, False, False]


def test_chunk_rewards_are_discounted_and_stop_at_the_end_of_the_log():
    rewards, lengths = token_data(horizon=2).chunk_rewards(torch.arange(8))
    assert rewards[:4].tolist() == pytest.approx([0.0, 0.9, 1.0, 0.0])
    assert not rewards[4:].any()
    assert lengths.tolist() == [2, 2, 1, 1, 2, 2, 2, 1]


def test_the_frames_of_a_history_lie_a_chunk_apart():
    data = token_data(history=2, horizon=2)
    batch = data.context(torch.arange(11))
    assert batch.frame_mask.all(1).tolist() == [t >= 2 for t in (0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4)]
    both = batch.frame_mask.all(1)
    assert (batch.state[both, 1, 0] - batch.state[both, 0, 0]).tolist() == [2.0] * int(both.sum())


def test_padded_tables_put_every_number_at_its_log_and_time():
    data = token_data()
    table = data.padded(torch.arange(1.0, 9.0)[:, None], torch.tensor([10.0, 20.0, 30.0]))
    assert table[..., 0].tolist() == [[1, 2, 3, 10, 0], [4, 20, 0, 0, 0], [5, 6, 7, 8, 30]]


def test_returns_for_the_conditioned_baseline_are_those_of_the_log():
    batch = token_data().batch(torch.arange(8), with_returns=True)
    assert batch.returns.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert token_data().batch(torch.arange(8)).returns is None


def test_a_constant_action_has_one_legal_token():
    data = token_data()
    data.tokenizer = UniformBinTokenizer(2, n_bins=(10, 3))
    assert data.batch(torch.arange(2)).legal.sum(-1).tolist() == [[10, 3], [10, 3]]


def test_steps_are_named_by_log_and_time():
    data = token_data()
    assert data.describe(torch.tensor([0, 3, 7])) == "0:0, 1:0, 2:3"
    assert data.describe(torch.zeros(10).long()).endswith("0:0 and 2 more")


def test_state_keys_stand_side_by_side_in_the_order_asked_for(logs):
    log = read_episodes(logs, keys=["proprio", "target"])[0]
    stats = NormStats.fit([log], ["proprio", "target"])
    for keys in (["proprio", "target"], ["target", "proprio"]):
        found = state_vector(log.observations, keys, stats, len(log) + 1)
        parts = [stats.normalize(key, log.observations[key]) for key in keys]
        assert np.array_equal(found, np.concatenate(parts, 1))
    assert state_vector(log.observations, [], stats, 4).shape == (4, 0)


def test_the_frames_of_a_context_are_the_pixels_of_the_log(config, pixel_logs):
    """A filter key takes part of the logs, so rows of the cache and of the data differ."""
    for key in (None, "train", "valid"):
        setting = config(pixels=True, model__history=2, data__filter_key=key)
        data = read_run_data(setting).train
        episodes = read_episodes(pixel_logs, filter_key=key)
        batch = data.context(torch.arange(data.rows))
        assert batch.images["front_image"].shape == (data.rows, 2, 32, 32, 3)
        for camera, images in batch.images.items():
            expected = np.concatenate([e.observations[camera] for e in episodes])
            assert np.array_equal(images[:, -1].numpy(), expected)
            older = batch.frame_mask[:, 0]
            assert np.array_equal(images[older, 0].numpy(), expected[older.roll(-1)][: older.sum()])
        assert data.context(torch.arange(3)).features is None


def test_a_run_reads_the_logs_of_its_mask_and_says_so(config):
    data = read_run_data(config(data__filter_key="train", data__valid_key="valid"))
    assert len(data.train.names) == 10
    assert data.valid is not None
    assert len(data.valid.names) == 2
    assert not set(data.train.names) & set(data.valid.names)
    assert data.summary.episodes == 10
    assert data.summary.steps == len(data.train)
    first = read_run_data(config(data__filter_key="train", data__max_episodes=3))
    assert first.train.names == data.train.names[:3]


def test_what_a_policy_carries_of_its_data_is_json_and_complete(config):
    import json

    setting = config(pixels=True)
    data = read_run_data(setting)
    found = describe(setting, data, {"kind": "rt", "config": {}}).to_json()
    assert json.loads(json.dumps(found)) is not None
    assert found["cameras"] == {"front_image": [32, 32], "wrist_image": [32, 32]}
    assert found["action"]["dim"] == 4
    assert found["return_range"] == {"discount": 0.97, "low": 0.0, "high": 1.0}
    assert len(found["data"]["sha256"]) == 64
    assert {"tokenizer", "norm_stats", "state_keys", "env_args", "seed", "versions"} <= set(found)


def test_declared_ends_of_logs_are_taken(config):
    data = read_run_data(config(data__log_end=("truncated",))).train
    assert torch.equal(data.terminated, data.success)
    data = read_run_data(config(data__log_end=("terminal",))).train
    assert data.terminated.all()
