import threading
import time

import h5py
import numpy as np
import pytest

from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks
from qsft_robot.rollouts.collect import CollectPart, collect
from qsft_robot.rollouts.pool import WorkerPool


def tabletop(task="place", cameras=(), **kwargs):
    return {
        "env_name": "tabletop",
        "type": 2,
        "env_kwargs": {"task": task, "cameras": list(cameras), "image_size": 24, **kwargs},
    }


MIXED = CollectPart(12, {"expert": 0.5, "sloppy": 0.25, "hesitate": 0.25}, noise=0.1)


def test_the_file_is_the_same_for_any_number_of_workers(tmp_path):
    for workers in (1, 3):
        collect(
            tabletop(), tmp_path / f"{workers}.hdf5", [MIXED], seed=5, workers=workers,
            progress=False,
        )  # fmt: skip
    one, three = (read_episodes(tmp_path / f"{workers}.hdf5") for workers in (1, 3))
    assert len(one) == 12
    for a, b in zip(one, three, strict=True):
        assert a.name == b.name
        assert a.attributes == b.attributes
        assert np.array_equal(a.actions, b.actions)
        assert all(np.array_equal(a.observations[k], b.observations[k]) for k in a.observations)
    assert read_masks(tmp_path / "1.hdf5") == read_masks(tmp_path / "3.hdf5")


def test_another_seed_gives_other_demonstrations(tmp_path):
    logs = []
    for seed in (0, 1):
        collect(tabletop(), tmp_path / "a.hdf5", [CollectPart(1)], seed=seed, progress=False)
        logs.append(read_episodes(tmp_path / "a.hdf5")[0])
    assert logs[0].attributes["seed"] != logs[1].attributes["seed"]


def test_masks_attributes_and_ends_tell_what_each_demonstration_is(tmp_path):
    path = tmp_path / "a.hdf5"
    report = collect(tabletop(max_steps=55), path, [MIXED], seed=2, progress=False)
    logs, masks = {e.name: e for e in read_episodes(path)}, read_masks(path)
    assert report.episodes == len(logs) == len(masks["mixed"]) == 12
    assert report.successes == sum(e.success for e in logs.values())
    assert report.steps == sum(len(e) for e in logs.values())
    assert sorted(masks["train"] + masks["valid"]) == sorted(logs)
    assert len(masks["valid"]) == 1
    assert 0 < len(masks["expert"]) < 12
    assert report.by_expert["expert"][0] == len(masks["expert"])
    for name, log in logs.items():
        assert (log.attributes["expert"] == "expert") == (name in masks["expert"])
        assert isinstance(log.attributes["seed"], int)
        assert log.instruction.startswith("put the")
        # A failure that used its whole step limit is an outcome.
        assert log.terminated
        assert log.success or len(log) == 55
        assert log.success == bool(log.rewards.max() > 0)


def test_parts_carry_their_reset_options_and_a_log_that_the_expert_ends_is_truncated(tmp_path):
    path = tmp_path / "drawer.hdf5"
    parts = [
        CollectPart(3, reset_options={"phase": "open"}, mask="drawer_open"),
        CollectPart(2, {"expert": 0.7, "sloppy": 0.3}, reset_options={"phase": "grasp"},
                    mask="drawer_grasp"),
    ]  # fmt: skip
    collect(tabletop("drawer"), path, parts, progress=False)
    masks = read_masks(path)
    assert masks["drawer_open"] == ["demo_0", "demo_1", "demo_2"]
    assert masks["drawer_grasp"] == ["demo_3", "demo_4"]
    for log in read_episodes(path):
        opened = log.name in masks["drawer_open"]
        assert log.attributes["reset_options"] == {"phase": "open" if opened else "grasp"}
        assert log.truncated == opened
        assert not (opened and log.rewards.any())
    assert read_env_args(path)["env_kwargs"]["task"] == "drawer"


def test_images_are_stored_as_the_environment_gave_them(tmp_path):
    path = tmp_path / "a.hdf5"
    collect(tabletop(cameras=("front",)), path, [CollectPart(1)], progress=False)
    with h5py.File(path) as file:
        rows = file["data/demo_0/obs/front_image"]
        assert rows.dtype == np.uint8
        assert rows.shape[1:] == (24, 24, 3)
        assert rows[()].std() > 5
        after = file["data/demo_0/next_obs/front_image"]
        assert np.array_equal(rows[1:], after[:-1])


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"episodes": 0}, "at least 1"),
        ({"mixture": {"expert": 0.5}}, "sums to 0.5"),
        ({"mixture": {"expert": 1.5, "sloppy": -0.5}}, "positive"),
        ({"noise": -1.0}, "0 or more"),
        ({"mask": "train"}, "every collection"),
    ],
)
def test_a_part_that_makes_no_sense_is_refused(part, words):
    with pytest.raises(ValueError, match=words):
        CollectPart(**{"episodes": 1, **part})


@pytest.mark.parametrize(
    ("env_args", "part", "words"),
    [
        (tabletop(), CollectPart(1, {"slopy": 1.0}), "sloppy"),
        (tabletop(), CollectPart(1, reset_options={"phase": "open"}), "phase"),
        ({"env_name": "gymnasium:Pendulum-v1"}, CollectPart(1), "expert"),
        ({"env_name": "tabeltop"}, CollectPart(1), "Did you mean 'tabletop'"),
        (tabletop("plaice"), CollectPart(1), "plaice"),
    ],
)
def test_a_name_that_does_not_exist_is_one_clear_error_and_leaves_no_file(
    tmp_path, env_args, part, words
):
    with pytest.raises(ValueError, match=words):
        collect(env_args, tmp_path / "a.hdf5", [part], progress=False)
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_the_earlier_file_whole_and_says_so(tmp_path, monkeypatch):
    path = tmp_path / "a.hdf5"
    collect(tabletop(), path, [CollectPart(1)], progress=False)
    before = path.read_bytes()
    wait, calls = WorkerPool.wait, []

    def interrupted_wait(pool, timeout_s):
        calls.append(pool)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return wait(pool, timeout_s)

    monkeypatch.setattr(WorkerPool, "wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        collect(tabletop(), path, [CollectPart(200)], progress=False)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]


def test_a_resumable_collection_goes_on_from_its_logs(tmp_path, monkeypatch):
    whole, path = tmp_path / "whole.hdf5", tmp_path / "a.hdf5"
    collect(tabletop(), whole, [MIXED], seed=5, progress=False)
    wait, sent = WorkerPool.wait, []

    def interrupted_wait(pool, timeout_s):
        if len(list(tmp_path.glob("a.hdf5.parts/episode_*"))) >= 4:
            raise KeyboardInterrupt
        return wait(pool, timeout_s)

    words = {"seed": 5, "resumable": True, "progress": False}
    monkeypatch.setattr(WorkerPool, "wait", interrupted_wait)
    with pytest.raises(KeyboardInterrupt, match=r"[4-9] of 12 demonstrations, which lie in"):
        collect(tabletop(), path, [MIXED], **words)
    monkeypatch.setattr(WorkerPool, "wait", wait)
    assert not path.exists()
    with pytest.raises(ValueError, match="logs of another collection"):
        collect(tabletop(), path, [MIXED], **{**words, "seed": 6})
    send = WorkerPool.send
    monkeypatch.setattr(
        WorkerPool, "send", lambda pool, i, order: (sent.append(order), send(pool, i, order))
    )
    collect(tabletop(), path, [MIXED], **words)
    assert len(sent) <= 8
    for a, b in zip(read_episodes(whole), read_episodes(path), strict=True):
        assert (a.name, a.attributes) == (b.name, b.attributes)
        assert np.array_equal(a.actions, b.actions)
        assert all(np.array_equal(a.observations[k], b.observations[k]) for k in a.observations)
    assert read_masks(whole) == read_masks(path)
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a.hdf5", "whole.hdf5"]


def test_a_worker_that_dies_stops_the_collection_and_names_the_demonstration(tmp_path, monkeypatch):
    pools = []
    opened = WorkerPool.__init__

    def remember(pool, *arguments):
        opened(pool, *arguments)
        pools.append(pool)

    monkeypatch.setattr(WorkerPool, "__init__", remember)

    def kill():
        while not (pools and pools[0]._workers and pools[0]._workers[0].mark()[0] >= 0):
            time.sleep(0.002)
        pools[0]._workers[0].process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(RuntimeError, match=r"demonstration \d+ \(env seed \d+"):
        collect(tabletop(), tmp_path / "a.hdf5", [CollectPart(300)], progress=False)
    thread.join()
    assert not list(tmp_path.iterdir())


def test_a_demonstration_that_fails_is_named_with_its_seed(tmp_path):
    env_args = {"env_name": "tabletop", "env_kwargs": {"cameras": []}}
    parts = [CollectPart(2), CollectPart(1, reset_options={"object": "teapot"})]
    with pytest.raises(
        ValueError, match=r"demonstration 2 \(environment seed \d+, expert expert\)"
    ):
        collect(env_args, tmp_path / "logs.hdf5", parts, progress=False)
