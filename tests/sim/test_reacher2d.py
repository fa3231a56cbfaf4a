"""Reacher2d: its geometry, its rewards and its experts."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from sim.reacher2d import FAILURE_MODES, MAX_STEPS, REACH, Reacher2dEnv, build_expert, joint_angles


def returns_of(failure: str | None, seeds=range(8), noise: float = 0.1) -> list[float]:
    env, found = Reacher2dEnv(), []
    for seed in seeds:
        env.reset(seed=seed)
        actor = build_expert(env, failure, noise, np.random.default_rng(seed))
        total, over, steps = 0.0, False, 0
        while not over:
            _, reward, terminated, over, info = env.step(actor.act())
            assert not terminated
            assert reward == float(info["success"])
            total, steps = total + reward, steps + 1
        assert steps == MAX_STEPS
        found.append(total)
    return found


def test_angles_put_the_tip_where_they_are_asked_to() -> None:
    env = Reacher2dEnv()
    for seed in range(20):
        env.reset(seed=seed)
        env.data.qpos[:] = joint_angles(*env.target, near=env.data.qpos)
        mujoco.mj_forward(env.model, env.data)
        assert np.linalg.norm(env.tip - env.target) < 1e-9
        assert env._info()["success"]
    with pytest.raises(ValueError, match="out of the arm's reach"):
        joint_angles(0.3, 0.0, near=np.zeros(2))


def test_the_expert_holds_the_target_and_each_failure_earns_less() -> None:
    expert = np.mean(returns_of(None))
    assert expert > 50
    for failure in FAILURE_MODES:
        assert np.mean(returns_of(failure)) < expert - 10, failure


def test_a_seed_gives_the_episode_again_to_the_bit() -> None:
    one, two = returns_of("wander", [3, 4]), returns_of("wander", [3, 4])
    assert one == two
    env = Reacher2dEnv()
    first, _ = env.reset(seed=5)
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first["state"], again["state"])
    np.testing.assert_allclose(first["state"][8:], env.tip - env.target, atol=1e-6)
    assert np.linalg.norm(first["state"][8:]) > REACH / 100


@pytest.mark.parametrize("action", [np.array([np.nan, 0.0]), np.zeros(3)])
def test_an_action_that_is_none_is_refused(action) -> None:
    env = Reacher2dEnv()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="wants 2 finite numbers"):
        env.step(action)
