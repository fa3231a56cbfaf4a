"""Columns and times of LeRobot data sets: what would give other numbers or frames is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from lerobot_logs import make, rewrite

from qsft_robot.cli import main
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.format import read_data_set
from qsft_robot.lerobot.importing import import_lerobot
from qsft_robot.logs.reader import read_episodes


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def move(folder, episode, begin, end):
    """Shift where an episode stands in the video of the front camera, seconds."""
    at = "videos/observation.images.front/"

    def change(table):
        rows = table.to_pylist()
        rows[episode][f"{at}from_timestamp"] += begin
        rows[episode][f"{at}to_timestamp"] += end
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewrite(folder, "meta/episodes/*/*.parquet", change)


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ([(1, -0.3, -0.3)], "episodes 0 and 1 overlap"),
        ([(2, -2.0, -2.0)], "frames"),
        ([(1, 0.0, 0.24)], "episode 1 has 4 frames"),
        ([(0, 0.0, 0.035), (1, 0.035, 0.07), (2, 0.07, 0.07), (3, 0.07, 0.07)], "drift"),
    ],
)
def test_videos_whose_places_overlap_or_drift_are_refused(tmp_path, rng, moves, words):
    logs_file = make(tmp_path / "logs.hdf5", rng, cameras=("front_image",))
    folder = export_lerobot(logs_file, tmp_path / "set", codec="h264")
    for episode, begin, end in moves:
        move(folder, episode, begin, end)
    with pytest.raises(ValueError, match=words):
        import_lerobot(folder, tmp_path / "back.hdf5")
    assert not (tmp_path / "back.hdf5").exists()


@pytest.fixture(scope="module")
def numbers_set(tmp_path_factory):
    """A data set without cameras."""
    folder = tmp_path_factory.mktemp("numbers")
    logs_file = make(folder / "logs.hdf5", np.random.default_rng(0), cameras=())
    return export_lerobot(logs_file, folder / "set")


def spoil_column(folder, name, make_column):
    def change(table):
        i = table.column_names.index(name)
        return table.set_column(i, name, make_column(table.column(i).to_pylist()))

    rewrite(folder, "data/*/*.parquet", change)


@pytest.mark.parametrize(
    ("name", "column", "words"),
    [
        ("action", lambda x: pa.array([[float("nan"), 0.0], *x[1:]]), "NaN or infinity at frame 0"),
        ("action", lambda x: pa.array([[1e300, 0.0], *x[1:]]), "NaN or infinity at frame 0"),
        ("action", lambda x: pa.array([[str(v) for v in row] for row in x]), "holds string"),
        ("action", lambda x: pa.array([[1.0], [1.0, 2.0, 3.0], *x[2:]]), "rows of 1 to 3 numbers"),
        ("observation.state", lambda x: pa.array([[None, *x[0][1:]], *x[1:]]), "empty entries"),
        ("next.success", lambda x: pa.array(["false"] * len(x)), "holds string"),
        ("next.success", lambda x: pa.array([2] * len(x)), "true or false"),
        ("next.truncated", lambda x: pa.array([[v, v] for v in x]), "2 numbers a frame"),
        ("next.reward", lambda x: pa.array([float("nan"), *x[1:]]), "NaN or infinity"),
        ("task_index", lambda x: pa.array([0.5] * len(x)), "not whole"),
    ],
)
def test_columns_of_the_wrong_kind_are_refused_by_name(tmp_path, numbers_set, name, column, words):
    folder = shutil.copytree(numbers_set, tmp_path / "set")
    spoil_column(folder, name, column)
    with pytest.raises(ValueError, match=words) as caught:
        import_lerobot(folder, tmp_path / "back.hdf5")
    assert name in str(caught.value)
    assert not (tmp_path / "back.hdf5").exists()


def test_times_that_step_back_or_leave_gaps_are_told(tmp_path, numbers_set):
    folder = shutil.copytree(numbers_set, tmp_path / "set")
    assert not import_lerobot(folder, tmp_path / "back.hdf5").odd_times

    def odd(times):
        return pa.array([*times[:3], 0.1, times[4] + 1.0, *times[5:]], pa.float32())

    spoil_column(folder, "timestamp", odd)
    report = import_lerobot(folder, tmp_path / "again.hdf5")
    assert "steps back" in report.odd_times[0]
    assert "gap at frame 4" in report.odd_times[0]
    assert "timestamps of episode 0" in str(report)


def on_a_copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "set")


@pytest.fixture(scope="module")
def filmed_set(tmp_path_factory):
    """A data set with videos of a front camera."""
    folder = tmp_path_factory.mktemp("filmed")
    logs_file = make(folder / "logs.hdf5", np.random.default_rng(0), cameras=("front_image",))
    return export_lerobot(logs_file, folder / "set", codec="h264")


def put_upon_another(folder):
    move(folder, 0, 0.25, 0.25)


def no_place(folder):
    move(folder, 1, np.nan, 0.0)


@pytest.mark.parametrize("spoil", [put_upon_another, no_place])
def test_inspect_refuses_the_places_in_videos_that_the_import_refuses(
    tmp_path, filmed_set, spoil, capsys
):
    folder = on_a_copy(filmed_set, tmp_path)
    spoil(folder)
    said = []
    for words in (["inspect", folder], ["import-lerobot", folder, "--out", tmp_path / "back.hdf5"]):
        assert main([str(word) for word in words]) == 2
        said.append(capsys.readouterr().err.splitlines()[-1])
    assert said[0] == said[1]
    assert f"{folder}/meta/episodes" in said[0]


def two_for_one(folder):
    def change(table):
        return pa.table({"task_index": [0, 0], "task": ["open it", "close it"]})

    rewrite(folder, "meta/tasks.parquet", change)


def numbered(*frames):
    def change(folder):
        spoil_column(folder, "frame_index", lambda x: pa.array([*frames, *x[len(frames) :]]))

    return change


def wider(folder):
    spoil_column(folder, "action", lambda x: pa.array([[*row, 0.0] for row in x]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (two_for_one, "task_index 0 stands for 'open it' and for 'close it'"),
        (numbered(0, 2, 1), "frame_index of episode 0 goes from 0 to 2"),
        (numbered(0, 0), "frame_index of episode 0 goes from 0 to 0"),
        (wider, "action of episode 0 has 3 numbers a frame, but"),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(tmp_path, numbers_set, spoil, words, capsys):
    folder = on_a_copy(numbers_set, tmp_path)
    spoil(folder)
    for verb in (["inspect", folder], ["import-lerobot", folder, "--out", tmp_path / "back.hdf5"]):
        assert main([str(word) for word in verb]) == 2
        assert words in capsys.readouterr().err


def test_a_number_beyond_float32_is_refused_by_inspect_too(tmp_path, numbers_set, capsys):
    folder = on_a_copy(numbers_set, tmp_path)
    spoil_column(folder, "action", lambda x: pa.array([[1e300, *x[0][1:]], *x[1:]]))
    assert main(["inspect", str(folder)]) == 2
    assert "action of episode_0: NaN or Inf at step 0" in capsys.readouterr().err


def test_lists_of_every_kind_read_the_same(tmp_path, numbers_set):
    folder = on_a_copy(numbers_set, tmp_path)
    plain = read_episodes(
        import_lerobot(folder, tmp_path / "plain.hdf5").path, action_scale=(-99, 99)
    )
    spoil_column(folder, "action", lambda x: pa.array(x, pa.large_list(pa.float32())))
    large = read_episodes(
        import_lerobot(folder, tmp_path / "large.hdf5").path, action_scale=(-99, 99)
    )
    for one, other in zip(plain, large, strict=True):
        assert np.array_equal(one.actions, other.actions)


def test_what_is_left_of_a_set_or_a_task_is_told(tmp_path, filmed_set):
    folder = on_a_copy(filmed_set, tmp_path)
    spoil_column(folder, "task_index", lambda x: pa.array([*x[:1], *[1 - y for y in x[1:]]]))
    with pytest.warns(UserWarning, match=r"task_index of episode 0: the task changes at frame 1"):
        import_lerobot(folder, tmp_path / "back.hdf5")
    rewrite(folder, "meta/episodes/*/*.parquet", lambda table: table.slice(0, table.num_rows - 1))
    with pytest.warns(UserWarning, match=r"tells 4 episodes and meta/episodes describes 3"):
        read_data_set(folder)


def test_episodes_that_change_places_in_a_video_are_told(tmp_path, filmed_set):
    folder, at = on_a_copy(filmed_set, tmp_path), "videos/observation.images.front/"

    def swap(table):
        rows = table.to_pylist()
        first, second = rows[1], rows[2]
        begin, end = first[f"{at}from_timestamp"], second[f"{at}to_timestamp"]
        between = begin + second[f"{at}to_timestamp"] - second[f"{at}from_timestamp"]
        second |= {f"{at}from_timestamp": begin, f"{at}to_timestamp": between}
        first |= {f"{at}from_timestamp": between, f"{at}to_timestamp": end}
        return pa.Table.from_pylist(rows, schema=table.schema)

    rewrite(folder, "meta/episodes/*/*.parquet", swap)
    with pytest.warns(UserWarning, match=r"episode 1 stands behind episode 2 in the video"):
        import_lerobot(folder, tmp_path / "back.hdf5")
