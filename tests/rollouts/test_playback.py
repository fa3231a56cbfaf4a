import shutil
from dataclasses import replace

import h5py
import imageio
import numpy as np
import pytest

from qsft_robot.logs.reader import read_env_args, read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.parts.simulators import build_env
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.rollouts.playback import playback
from qsft_robot.types import Episode


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    path = tmp_path_factory.mktemp("logs") / "place.hdf5"
    env_args = {
        "env_name": "tabletop",
        "env_kwargs": {"task": "place", "cameras": ["front"], "image_size": 32},
    }
    parts = [CollectPart(2, noise=0.1), CollectPart(1, {"hesitate": 1.0}, noise=0.1)]
    collect(env_args, path, parts, progress=False)
    return path


@pytest.fixture
def changed(logs, tmp_path):
    path = tmp_path / "changed.hdf5"
    shutil.copy(logs, path)
    return path


@pytest.mark.parametrize("demo", [0, "demo_1", 2])
def test_our_own_logs_come_back_to_the_bit(logs, demo):
    report = playback(logs, demo)
    assert report.accepted
    assert report.steps_replayed == report.steps_logged
    assert max(report.state_differences.values()) == 0
    assert report.image_differences == {"front_image": 0}
    assert report.reward_difference == 0
    assert report.success_logged == report.success_replayed == (demo != 2)
    assert "accepted" in str(report)


def test_tampered_actions_are_refused_and_the_reasons_told(changed):
    with h5py.File(changed, "r+") as file:
        actions = file["data/demo_0/actions"]
        actions[5:, 0] = -actions[5:, 0]
    report = playback(changed)
    assert not report.accepted
    assert any("success" in reason for reason in report.reasons)
    assert max(report.state_differences.values()) > 0.01
    assert "NOT accepted" in str(report)


def test_a_tampered_state_alone_is_refused(changed):
    with h5py.File(changed, "r+") as file:
        file["data/demo_0/obs/proprio"][3, 0] += 0.01
    report = playback(changed)
    assert report.reasons == ("proprio differs by 0.01 (tolerance 0.0001)",)
    assert playback(changed, tolerance=0.02).accepted


def test_the_video_has_a_frame_a_row_and_appears_under_its_name(logs, tmp_path):
    path = tmp_path / "videos" / "demo.mp4"
    report = playback(logs, 0, video=path)
    assert report.video == path
    frames = [frame for frame in imageio.get_reader(path)]
    assert len(frames) == report.steps_logged + 1
    assert [p.name for p in path.parent.iterdir()] == ["demo.mp4"]


def test_an_unknown_demonstration_is_answered_with_those_that_exist(logs):
    with pytest.raises(ValueError, match=r"demo_9.*demo_0"):
        playback(logs, 9)


def test_a_log_that_can_not_begin_again_says_what_it_lacks(changed):
    with h5py.File(changed, "r+") as file:
        del file["data/demo_0"].attrs["seed"]
    with pytest.raises(ValueError, match="neither an attribute 'seed' nor 'states'"):
        playback(changed)


def test_images_of_another_size_are_a_reason_to_refuse(logs):
    report = playback(logs, 0, env_overrides={"image_size": 16})
    assert not report.accepted
    assert "front_image has shape [32, 32, 3]" in report.reasons[0]
    assert np.isfinite(report.state_differences["proprio"])


def test_a_log_without_a_seed_begins_from_its_states_as_in_robomimic_files(tmp_path):
    pytest.importorskip("robosuite")
    env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {"max_steps": 8}}
    env = build_env(env_args)
    rng = np.random.default_rng(0)
    # Not the seed that a log without one is reset with: joints and cube lie elsewhere.
    observation, info = env.reset(seed=3)
    states, model = env.states(), env.model_file()
    rows, actions = [observation], rng.uniform(-1, 1, (8, 7)).astype(np.float32)
    rows += [env.step(action)[0] for action in actions]
    log = Episode(
        name="demo_0",
        observations={key: np.stack([row[key] for row in rows]) for key in observation},
        actions=actions,
        rewards=np.zeros(8, np.float32),
        terminated=True,
        truncated=False,
        success=False,
        instruction=info["instruction"],
    )
    path = tmp_path / "lift.hdf5"
    write_demonstrations(path, [log], env.env_args)
    env.close()
    with h5py.File(path, "r+") as file:
        file["data/demo_0/states"] = states[None]
    without_model = playback(path)
    assert without_model.accepted, without_model
    with h5py.File(path, "r+") as file:
        file["data/demo_0"].attrs["model_file"] = model
    report = playback(path)
    assert report.accepted, report
    assert max(report.state_differences.values()) < 1e-6
    with h5py.File(path, "r+") as file:
        file["data/demo_0/states"][0, 1] += 0.1
    assert not playback(path).accepted


def test_other_logs_and_the_scale_of_the_actions_do_not_matter(changed):
    with h5py.File(changed, "r+") as file:
        file["data/demo_0/obs/proprio"][0] = np.nan
        file["data/demo_1/actions"][3] *= 5
    assert not playback(changed, 1).accepted
    assert playback(changed, 2).accepted


def test_a_log_that_goes_on_after_its_success_is_replayed_to_its_end(logs, tmp_path):
    env = build_env(read_env_args(logs), terminate_on_success=False)
    (log,) = read_episodes(logs, names=["demo_0"])
    more = [*log.actions, *[np.zeros(4, np.float32)] * 3]
    rows, _ = env.reset(seed=log.attributes["seed"])
    seen, rewards = [rows], []
    for action in more:
        rows, reward, *_ = env.step(action)
        seen.append(rows)
        rewards.append(reward)
    longer = replace(
        log, name="demo_0", actions=np.stack(more), rewards=np.array(rewards, np.float32),
        observations={key: np.stack([row[key] for row in seen]) for key in rows},
    )  # fmt: skip
    write_demonstrations(tmp_path / "longer.hdf5", [longer], read_env_args(logs))
    report = playback(tmp_path / "longer.hdf5")
    assert report.accepted
    assert report.steps_replayed == len(log) + 3
