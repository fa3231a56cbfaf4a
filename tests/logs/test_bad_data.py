"""Every kind of bad demonstration file is refused with one message that names what is wrong."""

import warnings

import h5py
import numpy as np
import pytest

from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.validate import check_cameras, check_returns, validate
from qsft_robot.returns import ReturnRange


@pytest.fixture
def path(tmp_path):
    """A sound file of three demonstrations: mixed success, state and one camera."""
    path = tmp_path / "logs.hdf5"
    with h5py.File(path, "w") as file:
        for i in range(3):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"] = np.full((4, 2), 0.5)
            demo["rewards"] = np.eye(4)[-1] * (i > 0)
            demo["dones"] = np.eye(4)[-1]
            for group in ("obs", "next_obs"):
                demo[f"{group}/robot0_eef_pos"] = np.ones((4, 3))
                demo[f"{group}/front_image"] = np.ones((4, 8, 6, 3), np.uint8)
        file["mask/train"] = np.array(["demo_1", "demo_2"], dtype="S")
        file["mask/nobody"] = np.array([], dtype="S")
        file["mask/stale"] = np.array(["demo_9"], dtype="S")
    return path


def edit(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def put(group, key, value):
    del group[key]
    group[key] = value


def refused(path, *parts, error=ValueError, **kwargs):
    """Both readers refuse the file, in one message that holds all the parts and the file's name."""
    for read in (read_episodes, validate):
        with pytest.raises(error) as caught:
            read(path, **kwargs)
        for part in (str(path), *parts):
            assert part in str(caught.value)


def test_the_sound_file_is_not_refused(path):
    assert len(read_episodes(path)) == 3
    validate(path, return_range=ReturnRange(0.99))


def test_a_missing_file_and_a_folder(tmp_path):
    refused(tmp_path / "none.hdf5", "no such file", error=FileNotFoundError)
    refused(tmp_path, "a folder", error=FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"not hdf5 at all" * 100, b"PK\x03\x04"])
def test_not_hdf5(tmp_path, content):
    path = tmp_path / "a.hdf5"
    path.write_bytes(content)
    refused(path, "not an HDF5 file")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refused(path, "truncated")


def test_no_data_group(path):
    edit(path, lambda file: file.move("data", "episodes"))
    refused(path, "no group 'data'", "episodes")


def test_a_flat_file_of_steps_is_told_what_makes_logs_of_it(tmp_path):
    path = tmp_path / "hopper.hdf5"
    with h5py.File(path, "w") as file:
        for key in ("observations", "actions", "rewards", "terminals", "timeouts"):
            file[key] = np.zeros(4)
    refused(path, "no group 'data'", "qsft-robot import-npz")


def test_an_empty_data_group(path):
    def empty(file):
        del file["data"]
        file.create_group("data")

    edit(path, empty)
    refused(path, "no demonstrations")


@pytest.mark.parametrize("key", ["actions", "rewards", "dones"])
def test_a_demo_without_actions_rewards_or_dones(path, key):
    edit(path, lambda file: file["data/demo_1"].pop(key))
    refused(path, "data/demo_1", f"no '{key}'", "not filled with zeros")


def test_a_demo_without_observations(path):
    edit(path, lambda file: file["data/demo_0"].pop("obs"))
    refused(path, "data/demo_0", "'obs'")


@pytest.mark.parametrize(
    "key", ["actions", "rewards", "dones", "obs/robot0_eef_pos", "next_obs/front_image"]
)
def test_unequal_lengths(path, key):
    edit(path, lambda file: put(file["data/demo_1"], key, file[f"data/demo_1/{key}"][:-1]))
    refused(path, "data/demo_1", "unequal lengths", f"{key} 3", "4")


def test_a_count_of_samples_that_is_not_the_length(path):
    edit(path, lambda file: file["data/demo_1"].attrs.update(num_samples=9))
    refused(path, "data/demo_1", "unequal lengths", "num_samples 9")


def test_a_demo_without_steps(path):
    edit(path, lambda file: put(file["data/demo_1"], "actions", np.zeros((0, 2))))
    refused(path, "data/demo_1", "at least one step")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "key", ["actions", "rewards", "obs/robot0_eef_pos", "next_obs/robot0_eef_pos"]
)
def test_nan_or_inf(path, key, value):
    def spoil(file):
        file[f"data/demo_2/{key}"][-1] = value

    edit(path, spoil)
    step = 4 if key.startswith("next") else 3
    refused(path, "data/demo_2", key.split("/")[-1], "NaN or Inf", f"step {step}")


def test_actions_outside_without_a_declared_scale(path):
    def spoil(file):
        file["data/demo_1/actions"][2, 1] = -1.5

    edit(path, spoil)
    refused(path, "data/demo_1/actions", "[-1, 1]", "step 2", "dimension 1", "--data.action-low")
    validate(path, action_scale=(-2, 2))


def test_rounding_just_beyond_one_is_no_mistake(path):
    def nudge(file):
        file["data/demo_1/actions"][2, 1] = 1 + 1e-7

    edit(path, nudge)
    validate(path)


def test_all_rewards_zero(path):
    def erase(file):
        for demo in file["data"].values():
            demo["rewards"][...] = 0
            demo["dones"][...] = 0

    edit(path, erase)
    refused(path, "all rewards are zero", "--data.success-reward")
    refused(path, "all rewards are zero", "no success was found", success_reward=True)
    assert len(read_episodes(path, require_reward=False)) == 3


def test_returns_outside_the_declared_range(path):
    def pay_twice(file):
        file["data/demo_1/rewards"][...] = [0, 0, 1, 1]

    edit(path, pay_twice)
    with pytest.raises(
        ValueError, match=r"data/demo_1.*1\.9.*\[0, 1\].*--data.return-high"
    ) as caught:
        validate(path, return_range=ReturnRange(0.9))
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match="data/demo_1"):
        check_returns(path, read_episodes(path), ReturnRange(0.9))
    validate(path, return_range=ReturnRange(0.9, 0, 2))
    validate(path, return_range=ReturnRange(0.9), success_reward=True)


@pytest.mark.parametrize(
    ("asked", "near"), [("robot0_eef_position", "robot0_eef_pos"), ("front", "front_image")]
)
def test_an_unknown_observation_key_is_answered_with_the_nearest(path, asked, near):
    refused(path, f"no observation key '{asked}'", f"Did you mean {near}?", keys=[asked])


def test_an_unknown_camera_is_answered_with_the_nearest(path):
    with pytest.raises(ValueError, match=r"no camera 'fornt_image'. Did you mean front_image\?"):
        check_cameras(path, ["fornt_image"])
    assert check_cameras(path, ["front_image"]) == (8, 6)


def test_a_key_that_one_demo_lacks(path):
    edit(path, lambda file: file["data/demo_2/obs"].pop("front_image"))
    refused(path, "data/demo_2/obs/front_image", "robot0_eef_pos")


def test_image_sizes_that_differ_between_demonstrations(path):
    def resize(file):
        for group in ("obs", "next_obs"):
            put(file["data/demo_2"], f"{group}/front_image", np.ones((4, 9, 6, 3), np.uint8))

    edit(path, resize)
    refused(path, "front_image", "differs in size", "(8, 6, 3) in demo_0", "(9, 6, 3) in demo_2")


def test_image_sizes_that_differ_between_cameras(path):
    def add(file):
        for demo in file["data"].values():
            for group in ("obs", "next_obs"):
                demo[f"{group}/wrist_image"] = np.ones((4, 16, 16, 3), np.uint8)

    edit(path, add)
    with pytest.raises(ValueError, match=r"image sizes differ: front_image 8x6, wrist_image 16x16"):
        validate(path)
    validate(path, keys=["front_image"])


def test_obs_and_next_obs_of_other_shapes(path):
    edit(
        path,
        lambda file: put(file["data/demo_0"], "next_obs/robot0_eef_pos", np.ones((4, 2))),
    )
    refused(path, "data/demo_0/obs/robot0_eef_pos", "(4, 3)", "(4, 2)")


def test_an_empty_filter_mask_an_unknown_one_and_one_that_names_nobody(path):
    refused(path, "mask/nobody is empty", "'train': 2", filter_key="nobody")
    refused(path, "no filter key 'trian'", "Did you mean train?", filter_key="trian")
    refused(path, "mask/stale names 'demo_9'", filter_key="stale")


def test_a_truncated_end_needs_what_was_seen_after_the_last_action(path):
    edit(path, lambda file: file["data/demo_0"].pop("next_obs"))
    validate(path)
    refused(
        path, "data/demo_0/obs/", "truncated", "next_obs", "--data.log-end", log_end="truncated"
    )


def test_log_end_answers_that_contradict_each_other_or_are_unknown(path):
    def overlap(file):
        file["mask/other"] = np.array(["demo_2"], dtype="S")

    edit(path, overlap)
    refused(path, "demo_2", "--data.log-end", log_end={"train": "terminal", "other": "truncated"})
    refused(path, "no filter key 'trains'", log_end={"trains": "terminal"})
    with pytest.raises(ValueError, match="'terminal' or 'truncated', got 'timeout'"):
        read_episodes(path, log_end="timeout")


def test_a_log_that_goes_on_after_it_terminated(path):
    edit(path, lambda file: file["data/demo_0"].create_dataset("terminated", data=[0, 1, 0, 0]))
    refused(path, "data/demo_0/terminated", "step 1 of 4")


def test_env_args_that_are_not_json(path):
    edit(path, lambda file: file["data"].attrs.update(env_args="{name: Lift}"))
    refused(path, "env_args", "not valid JSON")


def test_groups_among_the_observations_are_read_by_their_path(path):
    rows = np.arange(8.0).reshape(4, 2)

    def nest(file):
        for demo in file["data"].values():
            demo["obs/robot/arm/pos"] = rows
            demo["next_obs/robot/arm/pos"] = rows + 1
            for group in ("obs", "next_obs"):
                demo[f"{group}/images/front"] = demo.pop(f"{group}/front_image")

    edit(path, nest)
    validate(path)
    for episode in read_episodes(path):
        assert set(episode.observations) == {"robot0_eef_pos", "robot/arm/pos", "images/front"}
        np.testing.assert_array_equal(
            episode.observations["robot/arm/pos"], np.r_[rows, rows[-1:] + 1]
        )
    assert check_cameras(path, ["images/front"]) == (8, 6)
    assert len(read_episodes(path, keys=["robot/arm/pos"])) == 3
    refused(
        path, "no observation key 'robot/pos'", "Did you mean robot/arm/pos", keys=["robot/pos"]
    )


def test_dones_that_only_end_the_logs_make_every_log_a_success_and_that_is_told(path):
    def spoil(file):
        for demo in file["data"].values():
            demo["rewards"][...] = 0

    edit(path, spoil)
    with pytest.warns(UserWarning, match="every one of the 3 logs ends with one"):
        found = read_episodes(path, success_reward=True)
    assert all(episode.success for episode in found)
    edit(path, lambda f: put(f["data/demo_0"], "dones", np.zeros(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_episodes(path, success_reward=True)
    assert [episode.success for episode in found] == [False, True, True]


def test_each_log_keeps_its_own_mark_of_success(path):
    """As after a merge of files that mark it differently, or after relabeling one log."""

    def spoil(file):
        file["data/demo_0/success"] = np.array([0, 1, 1, 1])  # marked step by step
        file["data/demo_1/rewards"][...] = 0
        file["data/demo_1"].attrs["success"] = True  # marked as a whole
        file["data/demo_2"].attrs["success"] = False  # in spite of a reward

    edit(path, spoil)
    found = read_episodes(path, success_reward=True)
    assert [episode.success for episode in found] == [True, True, False]
    assert [len(episode) for episode in found] == [2, 4, 4]


def test_a_mask_of_failures_alone_reads_the_rewards_as_the_whole_file_does(path):
    edit(path, lambda f: put(f["mask"], "nobody", np.array(["demo_0"], dtype="S")))
    found = read_episodes(path, filter_key="nobody", success_reward=True, require_reward=False)
    assert [episode.success for episode in found] == [False]
