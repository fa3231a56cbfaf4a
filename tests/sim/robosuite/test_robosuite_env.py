"""robosuite's face, seeds, observations, physics and settings."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("robosuite")

from sim.robosuite.env import RobosuiteEnv, build_env

# As robomimic's Lift file, made with robosuite 1.2-1.4, has it.
OLD_FILE = {
    "env_name": "Lift",
    "env_version": "1.4.1",
    "type": 1,
    "env_kwargs": {
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "ignore_done": True,
        "use_object_obs": True,
        "use_camera_obs": False,
        "control_freq": 20,
        "controller_configs": {
            "type": "OSC_POSE",
            "input_max": 1,
            "input_min": -1,
            "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
            "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
            "kp": 150,
            "damping": 1,
            "impedance_mode": "fixed",
            "kp_limits": [0, 300],
            "damping_limits": [0, 10],
            "position_limits": None,
            "orientation_limits": None,
            "uncouple_pos_ori": True,
            "control_delta": True,
            "interpolation": None,
            "ramp_ratio": 0.2,
        },
        "robots": ["Panda"],
        "camera_depths": False,
        "camera_heights": 84,
        "camera_widths": 84,
        "reward_shaping": False,
        "gripper_visualizations": [False],
    },
}
LOW_DIM = {
    "robot0_eef_pos": (3,),
    "robot0_eef_quat": (4,),
    "robot0_gripper_qpos": (2,),
    "object": (10,),
}


def rollout(env, seed, steps=6):
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    trace = [observation]
    for _ in range(steps):
        trace.append(env.step(rng.uniform(-1, 1, 7).astype(np.float32))[0])
    return trace


def assert_same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.fixture(scope="module")
def lift():
    env = RobosuiteEnv("Lift")
    yield env
    env.close()


@pytest.fixture(scope="module")
def lift_with_cameras():
    env = RobosuiteEnv("Lift", cameras=["agentview", "robot0_eye_in_hand"], image_size=(60, 84))
    yield env
    env.close()


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_gymnasium_accepts_state_observations(lift):
    check_env(lift, skip_render_check=True)
    assert {key: space.shape for key, space in lift.observation_space.items()} == LOW_DIM


@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_gymnasium_accepts_camera_observations(lift_with_cameras):
    check_env(lift_with_cameras, skip_render_check=True)
    spaces = lift_with_cameras.observation_space
    assert spaces["agentview_image"].shape == (60, 84, 3)
    assert spaces["agentview_image"].dtype == np.uint8


def test_the_same_seed_gives_the_same_episode_to_the_bit(lift_with_cameras):
    first = rollout(lift_with_cameras, seed=3)
    rollout(lift_with_cameras, seed=4)
    assert_same(first, rollout(lift_with_cameras, seed=3))
    other = RobosuiteEnv("Lift", cameras=["agentview", "robot0_eye_in_hand"], image_size=(60, 84))
    assert_same(first, rollout(other, seed=3))
    other.close()


def same(found: np.ndarray, wanted: np.ndarray, key: str = "") -> None:
    """Equal but for the last bits: BLAS rounds by the alignment of its inputs on some processors
    (1e-16 seen with AVX-512)."""
    rtol = 2e-7 if found.dtype == np.float32 else 0
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", ["Lift", "PickPlaceCan"])
def test_states_and_observations_are_those_of_robosuites_own_loop(name):
    import robosuite

    ours = RobosuiteEnv(name, terminate_on_success=False)
    # The env_args that we write are robosuite's own keywords.
    native = robosuite.make(
        name, hard_reset=False, seed=0, **json.loads(json.dumps(ours.env_args["env_kwargs"]))
    )
    native.rng.bit_generator.state = np.random.default_rng(5).bit_generator.state
    native.reset()
    ours.reset(seed=5)
    same(ours.states(), native.sim.get_state().flatten())
    rng = np.random.default_rng(0)
    for _ in range(25):
        action = rng.uniform(-1, 1, 7).astype(np.float32)
        theirs = native.step(action.astype(np.float64))[0]
        observation = ours.step(action)[0]
        same(ours.states(), native.sim.get_state().flatten())
        for key, value in observation.items():
            expected = theirs["object-state" if key == "object" else key]
            same(value, expected.astype(np.float32), key)
    native.close()
    ours.close()


def test_leaving_out_what_the_camera_cannot_see_changes_no_pixel(lift_with_cameras):
    env = lift_with_cameras
    env.reset(seed=0)
    for camera in ("agentview", "robot0_eye_in_hand", "sideview"):
        culled = env._render(camera, 60, 84)
        env._renderer._fast = False
        np.testing.assert_array_equal(culled, env._render(camera, 60, 84), err_msg=camera)
        env._renderer._fast = True


def test_images_stand_upright(lift_with_cameras):
    image = lift_with_cameras.reset(seed=0)[0]["agentview_image"].astype(int)
    # The table, nearly white, fills the bottom; the robot and the wall behind it are at the top.
    assert image[-10:].mean() > 200 > image[:10].mean()
    red = (image[..., 0] > 100) & (image[..., 1] < 90)
    assert 5 < red.sum() < 300


def test_the_episode_ends_at_the_step_limit_and_without_reward():
    env = RobosuiteEnv("Lift", max_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(7, np.float32))[1:4] for _ in range(3)]
    assert ends == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]
    env.close()


def test_env_args_rebuild_the_same_environment(lift_with_cameras):
    env = RobosuiteEnv(
        "Lift",
        cameras="agentview",
        image_size=32,
        keys=["robot0_eef_pos", "robot0_joint_pos_sin"],
        max_steps=7,
        terminate_on_success=False,
        language="raise the cube",
        table_friction=[0.9, 0.005, 0.0001],
    )
    written = json.loads(json.dumps(env.env_args))
    again = build_env(written)
    assert again.env_args == env.env_args
    assert again.observation_space == env.observation_space
    assert (again.max_steps, again.settings.terminate_on_success) == (7, False)
    assert again.reset(seed=1)[1]["instruction"] == "raise the cube"
    assert_same(rollout(env, seed=1), rollout(again, seed=1))
    env.close()
    again.close()


def test_a_file_of_robosuite_1_4_rebuilds_with_one_warning_for_what_is_gone():
    with pytest.warns(UserWarning, match="gripper_visualizations") as caught:
        env = build_env(OLD_FILE)
    assert len(caught) == 1
    assert {key: space.shape for key, space in env.observation_space.items()} == LOW_DIM
    part = env.settings.make_kwargs["controller_configs"]["body_parts"]["right"]
    assert (part["input_type"], part["damping_ratio"]) == ("delta", 1)
    # robosuite's advice for such logs, its own way of rendering, and robomimic's step limit
    assert env.settings.max_steps == 400
    assert env.settings.make_kwargs["lite_physics"] is False
    assert env.settings.render_quality == "full"
    start = env.reset(seed=0)[0]["robot0_eef_pos"]
    for _ in range(5):
        end = env.step(np.array([0, 1, 0, 0, 0, 0, -1], np.float32))[0]["robot0_eef_pos"]
    assert end[1] - start[1] > 0.03
    env.close()


OLD_ABSOLUTE = {**OLD_FILE["env_kwargs"]["controller_configs"], "control_delta": False}
NEW_ABSOLUTE = {
    **{k: v for k, v in OLD_ABSOLUTE.items() if k != "control_delta"},
    "input_type": "absolute",
    "input_ref_frame": "world",
    "gripper": {"type": "GRIP"},
}


def composite(part, **outer):
    return {
        "type": "BASIC",
        "body_parts": {"right": {**part, "gripper": {"type": "GRIP"}}},
        **outer,
    }


@pytest.mark.parametrize(
    "controllers",
    [
        OLD_ABSOLUTE,
        [OLD_ABSOLUTE],
        {**OLD_ABSOLUTE, "type": "OSC_POSITION"},
        NEW_ABSOLUTE,
        composite(NEW_ABSOLUTE),
        composite(OLD_ABSOLUTE),
        {"type": "BASIC", "body_parts": {"arms": composite(OLD_ABSOLUTE)["body_parts"]}},
        composite({**NEW_ABSOLUTE, "impedance_mode": "variable_kp"}),
    ],
    ids=[
        "1.4",
        "list",
        "position",
        "part",
        "1.5",
        "1.5 with control_delta",
        "1.5 arms",
        "variable kp",
    ],
)
def test_an_absolute_controller_gets_places_as_they_are(controllers):
    from robosuite.utils import transform_utils

    env = RobosuiteEnv("Lift", controller_configs=controllers)
    assert env.absolute_actions
    env.reset(seed=0)
    arm = env.simulator.robots[0].part_controllers["right"]
    arm.update(force=True)
    place, turn = np.array(arm.ref_pos), np.array(arm.ref_ori_mat)
    free = np.isinf(env.action_space.high)
    stiffness = [150.0] * (len(free) - 7) if len(free) > 7 else []
    angles = transform_utils.quat2axisangle(transform_utils.mat2quat(turn))
    goal = [*place, *(angles if len(free) >= 7 else [])]
    assert free.tolist() == [False] * len(stiffness) + [True] * len(goal) + [False]
    for _ in range(10):
        env.step(np.array([*stiffness, *goal, -1.0]))
    arm.update(force=True)
    assert np.linalg.norm(arm.ref_pos - place) < 0.01
    if len(free) >= 7:
        angle = np.arccos(np.clip((np.trace(arm.ref_ori_mat.T @ turn) - 1) / 2, -1, 1))
        assert np.degrees(angle) < 3
    goal[2] += 0.05
    for _ in range(10):
        env.step(np.array([*stiffness, *goal, -1.0]))
    arm.update(force=True)
    assert 0.03 < arm.ref_pos[2] - place[2] < 0.07
    env.close()


def test_displacements_keep_their_bounds_and_absolute_ones_have_no_scripted_expert(lift):
    from sim.robosuite.expert import build_expert

    assert not lift.absolute_actions
    assert lift.action_space.low.tolist() == [-1] * 7
    env = RobosuiteEnv("Lift", controller_configs=OLD_ABSOLUTE)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="acts by displacements"):
        build_expert(env, None, 0.0, np.random.default_rng(0))
    env.close()


def test_stored_states_put_the_simulator_where_the_log_was(lift):
    lift.reset(seed=2)
    for _ in range(4):
        observation = lift.step(np.array([1, 0, -1, 0, 0, 0, 1], np.float32))[0]
    options = {"states": lift.states().tolist(), "model_file": lift.model_file()}
    lift.reset(seed=9)
    again, _ = lift.reset(options=json.loads(json.dumps(options)))
    np.testing.assert_array_equal(lift.states(), np.array(options["states"]))
    np.testing.assert_allclose(again["robot0_eef_pos"], observation["robot0_eef_pos"], atol=2e-3)
    # and the task's own model comes back with the next seed
    first = lift.reset(seed=2)[0]
    assert_same([first], [RobosuiteEnv("Lift").reset(seed=2)[0]])


def test_a_model_file_that_robosuite_cannot_load_is_set_aside_with_a_warning(lift):
    lift.reset(seed=2)
    states = lift.states()
    states[1] += 0.1
    with pytest.warns(UserWarning, match="cannot load the demo's model_file"):
        lift.reset(options={"states": states.tolist(), "model_file": "<mujoco/>"})
    np.testing.assert_array_equal(lift.states(), states)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"keys": ["robot0_eef_position"]}, "robot0_eef_pos"),
        ({"cameras": ["frontal"]}, "agentview"),
        ({"keys": ["agentview_image"]}, "Name the cameras"),
        ({"render_quality": "best"}, "fast, full"),
        ({"robots": ["Panda", "Panda"]}, "one robot"),
        ({"controller_configs": {"type": "IK_POSE"}}, "OSC_POSE"),
    ],
)
def test_wrong_settings_are_answered_with_what_exists(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RobosuiteEnv("Lift", **kwargs)


def test_states_of_another_model_are_refused(lift):
    with pytest.raises(ValueError, match=r"takes \[32\]"):
        lift.reset(options={"states": [0.0, 1.0]})
    with pytest.raises(ValueError, match="model_file"):
        lift.reset(options={"state": [0.0]})


def test_without_robosuite_the_error_is_the_install_line(monkeypatch):
    for name in [m for m in sys.modules if m.split(".")[0] == "robosuite"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(ImportError, match=r"pip install 'qsft-robot\[robosuite\]'"):
        RobosuiteEnv("Lift")


@pytest.mark.skipif(sys.platform != "linux", reason="the EGL library of Linux")
def test_a_missing_gl_context_says_what_to_set_and_states_need_none():
    code = (
        "from sim.robosuite.env import RobosuiteEnv\n"
        "env = RobosuiteEnv('Lift', cameras=['agentview'])\n"
        "env.settings.cameras.clear()\n"
        "assert set(env.reset(seed=0)[0]) == set(env.settings.keys)\n"
        "try:\n    env.render()\n"
        "except RuntimeError as error:\n    print('told:', error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    environment["__EGL_VENDOR_LIBRARY_FILENAMES"] = "/nowhere.json"
    for name in ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "told: No OpenGL context" in done.stdout
    assert "MUJOCO_GL=egl" in done.stdout
    assert "robosuite WARNING" not in done.stderr
