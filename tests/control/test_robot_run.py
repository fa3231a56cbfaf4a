"""Runs from the command line to the logs, and the logs back into training."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest

from qsft_robot import cli
from qsft_robot.control.loop import LoopSettings
from qsft_robot.control.run import policy_hash, run_robot
from qsft_robot.control.run_report import RunSettings
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_env_args, read_episodes
from qsft_robot.policy.open import open_policy
from qsft_robot.robots.choose import open_local_or_remote, open_robot
from qsft_robot.robots.gym import GymRobot

OWN = """
import numpy as np
from qsft_robot.control.robot import RobotSpec
from qsft_robot.types import Observation


class Still:
    spec = RobotSpec("still", {}, {"proprio": 8}, np.full(4, -1.0), np.full(4, 1.0), 10.0)

    def __init__(self, port="none"):
        self.port = port

    def connect(self): pass
    def get_observation(self):
        row = np.array([0.37, 0, 0.2, 0.08, 0, 0, 0, 0], np.float32)
        return Observation({}, {"proprio": row}, "put it there")
    def send_action(self, action): pass
    def disconnect(self): pass
"""


def run(*words: object) -> int:
    return cli.main(["run", *map(str, words)])


def test_a_run_on_the_real_time_arm_leaves_logs_and_a_report(small_policy, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(small_policy, "--episodes", 2, "--seconds", 0.6, "--out", out) == 0
    said = capsys.readouterr().out
    assert "robot mujoco at 10 Hz, chunks of 4" in said
    assert "of 2 episodes succeeded" in said
    report = json.loads((out / "cadence.json").read_text())
    assert {"wake", "observe", "decide", "send", "tick"} <= report["latency_ms"].keys()
    assert {"overruns", "held_ticks", "clamps", "stops"} <= report.keys()
    assert [row["seed"] for row in report["episodes"]] == [0, 1]
    logs = read_episodes(out / "logs.hdf5", require_reward=False)
    assert len(logs) == 2
    for log in logs:
        assert log.attributes["policy_sha256"] == report["policy_sha256"]
        assert np.isfinite(log.actions).all()
        assert np.abs(log.actions).max() <= 1
        assert log.instruction


@pytest.mark.parametrize("head", ["tokens", "continuous"])
def test_a_decision_transformer_drives_the_arm_with_its_own_past(
    head, small_policy, tmp_path, capsys
):
    train = ["train", "--method", "lamo", "--lamo.head", head, "--model.history", 3, "--data.path",
             small_policy.parent / "logs.hdf5", "--data.state-keys", "proprio", "--model.width", 16,
             "--model.depth", 1, "--tokenizer.kind", "uniform_bins", "--tokenizer.horizon", 2,
             "--optim.behavior-steps", 1, "--optim.value-steps", 1, "--optim.batch-size", 8,
             "--out", tmp_path / "run"]  # fmt: skip
    assert cli.main([str(word) for word in train]) == 0
    policy = open_policy(tmp_path / "run")
    assert policy.description.reads_past
    # In real time, and in step with an environment.
    for robot, name, limit in (("mujoco", "mujoco", ["--seconds", 0.6]), ("env", "tabletop", [])):
        out = tmp_path / robot
        assert run(tmp_path / "run", "--robot", robot, *limit, "--out", out) == 0
        assert f"robot {name} at 10 Hz, chunks of 2" in capsys.readouterr().out
        report = json.loads((out / "cadence.json").read_text())
        assert report["latency_ms"]["decide"]["n"] >= 1
        (log,) = read_episodes(out / "logs.hdf5", require_reward=False)
        assert len(log) >= 2
        assert np.isfinite(log.actions).all()


def test_training_takes_the_logs_of_a_run_with_the_earlier_ones(small_policy, tmp_path):
    out = tmp_path / "out"
    env = ["--robot", "env", "--episodes", 2]
    assert run(small_policy, *env, "--out", out) == 0
    merged = merge_files(
        [small_policy.parent / "logs.hdf5", out / "logs.hdf5"], tmp_path / "all.hdf5"
    )
    told = read_episodes(merged)
    assert len(told) == 8
    again = tmp_path / "again"
    words = ["train", "--data.path", merged, "--out", again, "--data.state-keys", "proprio",
             "--model.width", 16, "--model.depth", 1, "--optim.behavior-steps", 1,
             "--optim.value-steps", 1, "--optim.batch-size", 8]  # fmt: skip
    assert cli.main(list(map(str, words))) == 0
    description = open_policy(again).description
    assert description.data.episodes == 8
    seen = description.action.seen
    assert len(seen.low) == len(seen.high) == len(seen.largest_change) == 4
    assert len(description.state_range["proprio"].high) == 8


def test_a_replay_reports_what_the_policy_would_have_done(small_policy, tmp_path, capsys):
    log, out = small_policy.parent / "logs.hdf5", tmp_path / "out"
    rate = ["--control-hz", 40, "--accept", "rate", "--stop-after", 60]
    assert run(small_policy, "--robot", "replay", "--log", log, "--out", out, *rate) == 0
    assert "policy minus recording" in capsys.readouterr().out
    found = json.loads((out / "replay.json").read_text())
    assert len(found["by_dimension"]) == 4
    assert not (out / "episodes").exists()  # a replay is no experience


def test_ones_own_robot_comes_from_a_file(small_policy, tmp_path):
    file = tmp_path / "still.py"
    file.write_text(OWN)
    out = tmp_path / "out"
    words = ["--robot", "own", "--robot-from", f"{file}:Still", "--robot-settings", "port=x"]
    words += ["--seconds", "0.5", "--out", str(out), "--outcome", "success"]
    assert run(small_policy, *words) == 0
    (log,) = read_episodes(out / "logs.hdf5")
    assert log.success
    assert log.terminated
    assert read_env_args(out / "logs.hdf5") == {"env_name": "still", "control_hz": 10.0}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--control-hz", "20"], "policy's logs at 10 Hz"),
        (["--robot", "replay"], "--log"),
        (["--robot", "own"], "--robot-from"),
        (["--robot", "own", "--robot-from", "nothing.py:Arm"], "no file"),
        (["--robot", "own", "--robot-from", "json:Arm"], "no 'Arm'"),
        (["--robot", "own", "--robot-from", "json"], "FILE.py:NAME"),
        (["--robot", "lerobot"], "so101_follower"),
        (["--robot", "robosuite"], "none of Lift"),
        (["--env", "tabletop/nothing"], "tabletop/place"),
        (["--seconds", "0"], "more than 0"),
        (["--episodes", "0"], "at least 1"),
        (["--limits-off", "speed"], "workspace"),
        (["--max-change", "1", "2"], "give 1 or 4"),
        (["--robot-settings", "port"], "name=value"),
        (["--stop-after", "0"], "above 0"),
        (["--stop-after", "inf"], "--stop-after inf"),
        (["--stop-after", "nan"], "--stop-after nan"),
        (["--control-hz", "inf"], "--control-hz: inf"),
        (["--control-hz", "nan"], "--control-hz: nan"),
        (["--control-hz", "1e9"], "at most 1000"),
        (["--seconds", "inf"], "--seconds: inf"),
        (["--max-speed", "nan"], "--max-speed: nan"),
        (["--max-change", "inf"], "--max-change: inf"),
        (["--box-low", "0", "0", "nan", "--box-high", "1", "1", "1"], "--box-low: nan"),
        (["--action-low", "-inf"], "--action-low: -inf"),
    ],
)
def test_bad_input_is_answered_in_one_line(small_policy, tmp_path, capsys, words, says):
    assert run(small_policy, "--out", tmp_path / "out", *words) == 2
    said = capsys.readouterr().err
    assert says in said
    assert [line for line in said.splitlines() if not line.startswith("device: ")] == [
        said.splitlines()[-1]
    ]


def test_an_address_that_is_none_is_told(tmp_path, capsys):
    assert run("ws://nothing here", "--out", tmp_path / "out") == 2
    assert "nothing here" in capsys.readouterr().err


def test_a_robot_of_another_task_is_refused(small_policy, tmp_path, capsys):
    policy, description = open_local_or_remote(
        str(small_policy), acting={}, token=None, timeout_s=1.0
    )
    env = {"env_name": "gymnasium:Pendulum-v1", "env_kwargs": {}}
    settings = RunSettings(tmp_path, LoopSettings(10.0))
    with pytest.raises(ValueError, match=r"proprio.*1 numbers on the robot, 4 in"):
        run_robot(GymRobot(env), policy, description, settings)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_orderly(small_policy, tmp_path, number):
    policy, description = open_local_or_remote(
        str(small_policy), acting={}, token=None, timeout_s=1.0
    )
    handler = signal.getsignal(number)
    robot = open_robot("mujoco", description, 10.0)
    ticks = []

    def watch(loop, steps):
        ticks.append(steps)
        if steps == 3:
            os.kill(os.getpid(), number)

    settings = RunSettings(tmp_path, LoopSettings(10.0, max_steps=50), episodes=5)
    result = run_robot(robot, policy, description, settings, say=lambda text: None, watch=watch)
    assert [end.reason for end in result.ends] == ["quit"]
    assert result.orderly
    (log,) = read_episodes(result.logs, require_reward=False)
    assert log.truncated
    assert len(log) <= len(ticks)
    assert signal.getsignal(number) is handler


def test_the_watchdogs_stop_ends_the_run_with_status_1(small_policy, tmp_path):
    policy, description = open_local_or_remote(
        str(small_policy), acting={}, token=None, timeout_s=1.0
    )
    silent = threading.Event()

    class Mute:
        """The policy until its fourth decision after the warm-up."""

        asked = 0

        def reset(self, seed=0):
            policy.reset(seed)

        def infer(self, observation):
            self.asked += 1
            if self.asked > 6:
                silent.wait(1.0)
                raise ConnectionError("no answer")
            return policy.infer(observation)

    settings = RunSettings(tmp_path, LoopSettings(20.0, stop_after_s=0.3), 3, accept=("rate",))
    robot = open_robot("mujoco", description, 20.0)
    result = run_robot(robot, Mute(), description, settings, say=lambda text: None)
    silent.set()
    assert [end.reason for end in result.ends] == ["watchdog"]
    assert not result.orderly
    assert result.report["stops"] == 1


def test_a_policy_is_known_by_its_weights(small_policy):
    _, one = open_local_or_remote(str(small_policy), acting={}, token=None, timeout_s=1)
    assert len(policy_hash(one)) == 64
    assert policy_hash(one) != policy_hash(replace(one, policy_sha256="0" * 64))
    assert len(policy_hash(replace(one, policy_sha256=None))) == 64
