"""Labels are V and n-step advantages of every frame, written whole where other trainers read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served_description import served

from qsft_robot.labeling.frame_labels import label_frames
from qsft_robot.labeling.label import Targets, label_logs
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.importing import import_lerobot
from qsft_robot.logs.reader import iter_episodes
from qsft_robot.logs.writer import DemonstrationWriter
from qsft_robot.types import Decision, Episode

DISCOUNT = 0.9
LENGTHS = (6, 4, 5)


class Critic:
    """A policy whose V is the second entry of the state, .5 more for the one of mask b."""

    def __init__(self, filter_key=None, low=0.0, history=1):
        self.history = history
        state = {"state": {"mean": [0] * 2, "std": [1] * 2}}
        self.description = served(
            1, {"horizon": 2}, state_keys=["state"],
            norm_stats={"state": state, "actions": {"low": [-1], "high": [1]}},
            data={"file": "logs.hdf5", "sha256": "", "instructions": [], "filter_key": filter_key},
            return_range={"discount": DISCOUNT, "low": low, "high": 1.0},
        )  # fmt: skip
        model = {"kind": "rt", "config": {"history": history}}
        self.description = replace(self.description, model=model)
        self.steps = []

    def begin_episode(self, seed):
        return None

    def infer_batch(self, observations, memories):
        self.steps += [x.step for x in observations]
        bias = 0.5 if self.description.data.filter_key == "b" else 0.0
        values = [float(x.state["state"][1]) + bias for x in observations]
        return [Decision(np.zeros((2, 1), np.float32), v) for v in values]


def values(i):
    return np.linspace(0.1 * i, 0.3 + 0.1 * i, LENGTHS[i] + 1, dtype=np.float32)


@pytest.fixture
def logs(tmp_path):
    """A success, a failure and a log that was cut; masks a (the first two) and b (the last)."""
    path = tmp_path / "logs.hdf5"
    with DemonstrationWriter(path, {"env_name": "x", "control_hz": 10.0}) as writer:
        for i, length in enumerate(LENGTHS):
            state = np.stack([np.full(length + 1, i), values(i)], 1).astype(np.float32)
            rewards = (np.arange(length) == length - 1).astype(np.float32) * (i == 0)
            writer.append(
                Episode("", {"state": state}, np.zeros((length, 1), np.float32), rewards, i != 2,
                        i == 2, i == 0, "put it there"),
                ["b" if i == 2 else "a"],
            )  # fmt: skip
    return path


def test_advantages_are_those_of_their_definition(logs):
    for steps in (1, 3, 50):
        for i, log in enumerate(label_frames(logs, [Critic()], steps)):
            length, v = LENGTHS[i], values(i).astype(float)
            for t in range(length):
                n = min(steps, length - t)
                reward = DISCOUNT ** (n - 1) if i == 0 and t + n == length else 0.0
                after = v[t + n] if t + n < length or i == 2 else 0.0
                expected = reward + DISCOUNT**n * after - v[t]
                assert log.advantage[t] == pytest.approx(expected, abs=1e-9)
                assert log.steps_ahead[t] == n
            np.testing.assert_allclose(log.value, v[:-1])
            # Advantages over one step telescope to the return less V.
            if steps == 1:
                weights = DISCOUNT ** np.arange(length)
                total = float((weights * log.advantage).sum())
                assert total == pytest.approx(log.returns[0] - v[0], abs=1e-9)


def test_a_lower_range_shifts_v_and_advantages_alike(logs):
    # Rewards 0 and 1 with low = -1 are the same task, whose returns w are (R + 1) / 2.
    plain = [log.returns for log in label_frames(logs, [Critic()], 50)][:2]
    shifted = [log.returns for log in label_frames(logs, [Critic(low=-1.0)], 50)][:2]
    for a, b in zip(plain, shifted, strict=True):
        np.testing.assert_allclose(b, (a + 1) / 2)


def test_every_row_is_asked_also_where_frames_of_a_history_lie_apart(logs):
    critic = Critic(history=3)
    list(label_frames(logs, [critic], 1))
    assert sorted(critic.steps) == sorted(t for n in LENGTHS for t in range(n + 1))


def test_a_log_is_judged_by_the_policy_that_never_saw_it(logs):
    first, _, cut = label_frames(logs, [Critic("a"), Critic("b")], 1)
    assert first.held_out
    assert cut.held_out
    np.testing.assert_allclose(first.value, values(0)[:-1] + 0.5)  # by the one of mask b
    np.testing.assert_allclose(cut.value, values(2)[:-1])
    assert not any(log.held_out for log in label_frames(logs, [Critic()], 1))


@pytest.fixture
def data_set(logs, tmp_path):
    return export_lerobot(logs, tmp_path / "set")


def test_sidecars_have_a_row_a_frame_of_the_data_set(logs, data_set, tmp_path):
    targets = Targets(lerobot=data_set, rlinf=data_set, tag="t1", positive=0.2)
    report = label_logs(logs, [Critic()], targets, steps=2)
    progress = pq.read_table(data_set / "sarm_progress.parquet").to_pydict()
    frames = pq.read_table(data_set / "data" / "chunk-000" / "file-000.parquet")
    for key in ("index", "episode_index", "frame_index"):
        assert progress[key] == frames.column(key).to_pylist()
    told = np.concatenate([log.value for log in report.labels])
    np.testing.assert_allclose(progress["progress_sparse"], told, rtol=1e-6)
    recap = pq.read_table(data_set / "meta" / "advantages_t1.parquet").to_pydict()
    advantage = np.concatenate([log.advantage for log in report.labels])
    np.testing.assert_allclose(recap["advantage_continuous"], advantage, atol=1e-7)
    assert recap["advantage"] == (advantage >= report.threshold).tolist()
    assert sum(recap["advantage"]) == 3  # a fifth of 15 frames
    rest = np.array(recap["reward_sum"]) + DISCOUNT ** np.array(recap["num_valid_rewards"]) * (
        np.array(recap["value_next"])
    )
    np.testing.assert_allclose(rest - recap["value_current"], advantage, atol=1e-6)
    # The data set is as readable as before, and ours is replaced by the next labels.
    import_lerobot(data_set, tmp_path / "again.hdf5")
    label_logs(logs, [Critic()], targets, steps=1)


def test_the_copy_has_labels_beside_what_was_there(logs, tmp_path):
    out = tmp_path / "labeled.hdf5"
    report = label_logs(logs, [Critic()], Targets(out=out), steps=3)
    with h5py.File(out) as file:
        for log in report.labels:
            demo = file["data"][log.name]
            np.testing.assert_allclose(demo["qsft_value"][()], log.value, rtol=1e-6)
            np.testing.assert_allclose(demo["qsft_advantage"][()], log.advantage, atol=1e-7)
        assert json.loads(file["data"].attrs["qsft_labels"])["steps"] == "3"
    for a, b in zip(iter_episodes(logs), iter_episodes(out), strict=True):
        np.testing.assert_array_equal(a.observations["state"], b.observations["state"])
    label_logs(out, [Critic()], Targets(out=out), steps=1, filter_key="a")


def refused(logs, targets, words, critics=(), **settings):
    with pytest.raises(ValueError, match=words):
        label_logs(logs, critics or [Critic()], targets, **settings)


def test_what_cannot_be_labeled_is_refused_and_leaves_no_file(logs, data_set, tmp_path):
    class Blind(Critic):
        def infer_batch(self, observations, memories):
            return [Decision(np.zeros((2, 1), np.float32)) for _ in observations]

    out = tmp_path / "out.hdf5"
    refused(logs, Targets(), "give --out, --lerobot or --rlinf")
    refused(logs, Targets(out=out), "has no V", [Blind()])
    refused(logs, Targets(out=out), "different units", [Critic(), Critic(low=-1.0)])
    refused(logs, Targets(out=out), "at least 1 step", steps=0)
    refused(logs, Targets(out=out, positive=1.0), "--positive")
    refused(logs, Targets(rlinf=data_set, tag="../up"), "--tag")
    refused(logs, Targets(lerobot=data_set), "3 episodes, but 2 logs", filter_key="a")
    assert not out.exists()
    assert not (data_set / "sarm_progress.parquet").exists()
    with pytest.raises(FileNotFoundError, match="no LeRobot data set"):
        label_logs(logs, [Critic()], Targets(lerobot=tmp_path))
    pq.write_table(pa.table({"progress_sparse": [0.5]}), data_set / "sarm_progress.parquet")
    refused(logs, Targets(lerobot=data_set), "not written by `qsft-robot label`")


def test_rewards_after_success_are_counted_once_when_asked(logs, tmp_path):
    with h5py.File(logs, "r+") as file:
        del file["data/demo_0/rewards"]
        file["data/demo_0/rewards"] = np.array([0, 0, 0, 1, 1, 1], np.float32)
        if "success" in file["data/demo_0"]:
            del file["data/demo_0/success"]
        file["data/demo_0/success"] = np.array([0, 0, 0, 1, 1, 1], bool)
    refused(logs, Targets(out=Path(tmp_path / "x.hdf5")), "--success-reward", filter_key="a")
    first = next(iter(label_frames(logs, [Critic()], 50, success_reward=True)))
    np.testing.assert_allclose(first.returns[:4], DISCOUNT ** np.arange(3, -1, -1.0))
    np.testing.assert_array_equal(first.advantage[4:], 0)
    assert len(first.value) == len(first.advantage) == 6


def test_episodes_of_an_earlier_data_set_are_counted_too(logs, tmp_path):
    meta = tmp_path / "v2" / "meta"
    meta.mkdir(parents=True)
    rows = [{"episode_index": i, "length": n} for i, n in enumerate(LENGTHS)]
    (meta / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    label_logs(logs, [Critic()], Targets(rlinf=meta.parent))
    assert pq.read_metadata(meta / "advantages_qsft.parquet").num_rows == sum(LENGTHS)
    (meta / "episodes.jsonl").write_text("{}")
    refused(logs, Targets(rlinf=meta.parent), "episodes.jsonl, line 1: no episode_index")
