"""Columns and times of LeRobot data sets: what would give other numbers or frames is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest
from lerobot_logs import make, rewrite

from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.importing import import_lerobot


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
