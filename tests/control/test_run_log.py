"""Every episode is a file of its own that appears whole; the run's files are joined at the end."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from qsft_robot.control.loop import EpisodeEnd
from qsft_robot.control.run_log import RunLog
from qsft_robot.logs.inspection import inspect
from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks
from qsft_robot.logs.relabel import relabel
from qsft_robot.types import Observation

ENV_ARGS = {"env_name": "arm", "type": 2, "control_hz": 10.0}
# Writes episodes for ever and says which are finished.
WRITER = """
import sys
import numpy as np
from pathlib import Path
from qsft_robot.control.loop import EpisodeEnd
from qsft_robot.control.run_log import RunLog
from qsft_robot.types import Observation

log = RunLog(Path(sys.argv[1]), {"env_name": "arm", "type": 2, "control_hz": 10.0})
image = np.zeros((32, 32, 3), np.uint8)
print("ready", flush=True)
while True:
    episode = log.episode({"seed": 0})
    for i in range(40):
        seen = Observation({"front": image}, {"q": np.full(3, i, np.float32)}, "go")
        episode.step(seen, np.zeros(2, np.float32), False)
    episode.finish(seen, EpisodeEnd("success", True, 40))
    print(episode.path.name, flush=True)
"""


def seen(i: int) -> Observation:
    return Observation(
        {"front": np.full((8, 8, 3), i, np.uint8)}, {"q": np.full(3, i, np.float32)}, "go"
    )


def recorded(log: RunLog, end: EpisodeEnd, steps: int = 4, **attributes):
    """One episode through the log; its file."""
    episode = log.episode(attributes)
    for i in range(steps):
        episode.step(seen(i), np.full(2, i / 10), held=i == 1)
    episode.finish(seen(steps), end)
    return episode.path


@pytest.mark.parametrize(
    ("reason", "success", "terminated"),
    [("success", True, True), ("done", True, True), ("failed", False, True), ("over", False, True),
     ("steps", False, True), ("stop", False, False), ("quit", False, False),
     ("watchdog", False, False)],
)  # fmt: skip
def test_an_episode_is_logged_with_how_it_ended(tmp_path, reason, success, terminated):
    log = RunLog(tmp_path, ENV_ARGS)
    path = recorded(log, EpisodeEnd(reason, success, 4), seed=7, policy_sha256="ab")
    (episode,) = read_episodes(path, require_reward=False)
    assert (episode.success, episode.terminated, episode.truncated) == (
        success, terminated, not terminated,
    )  # fmt: skip
    assert episode.rewards.tolist() == [0, 0, 0, float(success)]
    assert episode.actions[:, 0] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert episode.observations["q"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.observations["front"][:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert episode.instruction == "go"
    told = episode.attributes
    assert (told["seed"], told["policy_sha256"], told["held_ticks"]) == (7, "ab", 1)
    assert read_env_args(path) == ENV_ARGS


@pytest.mark.parametrize("reason", ["over", "steps", "stop", "watchdog"])
def test_an_outcome_that_nobody_told_is_none_and_said(tmp_path, reason):
    log = RunLog(tmp_path, ENV_ARGS)
    path = recorded(log, EpisodeEnd(reason, None, 4))
    with h5py.File(path) as file:
        demo = file["data/demo_0"]
        assert "success" not in demo.attrs
        assert demo.attrs["outcome"] == "untold"
        assert list(file["mask"]) == ["untold"]
        assert demo["truncated"][-1]
    told = recorded(log, EpisodeEnd("done", True, 4))
    with pytest.warns(UserWarning, match="of 1 of 2 demonstrations nobody told"):
        merged = log.merge()
    (finding,) = [x for x in inspect(merged).findings if x.check == "unknown-success"]
    assert "1 of 2" in finding.message
    # dones end every log: they say nothing of success
    for episode in read_episodes(merged, success_reward=True):
        assert episode.success == (episode.attributes["end"] == "done")
    named = relabel(merged, tmp_path / "told.hdf5", failure=["untold"])
    with h5py.File(named) as file:
        assert [bool(x.attrs["success"]) for x in file["data"].values()] == [False, True]
        assert not any("outcome" in x.attrs for x in file["data"].values())
    assert told.is_file()


@pytest.mark.parametrize("outcome", ["success", "failure"])
def test_a_time_limit_means_what_the_person_says(tmp_path, outcome):
    episode = RunLog(tmp_path, ENV_ARGS).episode({}, outcome)
    episode.step(seen(0), np.zeros(2), False)
    episode.finish(seen(1), EpisodeEnd("steps", False, 1))
    (read,) = read_episodes(episode.path, require_reward=False)
    assert read.terminated
    assert read.success == (outcome == "success")


def test_what_the_last_action_led_to_is_dropped_where_the_robot_failed(tmp_path):
    path = recorded(RunLog(tmp_path, ENV_ARGS), EpisodeEnd("robot", False, 4))
    (episode,) = read_episodes(path, require_reward=False)
    assert len(episode) == 3
    assert episode.observations["q"][:, 0].tolist() == [0, 1, 2, 3]
    assert episode.truncated


def test_an_episode_without_an_action_leaves_no_file(tmp_path):
    log = RunLog(tmp_path, ENV_ARGS)
    recorded(log, EpisodeEnd("watchdog", False, 0), steps=0)
    assert log.files() == []
    assert log.merge() is None


def test_files_are_joined_and_a_later_run_goes_on_counting(tmp_path):
    log = RunLog(tmp_path, ENV_ARGS)
    recorded(log, EpisodeEnd("success", True, 4))
    recorded(log, EpisodeEnd("steps", False, 4))
    again = RunLog(tmp_path, ENV_ARGS)
    assert recorded(again, EpisodeEnd("stop", False, 4)).name == "episode_00002.hdf5"
    logs = again.merge()
    assert logs == tmp_path / "logs.hdf5"
    assert [e.success for e in read_episodes(logs)] == [True, False, False]
    assert read_masks(logs) == {"success": ["demo_0"], "failure": ["demo_1", "demo_2"]}


def test_a_kill_at_any_moment_loses_only_the_episode_under_way(tmp_path):
    draw = random.Random(0)
    for i in range(4):
        out = tmp_path / str(i)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = [process.stdout.readline().strip()]
        told += [process.stdout.readline().strip() for _ in range(2)]
        time.sleep(draw.random() * 0.05)
        process.kill()
        told += process.stdout.read().splitlines()
        process.wait()
        files = {path.name for path in RunLog(out, ENV_ARGS).files()}
        assert {name for name in told if name.startswith("episode")} <= files
        for name in files:
            (episode,) = read_episodes(out / "episodes" / name)
            assert len(episode) == 40


@pytest.mark.parametrize("other", [{"control_hz": 20.0}, {"env_name": "crane"}])
def test_a_folder_with_episodes_of_another_environment_is_refused_at_once(tmp_path, other):
    recorded(RunLog(tmp_path, ENV_ARGS), EpisodeEnd("success", True, 4))
    (name,) = other
    with pytest.raises(ValueError, match=rf"--out .*{name} is .*Record into another folder"):
        RunLog(tmp_path, {**ENV_ARGS, **other})
    assert len(RunLog(tmp_path, ENV_ARGS).files()) == 1


def test_a_glitch_of_a_sensor_costs_a_reading_or_a_key_and_not_the_episode(tmp_path):
    log = RunLog(tmp_path, ENV_ARGS).episode({})
    for i in range(5):
        now = seen(i)
        if i in (0, 2):
            now.state["q"][:] = np.nan
        if i == 3:
            now = Observation({}, now.state, "go")  # the camera gave nothing
        log.step(now, np.zeros(2), held=False)
    with pytest.warns(UserWarning, match="front came late"):
        log.finish(seen(5), EpisodeEnd("success", True, 5))
    (episode,) = read_episodes(log.path)
    assert episode.observations.keys() == {"q"}
    assert episode.observations["q"][:, 0].tolist() == [1, 1, 1, 3, 4, 5]
    assert episode.attributes["mended_readings"] == 2
