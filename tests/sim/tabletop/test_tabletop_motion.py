"""The tabletop in physics time against the tabletop in control steps."""

from __future__ import annotations

import numpy as np
import pytest

from sim.tabletop.arm import ACTION_SCALE
from sim.tabletop.env import TabletopEnv
from sim.tabletop.motion import Motion

PERIOD = 20  # physics steps of one control step at 10 Hz


@pytest.fixture
def env():
    made = TabletopEnv("place", cameras=())
    made.reset(seed=3)
    yield made
    made.close()


def test_a_command_every_control_step_gives_the_bits_of_the_environment(env, rng):
    other = TabletopEnv("place", cameras=(), terminate_on_success=False)
    other.reset(seed=3)
    motion = Motion(env, 10.0)
    for cut in rng.integers(0, PERIOD + 1, 25):
        action = rng.uniform(-1, 1, 4)
        motion.command(action)
        motion.advance(int(cut))  # however the time is cut
        motion.advance(PERIOD - int(cut))
        seen, *_ = other.step(action)
        mine, success = motion.observe()
        assert not success
        for key in seen:
            assert np.array_equal(mine[key], seen[key]), key


@pytest.mark.parametrize("hz", [5.0, 10.0, 20.0, 40.0])
def test_the_same_speed_is_the_same_path_at_every_rate(env, hz):
    motion = Motion(env, hz)
    start = env.scene.arm.position.copy()
    steps = round(1 / (hz * motion.physics_s))
    for _ in range(round(0.4 * hz)):  # 0.4 s of a tenth of the top speed
        motion.command(np.array([0.0, 0.25, 0.0, -1.0]))
        motion.advance(steps)
    motion.advance(100)
    moved = env.scene.arm.position - start
    assert moved[1] == pytest.approx(0.25 * 4 * ACTION_SCALE, abs=0.003)
    assert np.abs(moved[[0, 2]]).max() < 0.003


def test_without_commands_the_last_point_is_held(env):
    motion = Motion(env, 10.0)
    motion.command(np.array([0.5, 0.5, -0.5, -1.0]))
    motion.advance(200)
    there = env.scene.arm.position.copy()
    motion.advance(400)
    assert env.scene.arm.position == pytest.approx(there, abs=1e-4)


def test_hold_stops_a_command_under_way(env):
    motion = Motion(env, 2.0)
    motion.command(np.array([0.0, 1.0, 0.0, -1.0]))
    motion.advance(20)
    motion.hold()
    at = motion.arm.command.copy()
    motion.advance(200)
    assert np.array_equal(motion.arm.command, at)
    assert env.scene.arm.position == pytest.approx(at, abs=2e-3)


@pytest.mark.parametrize("action", [[0, 0, 0], [np.nan, 0, 0, 0], [np.inf, 0, 0, 0]])
def test_a_command_is_four_finite_numbers(env, action):
    with pytest.raises(ValueError, match="4 finite numbers"):
        Motion(env, 10.0).command(np.array(action))
