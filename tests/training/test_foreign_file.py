"""A file in robomimic's schema that other software wrote trains with no change."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np

from qsft_robot.config.data import DataConfig
from qsft_robot.policy.token_policy import load_policy
from qsft_robot.training.train import train
from qsft_robot.types import Observation


def write(path, horizon=9):
    """Six demos as robomimic's converters write them: only `dones`, states, model_file, a mask."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        env_args = {"env_name": "Lift", "env_version": "1.4.1", "type": 1,
                    "env_kwargs": {"robots": "Panda", "control_freq": 20}}  # fmt: skip
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["total"] = 6 * horizon
        for i in range(6):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = horizon
            demo.attrs["model_file"] = "<mujoco/>"
            demo["states"] = rng.normal(size=(horizon, 32))
            demo["actions"] = rng.uniform(-1, 1, (horizon, 7))
            rewards = np.zeros(horizon)
            rewards[-1] = i % 2
            demo["rewards"] = rewards
            demo["dones"] = (np.arange(horizon) == horizon - 1).astype(np.int64)
            rows = rng.normal(size=(horizon + 1, 3))
            images = rng.integers(0, 256, (horizon + 1, 32, 32, 3), dtype=np.uint8)
            for group, part in (("obs", slice(0, horizon)), ("next_obs", slice(1, horizon + 1))):
                demo[f"{group}/robot0_eef_pos"] = rows[part]
                demo[f"{group}/agentview_image"] = images[part]
        file["mask/train"] = np.array([f"demo_{i}".encode() for i in range(5)])
    return path


def test_a_file_of_other_software_trains_unchanged(config, tmp_path):
    path = write(tmp_path / "other.hdf5")
    data = DataConfig(
        path, ("robot0_eef_pos",), cameras=("agentview_image",), filter_key="train",
        instruction="lift the cube",
    )  # fmt: skip
    run = replace(config(), data=data, out=tmp_path / "run")
    policy = load_policy(train(run))
    assert policy.control_hz == 20
    assert policy.description.data.episodes == 5
    image = np.zeros((32, 32, 3), np.uint8)
    seen = Observation({"agentview_image": image}, {"robot0_eef_pos": np.zeros(3, np.float32)})
    actions = policy.infer(seen)
    assert actions.shape == (1, 7)
    assert np.abs(actions).max() <= 1
