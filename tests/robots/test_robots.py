"""Every robot keeps the protocol: its observations are what its specification says."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from served_description import served

from qsft_robot.control.robot import EpisodicRobot
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.robots.gym import GymRobot
from qsft_robot.robots.lerobot import LeRobotAdapter, build_lerobot
from qsft_robot.robots.mujoco import MujocoRobot
from qsft_robot.robots.replay import ReplayRobot, difference_table
from qsft_robot.types import Episode, Observation

PLACE = {"env_name": "tabletop", "env_kwargs": {"task": "place", "cameras": [], "max_steps": 6}}
PIXELS = {"env_name": "tabletop", "env_kwargs": {"task": "place", "image_size": 16}}
MOTORS = ("shoulder_pan.pos", "elbow_flex.pos", "gripper.pos")


class FlatArm:
    """LeRobot's interface to the letter: flat features, flat dictionaries, an error when used
    before `connect`, and a reply that tells what was really sent."""

    name = "flat_arm"

    def __init__(self) -> None:
        self.is_connected = False
        self.calibrated: bool | None = None
        self.at = dict.fromkeys(MOTORS, 0.0)

    @property
    def observation_features(self):
        return {**dict.fromkeys(MOTORS, float), "wrist": (12, 16, 3)}

    @property
    def action_features(self):
        return dict.fromkeys(MOTORS, float)

    def connect(self, calibrate=True):
        self.is_connected, self.calibrated = True, calibrate

    def get_observation(self):
        if not self.is_connected:
            raise ConnectionError("not connected")
        return {**self.at, "wrist": np.zeros((12, 16, 3), np.uint8)}

    def send_action(self, action):
        assert list(action) == list(MOTORS)
        assert all(type(x) is float for x in action.values())
        # As with max_relative_target: no motor goes further than 5 at once.
        self.at = {k: float(np.clip(x, self.at[k] - 5, self.at[k] + 5)) for k, x in action.items()}
        return dict(self.at)

    def disconnect(self):
        self.is_connected = False


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two logs of noise."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("recording") / "logs.hdf5"
    logs = [
        Episode(
            f"demo_{i}", {"q": rng.normal(size=(6, 2)).astype(np.float32)},
            rng.uniform(-1, 1, (5, 2)).astype(np.float32), np.eye(5, dtype=np.float32)[-1],
            terminated=True, truncated=False, success=True, instruction=f"task {i}",
        )
        for i in range(2)
    ]  # fmt: skip
    write_demonstrations(path, logs, {"env_name": "arm", "type": 2, "control_hz": 5.0})
    return path


@pytest.fixture(params=["mujoco", "mujoco with cameras", "gym", "lerobot", "replay"])
def robot(request, recording):
    made = {
        "mujoco": lambda: MujocoRobot(PLACE, 20.0),
        "mujoco with cameras": lambda: MujocoRobot(PIXELS),
        "gym": lambda: GymRobot(PLACE),
        "lerobot": lambda: LeRobotAdapter(FlatArm(), control_hz=30.0),
        "replay": lambda: ReplayRobot(recording),
    }[request.param]()
    made.connect()
    yield made
    made.disconnect()


def test_a_robot_gives_and_takes_what_its_specification_says(robot):
    spec = robot.spec
    if isinstance(robot, EpisodicRobot):
        robot.begin_episode(3)
    for _ in range(3):
        seen = robot.get_observation()
        assert isinstance(seen, Observation)
        assert {k: x.shape for k, x in seen.images.items()} == {
            k: (*size, 3) for k, size in spec.cameras.items()
        }
        assert all(image.dtype == np.uint8 for image in seen.images.values())
        assert {k: x.shape for k, x in seen.state.items()} == {
            k: (n,) for k, n in spec.state.items()
        }
        assert all(row.dtype == np.float32 for row in seen.state.values())
        hold = spec.hold(np.zeros(spec.action_dim, np.float32), seen)
        assert hold.shape == (spec.action_dim,)
        assert (hold >= spec.action_low).all()
        assert (hold <= spec.action_high).all()
        robot.send_action(hold)
    assert "env_name" in spec.env_args


def test_connecting_again_after_disconnecting_works(robot):
    robot.disconnect()
    robot.connect()
    if isinstance(robot, EpisodicRobot):
        robot.begin_episode(0)
    robot.get_observation()


@pytest.mark.parametrize("make", [lambda: MujocoRobot(PLACE), lambda: GymRobot(PLACE)])
def test_the_same_seed_lays_out_the_same_episode(make):
    robot = make()
    robot.connect()
    rows = []
    for seed in (4, 5, 4):
        robot.begin_episode(seed)
        seen = robot.get_observation()
        rows.append((seen.instruction, seen.state["objects"][:9].copy()))
    robot.disconnect()
    assert rows[0][0] == rows[2][0]
    assert rows[0][1] == pytest.approx(rows[2][1], abs=1e-3)  # it runs while we look
    assert np.abs(rows[0][1] - rows[1][1]).max() > 0.01


def test_a_robot_that_is_not_connected_says_so(recording):
    for robot in (MujocoRobot(PLACE), GymRobot(PLACE), ReplayRobot(recording)):
        with pytest.raises(RuntimeError, match="connect"):
            _ = robot.spec
    with pytest.raises(RuntimeError, match="connect"):
        MujocoRobot(PLACE).get_observation()


def test_the_mujoco_arm_moves_under_commands_and_stops_on_its_own():
    robot = MujocoRobot(PLACE, 10.0, watchdog_s=0.05)
    robot.connect()
    robot.begin_episode(0)
    start = robot.get_observation().state["proprio"][:3]
    moved = start
    for _ in range(1000):
        robot.send_action(np.array([0, 1, 0, -1], np.float32))
        moved = robot.get_observation().state["proprio"][:3]
        if moved[1] - start[1] > 0.02:
            break
    assert moved[1] - start[1] > 0.02
    for _ in range(1000):
        robot.get_observation()
        if robot.counts["watchdog_holds"]:
            break
    assert robot.counts["watchdog_holds"] >= 1
    robot.disconnect()


def test_the_death_of_the_mujoco_arms_process_is_told():
    robot = MujocoRobot(PLACE)
    robot.connect()
    os.kill(robot._process.pid, signal.SIGKILL)
    robot._process.wait()
    with pytest.raises(RuntimeError, match="process ended"):
        robot.get_observation()
    robot.disconnect()


def test_a_scene_that_does_not_exist_is_told_by_the_process():
    robot = MujocoRobot({"env_name": "tabletop", "env_kwargs": {"task": "juggle"}})
    with pytest.raises(RuntimeError, match="Unknown tabletop task"):
        robot.connect()


@pytest.mark.parametrize("wrong", [{"control_hz": 0}, {"control_hz": 500}, {"watchdog_s": 0}])
def test_the_mujoco_arm_refuses_rates_that_it_can_not_run(wrong):
    with pytest.raises(ValueError, match="commands a second"):
        MujocoRobot(PLACE, **wrong)


def test_an_environment_is_over_at_its_own_step_limit():
    robot = GymRobot(PLACE)
    robot.connect()
    robot.begin_episode(1)
    for _ in range(6):
        assert not robot.outcome().over
        robot.send_action(np.zeros(4, np.float32))
    assert robot.outcome().over
    seen = robot.get_observation()
    robot.send_action(np.ones(4, np.float32))
    assert robot.get_observation() is seen
    robot.disconnect()


def test_robosuite_says_what_its_actions_do():
    pytest.importorskip("robosuite")
    robot = GymRobot({"env_name": "Lift", "env_kwargs": {"max_steps": 3}})
    robot.connect()
    spec = robot.spec
    assert (spec.action_dim, spec.control_hz) == (7, 20.0)
    assert (spec.displacements, spec.switches) == ((0, 1, 2, 3, 4, 5), (6,))
    assert spec.end_effector.key == "robot0_eef_pos"
    before = robot.get_observation().state["robot0_eef_pos"]
    robot.send_action(np.array([0, 0, 1, 0, 0, 0, -1], np.float32))
    assert robot.get_observation().state["robot0_eef_pos"][2] > before[2]
    robot.disconnect()


def test_lerobots_motors_become_a_row_and_what_was_really_sent_comes_back():
    arm = FlatArm()
    robot = LeRobotAdapter(arm, camera_prefix="", state_key="q", action_low=-100, action_high=100)
    robot.connect()
    assert arm.calibrated is True
    assert robot.spec.measured == "q"
    assert robot.spec.cameras == {"wrist": (12, 16)}
    sent = robot.send_action(np.array([3, 20, -20], np.float32))
    assert sent.tolist() == [3, 5, -5]
    assert robot.get_observation().state["q"].tolist() == [3, 5, -5]
    assert robot.spec.hold(None, robot.get_observation()).tolist() == [3, 5, -5]
    robot.disconnect()
    with pytest.raises(ConnectionError):
        robot.get_observation()


def test_a_policy_of_imported_logs_finds_lerobots_cameras_under_its_own_names():
    from qsft_robot.lerobot.format import log_key
    from qsft_robot.robots.choose import _lerobot_names

    key = log_key("observation.images.wrist")
    for state, cameras, expected in (
        (["state"], [key], ({"wrist_image"}, {"state"})),
        (["a", "b"], ["observation.images.wrist"],
         ({"observation.images.wrist"}, {"observation.state"})),
        (["q"], [], ({"observation.images.wrist"}, {"q"})),
    ):  # fmt: skip
        description = replace(
            served(), state_keys=tuple(state), cameras=dict.fromkeys(cameras, (12, 16))
        )
        names = _lerobot_names(description)
        robot = LeRobotAdapter(FlatArm(), **names)
        assert (set(robot.spec.cameras), set(robot.spec.state)) == expected
        robot.connect()
        seen = robot.get_observation()
        assert (set(seen.images), set(seen.state)) == expected


def test_a_reading_that_lerobot_leaves_out_is_named():
    robot = LeRobotAdapter(FlatArm())
    robot.connect()
    robot.robot.get_observation = lambda: {"wrist": np.zeros((12, 16, 3), np.uint8)}
    with pytest.raises(RuntimeError, match=r"did not report .*shoulder_pan.pos"):
        robot.get_observation()


def test_lerobot_that_is_not_installed_says_how_to_get_it():
    try:
        import lerobot  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install lerobot"):
            build_lerobot("so101_follower", {})
    else:
        with pytest.raises(ValueError, match="robot-from"):
            build_lerobot("no such arm", {})


def test_a_replay_shows_each_row_once_and_reports_the_differences(recording, tmp_path):
    robot = ReplayRobot(recording)
    robot.connect()
    assert robot.spec.control_hz == 5.0
    for i in range(2):
        robot.begin_episode(i)
        for step in range(5):
            seen = robot.get_observation()
            assert seen.instruction == f"task {i}"
            assert not robot.outcome().over
            shift = 0.5 if step == 2 else 0.25
            action = robot.recorded[f"demo_{i}"][step] + np.float32(shift)
            robot.send_action(action)
            robot.step(seen, action, held=step == 4)
        assert robot.outcome().over
    found = robot.differences()
    assert found["all"]["steps"] == 8  # the held ticks are no decisions of the policy
    assert found["all"]["max"] == pytest.approx(0.5)
    assert found["all"]["mean"] == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert difference_table(found).row_count == 2 + 1 + 2
    saved = np.load(robot.save(tmp_path / "replay.npz"), allow_pickle=False)
    assert saved["demo_1/proposed"].shape == saved["demo_1/recorded"].shape == (5, 2)
