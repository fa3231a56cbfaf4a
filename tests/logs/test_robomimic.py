"""A file of ours opens in robomimic's own SequenceDataset with the same numbers."""

import h5py
import numpy as np
import pytest
import robomimic.utils.obs_utils as ObsUtils
from robomimic.utils.dataset import SequenceDataset

from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.types import Episode

DATASET_KEYS = ("actions", "rewards", "dones")
OBS_KEYS = ("proprio", "front_image")


@pytest.fixture
def episodes():
    rng = np.random.default_rng(0)
    return [
        Episode(
            f"demo_{i}",
            {
                "proprio": rng.normal(size=(steps + 1, 3)).astype(np.float32),
                "front_image": rng.integers(0, 255, (steps + 1, 8, 6, 3), np.uint8),
            },
            rng.uniform(-1, 1, (steps, 4)).astype(np.float32),
            np.eye(steps, dtype=np.float32)[-1] * (i % 2),
            terminated=i != 2,
            truncated=i == 2,
            success=bool(i % 2),
        )
        for i, steps in enumerate([4, 7, 3, 5])
    ]


@pytest.fixture
def path(tmp_path, episodes):
    path = tmp_path / "ours.hdf5"
    write_demonstrations(path, episodes, {"env_name": "tabletop"}, {"train": ["demo_1", "demo_2"]})
    return path


@pytest.fixture(autouse=True)
def modalities():
    ObsUtils.initialize_obs_modality_mapping_from_dict(
        {"low_dim": ["proprio"], "rgb": ["front_image"]}
    )


def open_in_robomimic(path, **kwargs):
    settings = {"hdf5_cache_mode": None, "load_next_obs": True, **kwargs}
    return SequenceDataset(str(path), OBS_KEYS, DATASET_KEYS, **settings)


def assert_step(item, episode, t):
    np.testing.assert_array_equal(item["actions"][0], episode.actions[t])
    assert float(np.ravel(item["rewards"])[0]) == episode.rewards[t]
    assert float(np.ravel(item["dones"])[0]) == float(t == len(episode) - 1)
    for key in OBS_KEYS:
        rows = episode.observations[key]
        np.testing.assert_array_equal(item["obs"][key][0], rows[t])
        np.testing.assert_array_equal(item["next_obs"][key][0], rows[t + 1])


@pytest.mark.parametrize("cache", [None, "low_dim", "all"])
def test_every_step_has_the_same_numbers_in_robomimic(path, episodes, cache):
    dataset = open_in_robomimic(path, hdf5_cache_mode=cache)
    assert len(dataset) == sum(map(len, episodes))
    index = 0
    for episode in episodes:
        for t in range(len(episode)):
            assert_step(dataset[index], episode, t)
            index += 1


def test_a_filter_key_selects_the_same_demonstrations_in_robomimic(path, episodes):
    dataset = open_in_robomimic(path, filter_by_attribute="train")
    assert dataset.demos == ["demo_1", "demo_2"]
    assert_step(dataset[0], episodes[1], 0)
    assert [e.name for e in read_episodes(path, filter_key="train")] == dataset.demos


def test_both_readers_agree_on_a_file_of_another_maker(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "theirs.hdf5"
    with h5py.File(path, "w") as file:
        for i, steps in enumerate([3, 6]):
            demo = file.create_group(f"data/demo_{i}")
            demo.attrs["num_samples"] = steps
            demo["actions"] = rng.uniform(-1, 1, (steps, 4)).astype(np.float32)
            demo["rewards"] = np.eye(steps)[-1]
            demo["dones"] = np.eye(steps, dtype=np.int64)[-1]
            state = rng.normal(size=(steps + 1, 3)).astype(np.float32)
            image = rng.integers(0, 255, (steps + 1, 8, 6, 3), np.uint8)
            for group, rows in [("obs", slice(0, -1)), ("next_obs", slice(1, None))]:
                demo[f"{group}/proprio"] = state[rows]
                demo[f"{group}/front_image"] = image[rows]
        file["data"].attrs["env_args"] = '{"env_name": "Lift", "type": 1, "env_kwargs": {}}'
    dataset = open_in_robomimic(path)
    index = 0
    for episode in read_episodes(path):
        for t in range(len(episode)):
            assert_step(dataset[index], episode, t)
            index += 1
    assert index == len(dataset)
