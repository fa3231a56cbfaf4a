"""Normalized state has zero mean and unit deviation, and nothing passes unnormalized in silence."""

import json

import numpy as np
import pytest

from qsft_robot.normalize import NormStats
from qsft_robot.types import Episode


def episodes(constant=False):
    rng = np.random.default_rng(0)
    made = []
    for i in range(4):
        state = rng.normal([5.0, -2.0, 100.0], [0.1, 3.0, 20.0], (11, 3)).astype(np.float32)
        if constant:
            state[:, 1] = 0.1
        made.append(
            Episode(
                f"demo_{i}",
                {
                    "proprio": state,
                    "gripper": rng.uniform(size=(11, 1)).astype(np.float32),
                    "front_image": np.zeros((11, 4, 4, 3), np.uint8),
                },
                rng.uniform(-1, 1, (10, 2)).astype(np.float32),
                np.zeros(10, np.float32),
                True,
                False,
                False,
            )
        )
    return made


def test_the_fitted_rows_get_zero_mean_and_unit_deviation():
    data = episodes()
    stats = NormStats.fit(data)
    assert set(stats.mean) == {"proprio", "gripper"}
    rows = np.concatenate([e.observations["proprio"] for e in data])
    normalized = stats.normalize("proprio", rows)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normalized.std(0), 1, atol=1e-4)
    single = stats.normalize("proprio", rows[3])
    np.testing.assert_array_equal(single, normalized[3])


def test_a_constant_dimension_becomes_zero_and_says_so():
    with pytest.warns(UserWarning, match=r"proprio: dimension 1 of 3 constant"):
        stats = NormStats.fit(episodes(constant=True))
    assert stats.constant_dimensions == {"proprio": (1,)}
    assert stats.normalize("proprio", np.array([5.0, 77.0, 100.0]))[1] == 0


def test_of_many_constant_dimensions_the_first_are_named():
    std = np.zeros(384)
    std[5] = 1.0
    stats = NormStats({"board": np.zeros(384)}, {"board": std}, -np.ones(1), np.ones(1))
    (said,) = stats.describe()
    assert said.startswith("board: dimensions 0, 1, 2, 3, 4, 6, 7")
    assert "and 371 more of 384 constant" in said


def test_a_missing_statistic_is_an_error_that_lists_those_there():
    stats = NormStats.fit(episodes(), keys=["gripper"])
    with pytest.raises(ValueError, match=r"'proprio'.*gripper.*never passed on unnormalized"):
        stats.normalize("proprio", np.zeros(3))
    with pytest.raises(ValueError, match=r"'eef_pos'.*proprio, gripper"):
        NormStats.fit(episodes(), keys=["eef_pos"])
    with pytest.raises(ValueError, match="gripper"):
        stats.normalize("gripper", np.zeros(2))
    with pytest.raises(ValueError, match="at least one episode"):
        NormStats.fit([])


def test_actions_are_left_to_the_bit_without_a_declared_scale():
    stats = NormStats.fit(episodes())
    actions = np.random.default_rng(1).uniform(-1, 1, (5, 2, 2)).astype(np.float32)
    np.testing.assert_array_equal(stats.normalize_actions(actions), actions)
    np.testing.assert_array_equal(stats.unnormalize_actions(actions), actions)


def test_a_declared_scale_maps_its_bounds_to_minus_one_and_one():
    stats = NormStats.fit(episodes(), action_scale=([0.0, -2.0], [10.0, 2.0]))
    np.testing.assert_allclose(
        stats.normalize_actions(np.array([[0, 2], [5, 0]])), [[-1, 1], [0, 0]]
    )
    actions = np.random.default_rng(1).uniform(0, 2, (50, 2)).astype(np.float32)
    there_and_back = stats.unnormalize_actions(stats.normalize_actions(actions))
    np.testing.assert_allclose(there_and_back, actions, atol=1e-6)
    one_for_all = NormStats.fit(episodes(), action_scale=(-5, 5))
    np.testing.assert_allclose(one_for_all.normalize_actions(np.array([5.0, -5.0])), [1, -1])


def test_an_action_scale_or_action_of_another_size_is_refused():
    with pytest.raises(ValueError, match="3 dimensions, actions 2"):
        NormStats.fit(episodes(), action_scale=([0] * 3, [1] * 3))
    with pytest.raises(ValueError, match="low < high"):
        NormStats.fit(episodes(), action_scale=(1, 1))
    with pytest.raises(ValueError, match="2 dimensions"):
        NormStats.fit(episodes()).unnormalize_actions(np.zeros((4, 3)))


def test_json_gives_back_the_same_numbers():
    stats = NormStats.fit(episodes(), action_scale=([0.0, -2.0], [10.0, 2.0]))
    again = NormStats.from_json(json.loads(json.dumps(stats.to_json())))
    x = np.random.default_rng(2).normal(size=(7, 3))
    np.testing.assert_array_equal(again.normalize("proprio", x), stats.normalize("proprio", x))
    np.testing.assert_array_equal(
        again.unnormalize_actions(x[:, :2]), stats.unnormalize_actions(x[:, :2])
    )
