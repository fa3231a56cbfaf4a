"""Flat files of steps become logs: every step once, ends at successes, one line for bad files."""

from __future__ import annotations

import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_robot.cli import main
from qsft_robot.flat_files.columns import join_npz, open_columns
from qsft_robot.flat_files.cutting import Cuts, logs_of
from qsft_robot.flat_files.importing import import_flat
from qsft_robot.flat_files.trajectories import Trajectory, iterate, read_flat_file
from qsft_robot.logs.reader import iter_episodes, read_masks


def flat(steps: int, ends: list[int], **more: np.ndarray) -> dict[str, np.ndarray]:
    """A file of `steps` rows whose observations count them; trajectories end at `ends`."""
    count = np.arange(steps, dtype=np.float32)
    return {
        "observations": np.stack([count, -count], axis=1),
        "actions": np.stack([count / steps], axis=1),
        "terminals": np.isin(np.arange(steps), ends),
        **more,
    }


class Even:
    """Judges states by a column: done where it is above 0."""

    keys = ("qpos",)

    def successes(self, rows):
        return rows["qpos"][:, 0] > 0


def saved(path, columns):
    if path.suffix == ".npz":
        np.savez_compressed(path, **columns)
    else:
        with h5py.File(path, "w") as file:
            for name, column in columns.items():
                file[name] = column
    return path


def read_logs(path):
    return list(iter_episodes(path))


@pytest.mark.parametrize("suffix", [".npz", ".hdf5"])
def test_columns_are_read_in_order_and_by_pieces(tmp_path, suffix):
    columns = {**flat(10, [4, 9]), "infos/qpos": np.arange(20.0).reshape(10, 2)}
    path = saved(tmp_path / f"a{suffix}", columns)
    with open_columns(path) as found:
        assert set(found) == set(columns)
        for name, column in columns.items():
            pieces = [found[name].read(count) for count in (3, 5, 2)]
            np.testing.assert_array_equal(np.concatenate(pieces), column)
            assert found[name].dtype == column.dtype


def test_parts_are_joined_to_a_file_that_numpy_reads(tmp_path):
    parts = [saved(tmp_path / f"{i}.npz", flat(4 + i, [3 + i])) for i in range(3)]
    with (tmp_path / "all.npz").open("wb") as file:
        join_npz(parts, file)
    whole = np.load(tmp_path / "all.npz")
    for name in whole.files:
        joined = np.concatenate([np.load(part)[name] for part in parts])
        np.testing.assert_array_equal(whole[name], joined)
        assert whole[name].dtype == joined.dtype


def test_play_data_end_at_each_success_and_after_a_length(tmp_path):
    # Two trajectories of 10 rows; the task is done in rows 5 and 6 of the first.
    done = np.isin(np.arange(20), [5, 6]).astype(np.float32)[:, None]
    path = saved(tmp_path / "play.npz", flat(20, [9, 19], qpos=done))
    out = tmp_path / "logs.hdf5"
    report = import_flat([path], out, judge=Even(), max_length=4, valid_fraction=0.5)
    logs = read_logs(out)
    # Actions 0 to 4 lead to row 5; 5 and 6 are done in success; 9 and 19 have no sequel.
    assert [log.observations["observation"][:, 0].tolist() for log in logs] == [
        [0, 1], [1, 2, 3, 4, 5], [7, 8, 9], [10, 11, 12, 13, 14], [14, 15, 16, 17, 18], [18, 19]
    ]  # fmt: skip
    assert [log.success for log in logs] == [False, True, False, False, False, False]
    assert [log.terminated for log in logs] == [log.success for log in logs]
    assert [log.rewards.tolist() for log in logs][:2] == [[0], [0, 0, 0, 1]]
    assert (report.logs, report.steps, report.successes, report.left_out) == (6, 16, 1, 4)
    masks = read_masks(out)
    assert sorted(len(masks[name]) for name in ("train", "valid")) == [3, 3]


@settings(max_examples=60, deadline=None)
@given(
    done=st.lists(st.booleans(), min_size=2, max_size=40),
    most=st.none() | st.integers(1, 7),
)
def test_every_step_outside_of_success_is_in_one_log(done, most):
    states = np.array(done)
    rows = flat(len(done), [])
    part = Trajectory(rows, None, terminal=False, first_row=0)
    cuts = Cuts(keys={"observations": "observation"}, max_length=most)
    used = []
    for log in logs_of(cuts, part, states):
        seen = log.observations["observation"][:, 0].astype(int)
        assert (np.diff(seen) == 1).all()
        assert most is None or len(log) <= most
        assert not states[seen[:-1]].any()
        assert log.success == log.terminated == states[seen[-1]] == log.rewards.any()
        used += seen[:-1].tolist()
    assert used == [i for i in range(len(done) - 1) if not done[i]]


@pytest.mark.parametrize("levels", [(0.0, 1.0), (-1.0, 0.0)])
def test_the_higher_of_two_rewards_marks_success(tmp_path, levels):
    marks = np.isin(np.arange(12), [3, 4, 11])
    columns = flat(
        12, [11], timeouts=np.isin(np.arange(12), [7]), rewards=np.where(marks, *levels[::-1])
    )
    columns["next_observations"] = columns["observations"] + 1
    path = saved(tmp_path / "d4rl.hdf5", columns)
    report = import_flat([path], tmp_path / "logs.hdf5")
    logs = read_logs(tmp_path / "logs.hdf5")
    assert [log.observations["observation"][:, 0].tolist() for log in logs] == [
        [0, 1, 2, 3, 4], [6, 7, 8], [8, 9, 10, 11, 12]
    ]  # fmt: skip
    assert [(log.success, log.terminated) for log in logs] == [
        (True, True), (False, False), (True, True)
    ]  # fmt: skip
    assert [log.rewards.sum() for log in logs] == [1, 0, 1]
    assert f"rewards of {levels[1]:g}" in str(report)


def test_an_outcome_without_a_sequel_keeps_its_last_action(tmp_path):
    rewards = np.linspace(0.1, 0.8, 8)
    columns = flat(8, [3], timeouts=np.isin(np.arange(8), [7]), rewards=rewards)
    path = saved(tmp_path / "a.npz", columns)
    report = import_flat([path], tmp_path / "logs.hdf5")
    first, second = read_logs(tmp_path / "logs.hdf5")
    # Terminal: action 3 stands, and its observation twice. Cut: action 7 led nowhere that was seen.
    assert first.observations["observation"][:, 0].tolist() == [0, 1, 2, 3, 3]
    assert second.observations["observation"][:, 0].tolist() == [4, 5, 6, 7]
    assert (first.terminated, second.terminated) == (True, False)
    np.testing.assert_allclose(np.append(first.rewards, second.rewards), rewards[:7], rtol=1e-6)
    assert "rewards are kept" in str(report)
    import_flat([path], tmp_path / "logs.hdf5", success_reward=0.35)
    assert [len(log) for log in read_logs(tmp_path / "logs.hdf5") if log.success] == [4, 1]


def test_images_and_kept_columns_are_observations(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3)).astype(np.uint8)
    columns = flat(6, [5], rewards=np.eye(6)[3], goal=np.arange(6.0)[:, None])
    path = saved(tmp_path / "a.npz", {**columns, "observations": frames})
    import_flat([path], tmp_path / "logs.hdf5", keep=["goal"], image_key="front_image")
    (log,) = read_logs(tmp_path / "logs.hdf5")
    np.testing.assert_array_equal(log.observations["front_image"], frames[:5])
    assert log.observations["goal"][:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actions": None}, "has no 'actions'. It holds observations, terminals"),
        ({"terminals": None}, "has no 'terminals'"),
        ({"observations": np.zeros((4, 2))}, "'actions' has 6"),
        ({"terminals": np.arange(6)}, "by 0 and 1"),
        ({"rewards": None}, "has no 'rewards', so which steps succeed is unknown"),
        ({"observations": np.array([{}] * 6)}, "Python objects"),
        ({"observations": np.asfortranarray(np.ones((6, 2)))}, "column order"),
        ({"observations": np.zeros((6, 4, 4))}, "rows of shape [4, 4]"),
        ({"actions": np.full((6, 1), np.nan)}, "NaN"),
    ],
)
def test_a_bad_file_is_one_line_and_leaves_what_was_there(tmp_path, capsys, change, words):
    columns = {**flat(6, [5], rewards=np.eye(6)[3]), **change}
    path = tmp_path / "bad.npz"
    np.savez(path, **{name: x for name, x in columns.items() if x is not None})
    out = tmp_path / "logs.hdf5"
    out.write_text("earlier")
    assert main(["import-npz", str(path), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert said.startswith("error: ")
    assert words in said
    assert out.read_text() == "earlier"
    assert [x.name for x in tmp_path.iterdir() if x.name.startswith(".")] == []


@pytest.mark.parametrize("longest", [3, 50_000])
def test_episodes_that_run_into_each_other_need_their_timeouts(tmp_path, longest, monkeypatch):
    monkeypatch.setattr("qsft_robot.flat_files.trajectories.LONGEST", longest)
    columns = flat(10, [3], rewards=np.linspace(0, 1, 10))
    after = np.roll(columns["observations"], -1, 0)
    whole = {**columns, "next_observations": after}
    assert len(read_flat_file(saved(tmp_path / "whole.hdf5", whole)).trajectories) >= 2
    after = after.copy()
    after[[3, 6]] += 5  # row 3 is marked, row 6 was cut by a limit
    torn = saved(tmp_path / "torn.hdf5", {**columns, "next_observations": after})
    with pytest.raises(ValueError, match=r"torn.hdf5: has no 'timeouts', and 1 rows that"):
        read_flat_file(torn)
    cuts = np.isin(np.arange(10), [6])
    told = {**columns, "next_observations": after, "timeouts": cuts}
    rows = read_flat_file(saved(tmp_path / "told.hdf5", told)).trajectories
    assert {6, 3} <= {first + count - 1 for first, count, _ in rows}


def test_states_that_the_simulator_needs_are_asked_for(tmp_path):
    path = saved(tmp_path / "a.npz", flat(6, [5], positions=np.zeros((6, 1))))
    with pytest.raises(ValueError, match=r"no column 'qpos'.* Take a file that has it"):
        import_flat([path], tmp_path / "logs.hdf5", judge=Even())


def test_a_file_that_is_cut_short_or_of_another_kind_is_named(tmp_path):
    whole = saved(tmp_path / "whole.npz", flat(2000, [1999], rewards=np.eye(2000)[5]))
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"neither an \.npz nor an HDF5 file"):
        read_flat_file(cut)
    short = tmp_path / "short.npz"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(short, "w") as target:
        for name in source.namelist():
            target.writestr(name, source.read(name)[:-8])
    with pytest.raises(ValueError, match="ends before its"):
        list(iterate(read_flat_file(short), ["observations", "actions"]))


def test_several_files_are_one_set_and_must_agree(tmp_path):
    one = saved(tmp_path / "one.npz", flat(6, [5], rewards=np.eye(6)[3]))
    two = saved(tmp_path / "two.npz", flat(8, [7], rewards=np.eye(8)[2]))
    report = import_flat([one, two], tmp_path / "logs.hdf5")
    assert (report.trajectories, report.successes) == (2, 2)
    other = flat(6, [5], rewards=np.eye(6)[3])
    other["actions"] = np.zeros((6, 2))
    with pytest.raises(ValueError, match="rows of 'actions' have shape"):
        import_flat([one, saved(tmp_path / "three.npz", other)], tmp_path / "logs.hdf5")
