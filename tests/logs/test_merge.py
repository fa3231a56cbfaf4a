"""Merged files hold every log of their sources, and relabeled ones differ in what was named."""

import json
import os

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsft_robot.cli import main
from qsft_robot.logs.merge import merge_files
from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks
from qsft_robot.logs.relabel import relabel
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Episode

ENV = {"env_name": "tabletop", "type": 2, "env_kwargs": {"task": "place"}, "control_hz": 10}


def episode(rng, keys=("proprio",), success=True, terminated=True, lang="", steps=3):
    observations = {
        key: rng.integers(0, 255, (steps + 1, 4, 4, 3)).astype(np.uint8)
        if key.endswith("image")
        else rng.normal(size=(steps + 1, 2)).astype(np.float32)
        for key in keys
    }
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = success
    return Episode(
        name="",
        observations=observations,
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rewards,
        terminated=terminated,
        truncated=not terminated,
        success=success,
        instruction=lang,
        attributes={"seed": int(rng.integers(1000)), "reset_options": {"phase": "open"}},
    )


def write(path, episodes, env_args=ENV, masks=()):
    with DemonstrationWriter(path, env_args) as writer:
        names = [writer.append(e) for e in episodes]
        for mask, chosen in dict(masks).items():
            writer.set_mask(mask, [names[i] for i in chosen])
    return path


def same(a, b):
    assert (a.terminated, a.truncated, a.success) == (b.terminated, b.truncated, b.success)
    assert (a.instruction, a.attributes) == (b.instruction, b.attributes)
    assert np.array_equal(a.actions, b.actions)
    assert np.array_equal(a.rewards, b.rewards)
    assert a.observations.keys() == b.observations.keys()
    assert all(np.array_equal(a.observations[k], b.observations[k]) for k in a.observations)


@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=4), seed=st.integers(0, 2**31 - 1))
def test_a_merged_file_holds_every_log_of_its_sources_in_order(tmp_path, counts, seed):
    rng = np.random.default_rng(seed)
    paths = []
    for i, n in enumerate(counts):
        kinds = [
            {"success": s, "terminated": s or bool(rng.integers(2)), "lang": f"task {i}"}
            for s in rng.integers(0, 2, n).astype(bool)
        ]
        logs = [episode(rng, ("proprio", "front_image"), **kind) for kind in kinds]
        paths.append(write(tmp_path / f"part{i}.hdf5", logs, masks={"train": range(n // 2)}))
    told = []
    out = merge_files(paths, tmp_path / "all.hdf5", tell=lambda *a: told.append(a))
    merged = read_episodes(out, require_reward=False)
    assert [e.name for e in merged] == [f"demo_{i}" for i in range(sum(counts))]
    sources = [e for path in paths for e in read_episodes(path, require_reward=False)]
    for a, b in zip(sources, merged, strict=True):
        same(a, b)
    masks = read_masks(out)
    starts = np.cumsum([0, *counts])
    for i, n in enumerate(counts):
        assert masks[f"from_part{i}"] == [f"demo_{starts[i] + j}" for j in range(n)]
    assert len(masks["train"]) == sum(n // 2 for n in counts)
    assert told == [(i + 1, sum(counts)) for i in range(sum(counts))]
    with h5py.File(out) as file:
        assert file["data"].attrs["total"] == sum(len(e) for e in merged)
    assert read_env_args(out) == ENV
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        {"all.hdf5", *(f"part{i}.hdf5" for i in range(4) if (tmp_path / f"part{i}.hdf5").exists())}
    )


def test_files_with_only_dones_are_taken_as_they_are(tmp_path, rng):
    path = write(tmp_path / "a.hdf5", [episode(rng), episode(rng, success=False)])
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            for key in ("terminated", "truncated", "next_obs"):
                del demo[key]
            del demo.attrs["success"]
            demo.create_dataset("states", data=np.ones((3, 5)), compression="gzip", chunks=(1, 5))
    out = merge_files([path, write(tmp_path / "b.hdf5", [episode(rng)])], tmp_path / "c.hdf5")
    with h5py.File(out) as file:
        assert sorted(file["data/demo_0"]) == ["actions", "dones", "obs", "rewards", "states"]
        assert file["data/demo_1/states"].compression == "gzip"
        assert "terminated" in file["data/demo_2"]
    assert [e.terminated for e in read_episodes(out)] == [True, True, True]


def test_a_log_without_a_key_of_the_others_is_refused_or_the_key_left_out(tmp_path, rng):
    keys = ("proprio", "front_image")
    path = write(tmp_path / "a.hdf5", [episode(rng, keys), episode(rng, keys)])
    with h5py.File(path, "r+") as file:
        del file["data/demo_1/obs/front_image"], file["data/demo_1/next_obs/front_image"]
    with pytest.raises(ValueError, match=r"data/demo_1 has no obs/front_image.*--common-keys"):
        merge_files([path], tmp_path / "out.hdf5")
    merged = merge_files([path], tmp_path / "out.hdf5", common_keys=True)
    assert [list(x.observations) for x in read_episodes(merged)] == [["proprio"]] * 2


def test_a_file_name_beyond_utf8_gets_a_mask_that_shows_it(tmp_path, rng):
    path = write(tmp_path / os.fsdecode(b"logs\xff.hdf5"), [episode(rng)])
    masks = read_masks(merge_files([path], tmp_path / "out.hdf5"))
    assert masks == {r"from_logs\udcff": ["demo_0"]}


def test_stems_that_repeat_get_masks_of_their_own(tmp_path, rng):
    paths = [write(tmp_path / part / "logs.hdf5", [episode(rng)]) for part in ("a", "b")]
    once = merge_files(paths, tmp_path / "logs.hdf5")
    assert read_masks(once) == {"from_logs": ["demo_0"], "from_logs_2": ["demo_1"]}
    # The masks of a merged file keep their names in the next merge.
    again = merge_files([once, write(tmp_path / "c" / "logs.hdf5", [episode(rng)])], once)
    assert read_masks(again) == {
        "from_logs": ["demo_0"],
        "from_logs_2": ["demo_1"],
        "from_logs_3": ["demo_0", "demo_1"],
        "from_logs_4": ["demo_2"],
    }
    without = merge_files(paths, tmp_path / "d.hdf5", source_masks=False)
    assert read_masks(without) == {}


def test_instructions_of_the_file_go_with_its_logs(tmp_path, rng):
    paths = [
        write(tmp_path / f"{word}.hdf5", [episode(rng)], {**ENV, "language": word})
        for word in ("push", "pull")
    ]
    logs = read_episodes(merge_files(paths, tmp_path / "c.hdf5"))
    assert [e.instruction for e in logs] == ["push", "pull"]


def test_environments_that_differ_are_refused_by_entry_until_one_is_chosen(tmp_path, rng):
    a = write(tmp_path / "a.hdf5", [episode(rng)])
    other = {**ENV, "env_kwargs": {"task": "pick", "noise": 0.1}, "control_hz": 20, "type": 1}
    b = write(tmp_path / "b.hdf5", [episode(rng)], other)
    out = tmp_path / "c.hdf5"
    with pytest.raises(ValueError, match=r"a\.hdf5 and .*b\.hdf5") as caught:
        merge_files([a, b], out)
    text = str(caught.value)
    for words in (
        "control_hz is 10 and 20",
        'env_kwargs.task is "place" and "pick"',
        "env_kwargs.noise is nothing and 0.1",
        "--env-args-from",
    ):
        assert words in text
    assert "type" not in text
    assert not out.exists()
    assert read_env_args(merge_files([a, b], out, env_args_from=b)) == other
    with pytest.raises(ValueError, match="none of the files"):
        merge_files([a, b], out, env_args_from=tmp_path / "z.hdf5")


def test_observation_keys_that_differ_are_named_or_the_common_ones_kept(tmp_path, rng):
    a = write(tmp_path / "a.hdf5", [episode(rng, ("proprio", "front_image"))])
    b = write(tmp_path / "b.hdf5", [episode(rng, ("proprio", "target"), terminated=True)])
    told = r"front_image: images \[4, 4, 3\] in .*a\.hdf5, absent in"
    with pytest.raises(ValueError, match=told):
        merge_files([a, b], tmp_path / "c.hdf5")
    out = merge_files([a, b], tmp_path / "c.hdf5", common_keys=True)
    for log, source in zip(read_episodes(out), [*read_episodes(a), *read_episodes(b)], strict=True):
        assert list(log.observations) == ["proprio"]
        assert np.array_equal(log.observations["proprio"], source.observations["proprio"])
        assert log.attributes == source.attributes


def change_actions(file):
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = np.zeros((3, 7), np.float32)


def drop_rewards(file):
    del file["data/demo_0/rewards"]


def spoil_mask(file):
    file["mask/good"] = np.array(["demo_7"], dtype="S")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (change_actions, "b.hdf5: actions have 7 dimensions"),
        (drop_rewards, "b.hdf5: data/demo_0: no 'rewards'"),
        (spoil_mask, "b.hdf5: mask/good names 'demo_7'"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_nothing_is_written(tmp_path, rng, spoil, words):
    a, b = (write(tmp_path / name, [episode(rng)]) for name in ("a.hdf5", "b.hdf5"))
    with h5py.File(b, "r+") as file:
        spoil(file)
    with pytest.raises(ValueError, match=words.replace("[", r"\[")):
        merge_files([a, b], tmp_path / "c.hdf5")
    with pytest.raises(ValueError, match="named twice"):
        merge_files([a, tmp_path / "." / "a.hdf5"], tmp_path / "c.hdf5")
    with pytest.raises(FileNotFoundError, match=r"d\.hdf5"):
        merge_files([a, tmp_path / "d.hdf5"], tmp_path / "c.hdf5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5", "b.hdf5"]


def test_relabeled_logs_get_reward_and_end_and_the_others_stay(tmp_path, rng):
    logs = [episode(rng, success=i == 0, terminated=i != 2) for i in range(4)]
    path = write(tmp_path / "a.hdf5", logs, masks={"pressed": [2, 3]})
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["success"] = np.zeros(3, np.int64)
    out = relabel(path, tmp_path / "b.hdf5", success=["pressed"], failure=["demo_0"])
    before, after = read_episodes(path), read_episodes(out)
    assert [e.success for e in after] == [False, False, True, True]
    assert [e.rewards.tolist() for e in after] == [[0, 0, r] for r in (0, 0, 1, 1)]
    assert all(e.terminated for e in after)
    same(before[1], after[1])
    assert [e.success for e in read_episodes(out, success_reward=True)] == [
        e.success for e in after
    ]
    assert read_masks(out) == read_masks(path)
    # In place, and a failure that was cut.
    relabel(out, out, failure=["demo_3"], failure_end="truncated")
    assert [e.truncated for e in read_episodes(out)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"success": ["demo_9"]}, "no demonstration or mask 'demo_9'"),
        ({"success": ["demo_0"], "failure": ["all"]}, "a success and a failure"),
        ({}, "nothing to relabel"),
        ({"failure": ["all"], "failure_end": "over"}, "'terminal' or 'truncated'"),
    ],
)
def test_a_relabeling_that_makes_no_sense_is_refused(tmp_path, rng, arguments, words):
    path = write(tmp_path / "a.hdf5", [episode(rng)], masks={"all": [0]})
    with pytest.raises(ValueError, match=words):
        relabel(path, tmp_path / "b.hdf5", **arguments)
    assert not (tmp_path / "b.hdf5").exists()


def test_the_verbs_say_what_they_made(tmp_path, rng, capsys):
    a, b = (write(tmp_path / name, [episode(rng)]) for name in ("a.hdf5", "b.hdf5"))
    out = tmp_path / "c.hdf5"
    assert main(["merge", str(a), str(b), "--out", str(out)]) == 0
    assert f"{out}: 2 logs of 2 files; masks: from_a 1, from_b 1" in capsys.readouterr().out
    assert main(["relabel", str(out), "--out", str(out), "--failure", "from_b"]) == 0
    assert [e.success for e in read_episodes(out)] == [True, False]
    write(b, [episode(rng)], {**ENV, "env_kwargs": {"task": json.dumps("x")}})
    assert main(["merge", str(a), str(b), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "env_kwargs.task" in error
