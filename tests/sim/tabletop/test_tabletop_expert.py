"""The scripted experts of the tabletop do their tasks, and fail in the ways they are asked to."""

from __future__ import annotations

import numpy as np
import pytest

from sim.tabletop.env import MAX_STEPS, TabletopEnv
from sim.tabletop.expert import FAILURE_MODES, TASK_FAILURES, build_expert
from sim.tabletop.scene import DRAWER_OPEN, NEUTRAL


def play(env, seed, failure=None, noise=0.0, options=None):
    """Play one episode; (succeeded, steps, whether the expert ended the log)."""
    env.reset(seed=seed, options=options)
    expert = build_expert(env, failure, noise, np.random.default_rng(seed))
    for step in range(env.max_steps):
        action = expert.act()
        if expert.done:
            return False, step, True
        assert action.shape == (4,)
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1.0
        _, reward, terminated, _, _ = env.step(action)
        if terminated:
            return reward == 1.0, step + 1, False
    return False, env.max_steps, False


@pytest.mark.parametrize("task", list(MAX_STEPS))
@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_the_expert_does_its_task(task, noise):
    env = TabletopEnv(task, cameras=())
    results = [play(env, seed, noise=noise) for seed in range(10)]
    assert sum(success for success, _, _ in results) >= (10 if noise == 0 else 9)


@pytest.mark.parametrize(
    ("task", "failure"), [(task, name) for task, names in TASK_FAILURES.items() for name in names]
)
def test_a_failure_mode_fails(task, failure):
    assert failure in FAILURE_MODES
    env = TabletopEnv(task, cameras=())
    rate = np.mean([play(env, seed, failure, 0.1)[0] for seed in range(8)])
    assert rate <= 0.25 if failure != "sloppy" else rate < 1.0


def test_the_two_kinds_of_drawer_logs_meet_at_neutral():
    env = TabletopEnv("drawer", cameras=())
    for seed in range(8):
        success, steps, done = play(env, seed, options={"phase": "open"})
        assert done
        assert not success
        assert steps < env.max_steps
        scene = env.scene
        assert np.abs(scene.arm.position - NEUTRAL).max() < 0.02
        assert abs(scene.drawer_opening - np.mean(DRAWER_OPEN)) < 0.02
        _, info = env.reset(seed=seed, options={"phase": "grasp"})
        assert np.abs(scene.arm.position - NEUTRAL).max() < 0.02
        assert DRAWER_OPEN[0] <= scene.drawer_opening <= DRAWER_OPEN[1]
        assert info["instruction"] == env.reset(seed=seed)[1]["instruction"]


def test_an_open_drawer_is_grasped_from_at_once():
    env = TabletopEnv("drawer", cameras=())
    for seed in range(5):
        success, steps, _ = play(env, seed, options={"drawer": "open"})
        assert success
        assert steps < 20


def test_the_same_generator_gives_the_same_actions():
    logs = []
    for _ in range(2):
        env = TabletopEnv("place", cameras=())
        env.reset(seed=4)
        expert = build_expert(env, "sloppy", 0.2, np.random.default_rng(9))
        actions = []
        for _ in range(20):
            actions.append(expert.act())
            env.step(actions[-1])
        logs.append(np.array(actions))
    np.testing.assert_array_equal(*logs)
