"""The scripted experts of the robosuite tasks succeed, and fail where they are told to."""

import numpy as np
import pytest

pytest.importorskip("robosuite")

from sim.robosuite.env import TASKS, RobosuiteEnv
from sim.robosuite.expert import FAILURE_MODES, build_expert


@pytest.fixture(scope="module")
def environments():
    built = {name: RobosuiteEnv(name) for name in TASKS}
    yield built
    for env in built.values():
        env.close()


def play(env, seed, failure=None, noise=0.0):
    env.reset(seed=seed)
    expert = build_expert(env, failure, noise, np.random.default_rng(seed))
    rewards, actions = [], []
    while True:
        actions.append(expert.act())
        _, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        if terminated or truncated or expert.done:
            return np.array(rewards), np.array(actions), terminated


@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds(environments, name):
    for seed in (0, 1):
        rewards, actions, terminated = play(environments[name], seed, noise=0.05)
        assert terminated
        assert rewards.sum() == 1.0 == rewards[-1]
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1.0


@pytest.mark.parametrize("failure", [f for f in FAILURE_MODES if f != "sloppy"])
def test_a_named_failure_of_lift_runs_to_the_step_limit_without_reward(environments, failure):
    rewards, _, terminated = play(environments["Lift"], 0, failure)
    assert not terminated
    assert len(rewards) == environments["Lift"].max_steps
    assert rewards.sum() == 0.0


def test_the_same_seed_gives_the_same_log(environments):
    one = play(environments["Stack"], 3, "drop_early", 0.1)
    other = play(environments["Stack"], 3, "drop_early", 0.1)
    np.testing.assert_array_equal(one[1], other[1])


def test_an_unknown_failure_is_answered_with_those_that_exist(environments):
    environments["Lift"].reset(seed=0)
    with pytest.raises(ValueError, match="miss_grasp"):
        build_expert(environments["Lift"], "miss", 0.0, np.random.default_rng(0))
