"""Marks of logs (success, dones, ends) are true or false; nothing else is read as one of them."""

import warnings

import h5py
import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.robots.gym import GymRobot
from qsft_robot.types import Episode

MARKS = ("dones", "terminated", "truncated", "success")


def written(path, **attributes):
    with DemonstrationWriter(path, {"env_name": "arm"}) as writer:
        for i in range(2):
            rows = {"q": np.arange(8, dtype=np.float32).reshape(4, 2)}
            rewards = np.array([0, 0, i], np.float32)
            actions = np.zeros((3, 2), np.float32)
            episode = Episode("", rows, actions, rewards, True, False, bool(i), "go", attributes)
            writer.append(episode)
    return path


@pytest.mark.parametrize("key", MARKS)
@pytest.mark.parametrize("value", [2, -1, 0.5])
def test_a_mark_that_is_neither_true_nor_false_is_refused_wherever_it_is_read(
    tmp_path, capsys, key, value
):
    path = written(tmp_path / "logs.hdf5")
    with h5py.File(path, "r+") as file:
        demo = file["data/demo_1"]
        demo.pop(key, None)
        demo[key] = np.array([0, 0, value])
    out = tmp_path / "out.hdf5"
    for words in (["inspect", path], ["merge", path, "--out", out]):
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"data/demo_1/{key}: {value} at step 2, where true or false" in said
    assert not out.exists()


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint64, np.float16])
def test_marks_of_every_kind_of_number_are_read(tmp_path, kind):
    path = written(tmp_path / "logs.hdf5")
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for key in MARKS:
                values = demo.pop(key)[()] if key in demo else demo["rewards"][()]
                demo[key] = values.astype(kind)[:, None]
    merged = merge_files([path], tmp_path / "out.hdf5")
    episodes = read_episodes(merged, success_reward=True)
    assert [e.success for e in episodes] == [False, True]


@pytest.mark.parametrize("verb", ["inspect", "merge", "train", "export-lerobot"])
def test_logs_of_which_nobody_told_success_are_said(tmp_path, capsys, verb):
    path = written(tmp_path / "logs.hdf5", outcome="untold")
    with h5py.File(path) as file:
        assert not any("success" in demo.attrs for demo in file["data"].values())
    flags = {
        "inspect": [path],
        "merge": [path, "--out", tmp_path / "out.hdf5"],
        "train": [
            *("--data.path", path, "--out", tmp_path / "run", "--data.state-keys", "q"),
            *("--optim.behavior-steps", 1, "--optim.value-steps", 1, "--model.width", 16),
        ],
        "export-lerobot": [path, "--out", tmp_path / "set", "--fps", 10],
    }[verb]
    if verb == "export-lerobot":
        pytest.importorskip("pyarrow")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        assert main([verb, *map(str, flags)]) == 0
    told = [*capsys.readouterr(), *(str(note.message) for note in notes)]
    said = " ".join("".join(told).split())
    assert "of 2 of 2 demonstrations nobody told whether they succeeded" in said


def test_a_robot_in_an_environment_without_success_tells_none():
    pytest.importorskip("gymnasium")
    robot = GymRobot({"env_name": "gymnasium:Pendulum-v1"})
    robot.connect()
    robot.send_action(np.zeros(1, np.float32))
    assert robot.outcome().success is None
    robot.disconnect()
    robot = GymRobot({"env_name": "tabletop", "env_kwargs": {"cameras": []}})
    robot.connect()
    robot.send_action(np.zeros(4, np.float32))
    assert robot.outcome().success is False
    robot.disconnect()
