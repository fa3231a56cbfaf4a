"""What is written is what is read, in every combination of ends, keys, masks and languages."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.logs.data_hash import data_hash
from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks
from qsft_robot.logs.writer import DemonstrationWriter, write_demonstrations
from qsft_robot.types import Episode

ENV_ARGS = {"env_name": "tabletop", "type": 2, "env_kwargs": {"task": "place"}}


def episode(name="demo_0", steps=5, success=True, truncated=False, seed=0, **kwargs):
    rng = np.random.default_rng(seed)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = success
    return Episode(
        name=name,
        observations={
            "proprio": rng.normal(size=(steps + 1, 3)).astype(np.float32),
            "front_image": rng.integers(0, 255, (steps + 1, 8, 6, 3), np.uint8),
        },
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rewards,
        terminated=not truncated,
        truncated=truncated,
        success=success,
        **kwargs,
    )


def assert_same(a: Episode, b: Episode):
    assert (a.name, a.terminated, a.truncated, a.success) == (
        b.name,
        b.terminated,
        b.truncated,
        b.success,
    )
    assert a.instruction == b.instruction
    assert dict(a.attributes) == dict(b.attributes)
    for x, y in [(a.actions, b.actions), (a.rewards, b.rewards)]:
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_array_equal(x, y)
    assert set(a.observations) == set(b.observations)
    for key, x in a.observations.items():
        assert x.dtype == b.observations[key].dtype
        np.testing.assert_array_equal(x, b.observations[key])


def write_plain(path, *, demos=2, steps=4, dones=1, next_obs=True, env_args=None, **attrs):
    """A file in robomimic's own form, by plain h5py: float64 arrays and only `dones`."""
    rng = np.random.default_rng(1)
    written = []
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args or {"env_name": "Lift", "type": 1})
        data.attrs["total"] = demos * steps
        for i in range(demos):
            demo = data.create_group(f"demo_{i}")
            demo.attrs["num_samples"] = steps
            demo.attrs.update(attrs)
            states = rng.normal(size=(steps + 1, 10))
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["rewards"] = np.eye(steps)[-1] * (i % 2)
            demo["dones"] = np.eye(steps, dtype=np.int64)[-1] * dones
            demo["states"] = rng.normal(size=(steps, 32))
            demo["obs/object"] = states[:-1]
            if next_obs:
                demo["next_obs/object"] = states[1:]
            written.append(states)
    return written


def test_episodes_come_back_as_they_were_written(tmp_path):
    episodes = [
        episode("demo_0", attributes={"seed": 7, "reset_options": {"cube": [0.1, 0.2]}}),
        episode("demo_1", 3, success=False, seed=1, instruction="put the red cube away"),
        episode("demo_2", 9, success=False, truncated=True, seed=2, attributes={"expert": "x"}),
    ]
    path = tmp_path / "a.hdf5"
    write_demonstrations(path, episodes, ENV_ARGS, {"expert": ["demo_0"], "train": ["demo_2"]})
    for written, read in zip(episodes, read_episodes(path), strict=True):
        assert_same(written, read)
    assert read_env_args(path) == ENV_ARGS
    assert read_masks(path) == {"expert": ["demo_0"], "train": ["demo_2"]}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 2**31)),
        min_size=1,
        max_size=12,
    )
)
def test_any_set_of_episodes_survives_a_round_trip(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("round") / "a.hdf5"
    episodes = [
        episode(f"demo_{i}", steps, success, truncated and not success, seed)
        for i, (steps, success, truncated, seed) in enumerate(shapes)
    ]
    write_demonstrations(path, episodes, ENV_ARGS)
    read = read_episodes(path, require_reward=False)
    for a, b in zip(episodes, read, strict=True):
        assert_same(a, b)


def test_demonstrations_come_in_the_order_of_their_numbers(tmp_path):
    path = tmp_path / "a.hdf5"
    names = [f"demo_{i}" for i in (10, 2, 1, 0)]
    write_demonstrations(path, [episode(name) for name in names], ENV_ARGS, {"all": names})
    expected = ["demo_0", "demo_1", "demo_2", "demo_10"]
    assert [e.name for e in read_episodes(path)] == expected
    assert [e.name for e in read_episodes(path, filter_key="all")] == expected


def test_only_the_keys_and_the_filter_asked_for_are_read(tmp_path):
    path = tmp_path / "a.hdf5"
    write_demonstrations(
        path, [episode("demo_0"), episode("demo_1")], ENV_ARGS, {"valid": ["demo_1"]}
    )
    (read,) = read_episodes(path, keys=["proprio"], filter_key="valid")
    assert read.name == "demo_1"
    assert list(read.observations) == ["proprio"]


def test_demonstrations_are_read_by_name(tmp_path):
    path = tmp_path / "a.hdf5"
    write_demonstrations(path, [episode(f"demo_{i}") for i in range(12)], ENV_ARGS)
    assert [e.name for e in read_episodes(path, names=["demo_11", "demo_3"])] == [
        "demo_11",
        "demo_3",
    ]
    with pytest.raises(ValueError, match=r"no demonstration 'demo_12'. Did you mean demo_"):
        read_episodes(path, names=["demo_12"])


def test_a_robomimic_file_of_another_maker_reads_with_no_change(tmp_path):
    path = tmp_path / "a.hdf5"
    states = write_plain(path)
    failure, success = read_episodes(path)
    np.testing.assert_array_equal(failure.observations["object"], states[0].astype(np.float32))
    assert (failure.terminated, failure.success) == (True, False)
    assert (success.terminated, success.success) == (True, True)
    assert success.rewards.tolist() == [0, 0, 0, 1]


def test_log_end_says_what_the_end_of_an_unsuccessful_log_means(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path, demos=4)
    assert [e.truncated for e in read_episodes(path)] == [False] * 4
    assert [e.truncated for e in read_episodes(path, log_end="truncated")] == [
        True,
        False,
        True,
        False,
    ]
    with h5py.File(path, "a") as file:
        file["mask/partial"] = np.array(["demo_0", "demo_1"], dtype="S")
    by_key = read_episodes(path, log_end={"partial": "truncated"})
    assert [e.truncated for e in by_key] == [True, False, False, False]


def test_per_step_ends_decide_unless_log_end_is_given(tmp_path):
    path = tmp_path / "a.hdf5"
    episodes = [
        episode("demo_0"),
        episode("demo_1", success=False, truncated=True),
        episode("demo_2", success=False),
    ]
    write_demonstrations(path, episodes, ENV_ARGS, {"cut": ["demo_2"]})
    assert [e.truncated for e in read_episodes(path)] == [False, True, False]
    assert [e.truncated for e in read_episodes(path, log_end="terminal")] == [False] * 3
    by_key = read_episodes(path, log_end={"cut": "truncated"})
    assert [e.truncated for e in by_key] == [False, True, True]


def test_a_log_whose_file_marks_neither_end_was_cut(tmp_path):
    path = tmp_path / "a.hdf5"
    write_demonstrations(path, [episode("demo_0"), episode("demo_1", success=False)], ENV_ARGS)
    with h5py.File(path, "a") as file:
        file["data/demo_1/terminated"][...] = False
    assert [e.truncated for e in read_episodes(path)] == [False, True]


def test_without_next_obs_a_terminal_log_repeats_its_last_row(tmp_path):
    path = tmp_path / "a.hdf5"
    states = write_plain(path, next_obs=False)
    read = read_episodes(path)[0].observations["object"]
    np.testing.assert_array_equal(read[:-1], states[0][:-1].astype(np.float32))
    np.testing.assert_array_equal(read[-1], read[-2])


def test_the_language_of_the_flag_goes_before_the_demo_and_that_before_the_environment(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path, env_args={"env_name": "x", "env_kwargs": {"language": "inner"}})
    assert read_episodes(path)[0].instruction == "inner"
    write_plain(
        path,
        env_args={"env_name": "x", "language": "outer", "env_kwargs": {"language": "inner"}},
    )
    assert read_episodes(path)[0].instruction == "outer"
    write_plain(path, env_args={"language": "outer"}, ep_meta=json.dumps({"lang": "meta"}))
    assert read_episodes(path)[0].instruction == "meta"
    write_plain(path, env_args={"language": "outer"}, lang="demo")
    assert read_episodes(path)[0].instruction == "demo"
    assert read_episodes(path, instruction="flag")[0].instruction == "flag"
    write_plain(path)
    assert read_episodes(path)[0].instruction == ""


def test_success_reward_pays_once_at_the_first_success_and_ends_the_log_there(tmp_path):
    path = tmp_path / "a.hdf5"
    states = write_plain(path, demos=2, steps=6)
    with h5py.File(path, "a") as file:
        file["data/demo_1/rewards"][...] = [0, 0, 0, 1, 1, 1]
    failure, success = read_episodes(path, success_reward=True)
    assert success.rewards.tolist() == [0, 0, 0, 1]
    assert success.actions.shape == (4, 7)
    np.testing.assert_array_equal(success.observations["object"], states[1][:5].astype(np.float32))
    assert success.terminated
    assert success.success
    assert failure.rewards.tolist() == [0] * 6
    assert not failure.success
    untouched = read_episodes(path)[1]
    assert untouched.rewards.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("signal", ["dataset", "attribute", "dones"])
def test_success_reward_takes_the_signal_that_the_file_has(tmp_path, signal):
    path = tmp_path / "a.hdf5"
    write_plain(path, demos=2, steps=4, dones=0)
    with h5py.File(path, "a") as file:
        for i, name in enumerate(["demo_0", "demo_1"]):
            demo = file["data"][name]
            demo["rewards"][...] = 0
            if signal == "dataset":
                demo["success"] = np.array([0, i, i, 0])
            elif signal == "attribute":
                demo.attrs["success"] = bool(i)
            else:
                demo["dones"][...] = [0, i, i, i]
    failure, success = read_episodes(path, success_reward=True)
    assert success.rewards.tolist() == ([0, 0, 0, 1] if signal == "attribute" else [0, 1])
    assert not failure.rewards.any()


def test_a_success_attribute_goes_before_the_rewards(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path)
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["success"] = True
    assert [e.success for e in read_episodes(path)] == [True, True]


def test_rewards_and_state_of_one_number_a_step_are_read_in_both_shapes(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path, demos=2)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            rewards = demo["rewards"][()][:, None]
            del demo["rewards"]
            demo["rewards"] = rewards
            demo["obs/gripper"] = np.arange(4.0)
            demo["next_obs/gripper"] = np.arange(1.0, 5.0)
    read = read_episodes(path)[1]
    assert read.rewards.shape == (4,)
    assert read.observations["gripper"].tolist() == [[0], [1], [2], [3], [4]]


def test_depth_images_are_passed_over_unless_asked_for(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["obs/depth"] = np.zeros((4, 8, 8, 1))
            demo["next_obs/depth"] = np.zeros((4, 8, 8, 1))
    assert list(read_episodes(path)[0].observations) == ["object"]
    with pytest.raises(ValueError, match=r"obs/depth.*may be depth"):
        read_episodes(path, keys=["depth"])


def test_a_declared_action_scale_admits_actions_beyond_one(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path)
    with h5py.File(path, "a") as file:
        file["data/demo_0/actions"][2, 3] = 7.5
    read = read_episodes(path, action_scale=([-10.0], [10.0]))[0]
    assert read.actions[2, 3] == 7.5
    read = read_episodes(path, action_scale=(-10, 10))[0]
    assert read.actions[2, 3] == 7.5
    with pytest.raises(ValueError, match=r"demo_0/actions.*dimension 3.*7\.5"):
        read_episodes(path, action_scale=([-1] * 7, [1] * 7))
    with pytest.raises(ValueError, match="7 dimensions"):
        read_episodes(path, action_scale=([-1] * 3, [1] * 3))


def test_the_data_hash_changes_with_one_byte(tmp_path):
    path = tmp_path / "a.hdf5"
    write_plain(path)
    before = data_hash(path)
    with h5py.File(path, "a") as file:
        file["data/demo_0/rewards"][0] = 0.5
    assert len(before) == 64
    assert data_hash(path) != before


def test_masks_grow_with_append_and_names_are_given_in_order(tmp_path):
    path = tmp_path / "a.hdf5"
    with DemonstrationWriter(path, ENV_ARGS) as writer:
        assert writer.append(episode(""), masks=["train", "expert"]) == "demo_0"
        assert writer.append(episode(""), masks=["train"]) == "demo_1"
    assert read_masks(path) == {"expert": ["demo_0"], "train": ["demo_0", "demo_1"]}
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 10
        assert file["data/demo_0"].attrs["num_samples"] == 5


def test_reading_demonstrations_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import qsft_robot.logs.reader, qsft_robot.logs.writer, qsft_robot.token_data.frames\n"
        "import qsft_robot.normalize, qsft_robot.returns, qsft_robot.logs.validate\n"
        "import qsft_robot.logs.inspection, tokenizers_action.bins"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
