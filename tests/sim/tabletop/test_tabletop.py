"""The tabletop environment keeps the gymnasium contract, its seeds and the laws of contact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain, islice

import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sim.rendering import render_images
from sim.tabletop.arm import WORKSPACE_HIGH, WORKSPACE_LOW, joint_angles
from sim.tabletop.env import MAX_STEPS, TabletopEnv
from sim.tabletop.expert import build_expert
from sim.tabletop.scene import OBJECTS, RECEPTACLES, load_scene

TASKS = list(MAX_STEPS)


def play(env: TabletopEnv, seed: int, steps: int, options: dict | None = None) -> list[dict]:
    rng = np.random.default_rng(seed)
    observations = [env.reset(seed=seed, options=options)[0]]
    for _ in range(steps):
        observations.append(env.step(rng.uniform(-1, 1, 4).astype(np.float32))[0])
    return observations


def assert_same(first: list[dict], second: list[dict]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("cameras", [(), ("front", "wrist")])
def test_the_environment_passes_gymnasiums_own_check(task, cameras):
    check_env(TabletopEnv(task, cameras=cameras), skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_episode_to_the_bit_in_another_environment(task):
    env, other = TabletopEnv(task), TabletopEnv(task)
    first = play(env, 5, 15)
    play(env, 6, 10)  # what happened in between leaves no trace
    assert_same(first, play(env, 5, 15))
    assert_same(first, play(other, 5, 15))


def test_cameras_do_not_change_the_physics():
    seen, blind = play(TabletopEnv("place"), 2, 10), play(TabletopEnv("place", cameras=()), 2, 10)
    state = [{k: x for k, x in o.items() if not k.endswith("_image")} for o in seen]
    assert_same(state, blind)


def test_reset_options_make_an_episode_again_and_leave_the_layout_to_the_seed():
    env = TabletopEnv("place", cameras=())
    plain, info = env.reset(seed=3)
    asked = {"object": "green cube", "receptacle": "white tray", "max_steps": 7}
    options = json.loads(json.dumps(asked))
    named, info = env.reset(seed=3, options=options)
    assert info["instruction"] == "put the green cube in the white tray"
    assert env.max_steps == 7
    np.testing.assert_array_equal(plain["objects"], named["objects"])
    assert_same(play(env, 3, 7, options), play(env, 3, 7, options))
    env.reset(seed=3)
    assert env.max_steps == MAX_STEPS["place"]


def test_every_object_and_receptacle_is_asked_for_and_nothing_overlaps():
    env = TabletopEnv("place", cameras=())
    asked = set()
    for seed in range(60):
        asked.add(env.reset(seed=seed)[1]["instruction"])
        spots = {name: env.scene.object_position(name)[:2].copy() for name in OBJECTS}
        spots |= {name: env.scene.receptacle_position(name)[:2].copy() for name in RECEPTACLES}
        names = list(spots)
        for i, name in enumerate(names):
            for other in names[:i]:
                assert np.hypot(*(spots[name] - spots[other])) > 0.1
    assert asked == {f"put the {o} in the {r}" for o in OBJECTS for r in RECEPTACLES}


def test_env_args_are_json_and_build_the_same_environment():
    env = TabletopEnv("drawer", cameras=["wrist"], image_size=[48, 64], max_steps=33)
    assert env.env_args["control_hz"] == env.control_hz == env.metadata["render_fps"]
    kwargs = json.loads(json.dumps(env.env_args))["env_kwargs"]
    again = TabletopEnv(**kwargs)
    assert again.env_args == env.env_args
    assert again.max_steps == 33
    assert env.reset(seed=0)[0]["wrist_image"].shape == (48, 64, 3)
    assert_same(play(env, 1, 3), play(again, 1, 3))


def test_inverse_kinematics_put_the_grasp_point_where_it_was_asked():
    env = TabletopEnv("pick", cameras=())
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for point in rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (30, 3)):
        env.scene.arm.place(point)
        mujoco.mj_kinematics(env.scene.model, env.scene.data)
        np.testing.assert_allclose(env.scene.arm.position, point, atol=1e-9)
    with pytest.raises(ValueError, match="out of the tabletop arm's reach"):
        joint_angles(0.9, 0.0, 0.1)


def test_every_corner_of_the_workspace_is_within_reach():
    for corner in np.ndindex(2, 2, 2):
        joint_angles(*np.where(corner, WORKSPACE_HIGH, WORKSPACE_LOW))


def lift(env: TabletopEnv, seed: int) -> None:
    """Let the expert grasp the asked object and lift it by some centimeters."""
    env.reset(seed=seed)
    expert = build_expert(env, None, 0.0, np.random.default_rng(0))
    for _ in range(25):
        env.step(expert.act())
        if env.scene.object_position(env.target_object)[2] > 0.06:
            return


def test_what_is_held_is_held_by_the_fingers_alone():
    env = TabletopEnv("pick", cameras=(), terminate_on_success=False)
    for seed in range(3):
        lift(env, seed)
        height = env.scene.object_position(env.target_object)[2]
        for _ in range(10):
            env.step(np.array([0, 0, 0, 1.0]))
        assert env.scene.object_position(env.target_object)[2] > height - 0.01
        for _ in range(8):
            env.step(np.array([0, 0, 0, -1.0]))
        assert env.scene.object_position(env.target_object)[2] < 0.03


def test_fingers_without_friction_lift_nothing():
    env = TabletopEnv("pick", cameras=(), terminate_on_success=False)
    pads = [env.scene.model.geom(name).id for name in ("left_pad", "right_pad")]
    friction = env.scene.model.geom_friction[pads].copy()
    env.scene.model.geom_friction[pads] = 1e-4
    try:
        for seed in range(3):
            lift(env, seed)
            assert env.scene.object_position(env.target_object)[2] < 0.05
    finally:
        env.scene.model.geom_friction[pads] = friction


def test_a_closed_drawer_keeps_its_object():
    env = TabletopEnv("drawer", cameras=())
    for seed in range(3):
        env.reset(seed=seed, options={"drawer": "closed"})
        expert = build_expert(env, None, 0.0, np.random.default_rng(0))
        # As if the drawer were open.
        moves = chain(expert._grasp(env.target_object), expert._rise(0.15), expert._stay())
        for action in islice(moves, 40):
            assert env.step(action)[1] == 0.0
        assert env.scene.object_position(env.target_object)[2] < 0.05


def test_reward_comes_once_and_success_ends_the_episode_unless_told_otherwise():
    for terminate in (True, False):
        env = TabletopEnv("pick", cameras=(), terminate_on_success=terminate)
        env.reset(seed=1)
        expert = build_expert(env, None, 0.0, np.random.default_rng(0))
        rewards, ends = [], []
        for _ in range(env.max_steps):
            _, reward, terminated, truncated, _ = env.step(expert.act())
            rewards.append(reward)
            ends.append((terminated, truncated))
            if terminated or truncated:
                break
        assert sum(rewards) == 1.0
        assert ends[-1] == ((True, False) if terminate else (False, True))
        assert len(rewards) < env.max_steps if terminate else len(rewards) == env.max_steps


def test_environments_of_a_process_share_one_compiled_model():
    assert TabletopEnv("pick", cameras=()).scene.model is load_scene("table")
    assert TabletopEnv("place", cameras=()).scene.model is load_scene("table")


def test_the_asked_object_is_several_pixels_wide_in_the_front_camera():
    env = TabletopEnv("pick")
    for seed in range(10):
        image = env.reset(seed=seed, options={"object": "red cube"})[0]["front_image"].astype(int)
        red = (image[..., 0] > 100) & (image[..., 1] < 60) & (image[..., 2] < 60)
        assert np.flatnonzero(red.any(0)).size >= 4


def test_closing_one_environment_leaves_the_images_of_another_as_they_were():
    env, other = TabletopEnv("pick"), TabletopEnv("pick")
    first = env.reset(seed=0)[0]
    other.reset(seed=1)
    other.close()
    assert_same([first], [env.reset(seed=0)[0]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TabletopEnv("stack"), "Unknown tabletop task 'stack'; there are: pick"),
        (lambda: TabletopEnv(cameras=["side"]), "there are: front, wrist"),
        (lambda: TabletopEnv(image_size=2), "image_size 2"),
        (lambda: TabletopEnv(cameras=()).reset(options={"color": 1}), "no reset option 'color'"),
        (lambda: TabletopEnv(cameras=()).reset(options={"object": "pen"}), "red cube, green cube"),
        (lambda: TabletopEnv(cameras=()).reset(options={"max_steps": 0}), "max_steps is 0"),
        (
            lambda: TabletopEnv("drawer", cameras=()).reset(
                options={"phase": "open", "drawer": "open"}
            ),
            "contradict",
        ),
        (lambda: build_expert(TabletopEnv("pick"), "nap", 0.0, None), "no failure mode 'nap'"),
        (lambda: render_images(load_scene("table"), None, ["x"], (8, 8)), "No camera 'x'"),
    ],
)
def test_a_wrong_name_is_answered_with_what_exists(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_action_that_is_not_finite_is_refused():
    env = TabletopEnv(cameras=())
    env.reset(seed=0)
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.step(np.array([0, np.nan, 0, 0]))


WITHOUT_GL = """
from sim.tabletop.env import TabletopEnv
env = TabletopEnv("place", cameras=())
env.reset(seed=0)
env.step(env.action_space.sample())
print("stepped")
try:
    TabletopEnv("place").reset(seed=0)
except RuntimeError as error:
    print(error)
"""


def test_state_needs_no_gl_and_a_failed_gl_context_says_what_to_set():
    broken = {"MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nowhere.json"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GL],
        env={**os.environ, **broken},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("stepped\n")
    assert "MUJOCO_GL=egl" in done.stdout
    assert "libegl1" in done.stdout


def test_images_leave_no_error_behind_at_exit():
    code = "from sim.tabletop.env import TabletopEnv as T; e = T(); e.reset(seed=0); e.render()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
