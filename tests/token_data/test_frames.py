"""The frame cache gives the frames of the file, within its budget, in every process."""

import multiprocessing
import os
import pickle

import h5py
import numpy as np
import pytest

from qsft_robot.logs.reader import read_episodes
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.token_data.frames import FrameCache
from qsft_robot.types import Episode

CAMERAS = ["front_image", "wrist_image"]


@pytest.fixture
def path(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "logs.hdf5"
    episodes = [
        Episode(
            f"demo_{i}",
            {
                "proprio": np.zeros((steps + 1, 2), np.float32),
                "front_image": rng.integers(0, 255, (steps + 1, 8, 6, 3), np.uint8),
                "wrist_image": rng.integers(0, 255, (steps + 1, 4, 4, 3), np.uint8),
            },
            np.zeros((steps, 2), np.float32),
            np.ones(steps, np.float32),
            True,
            False,
            True,
        )
        for i, steps in enumerate([3, 5, 2])
    ]
    write_demonstrations(path, episodes, {})
    return path


def build(path, names=("demo_0", "demo_1", "demo_2"), cameras=CAMERAS, budget=1 << 20, **kwargs):
    return FrameCache.build(
        path,
        cameras,
        list(names),
        path.parent / "cache",
        byte_budget=budget,
        show_progress=False,
        **kwargs,
    )


def test_rows_are_the_observations_of_the_reader(path):
    cache = build(path)
    for episode in read_episodes(path):
        for camera in CAMERAS:
            rows = cache.start[episode.name] + np.arange(len(episode) + 1)
            np.testing.assert_array_equal(cache.read(camera, rows), episode.observations[camera])
    assert cache.start == {"demo_0": 0, "demo_1": 4, "demo_2": 10}
    assert cache.rows == {"demo_0": 4, "demo_1": 6, "demo_2": 3}
    assert cache.cameras == {"front_image": (8, 6), "wrist_image": (4, 4)}


def test_rows_may_have_any_shape(path):
    cache = build(path)
    rows = np.array([[0, 12, 3], [4, 4, 9]])
    read = cache.read("front_image", rows)
    assert read.shape == (2, 3, 8, 6, 3)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read[0, 1], cache.read("front_image", np.array(12)))
    for outside in (13, -1):
        with pytest.raises(IndexError, match="13 rows"):
            cache.read("front_image", np.array([outside]))


def test_a_second_build_uses_what_is_there_and_another_file_does_not(path):
    folder = build(path).folder
    written = (folder / "front_image.npy").stat().st_mtime_ns
    assert build(path).folder == folder
    assert (folder / "front_image.npy").stat().st_mtime_ns == written
    assert build(path, names=["demo_1"]).folder != folder
    os.utime(path, ns=(1, 1))
    assert build(path).folder != folder


def test_a_budget_too_small_names_the_size_and_the_flag(path):
    with pytest.raises(ValueError, match=r"GiB.*--data.frame-cache-gib") as caught:
        build(path, budget=1000)
    assert str(path) in str(caught.value)
    assert not (path.parent / "cache").exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_open_the_cache_for_themselves(path, method):
    cache = build(path)
    rows = np.array([5, 0])
    expected = cache.read("front_image", rows)
    assert len(pickle.dumps(cache)) < 2000
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_read, (str(cache.folder), rows)), expected)


def _read(folder, rows):
    return pickle.loads(pickle.dumps(FrameCache(folder))).read("front_image", rows)


def test_an_unknown_camera_is_answered_with_the_nearest(path):
    with pytest.raises(ValueError, match=r"no camera 'front'. Did you mean front_image\?"):
        build(path, cameras=["front"])
    with pytest.raises(ValueError, match=r"no camera 'side_image'.*front_image, wrist_image"):
        build(path).read("side_image", np.array([0]))
    with pytest.raises(ValueError, match=r"proprio.*A camera is uint8"):
        build(path, cameras=["proprio"])


def test_frames_of_two_sizes_are_refused(path):
    with h5py.File(path, "a") as file:
        for group in ("obs", "next_obs"):
            del file[f"data/demo_1/{group}/front_image"]
            file[f"data/demo_1/{group}/front_image"] = np.zeros((5, 9, 6, 3), np.uint8)
    with pytest.raises(ValueError, match=r"demo_1.*differs in size.*\(9, 6\).*\(8, 6\)"):
        build(path)


def test_without_next_obs_the_last_frame_repeats_but_not_for_a_truncated_log(path):
    with h5py.File(path, "a") as file:
        del file["data/demo_1/next_obs"]
    frames = build(path).read("front_image", 4 + np.arange(6))
    np.testing.assert_array_equal(frames[-1], frames[-2])
    with pytest.raises(ValueError, match=r"demo_1/obs/front_image.*truncated.*--data.log-end"):
        build(path, truncated={"demo_1"})


def test_a_file_cut_short_is_an_error_that_names_it(path):
    cache = build(path)
    file = cache.folder / "front_image.npy"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(OSError, match=r"front_image.npy is cut short"):
        cache.read("front_image", np.array([12]))


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no frame cache"):
        FrameCache(tmp_path)


def test_frames_of_other_files_make_room_unless_they_are_read(path, monkeypatch):
    first = build(path)
    monkeypatch.setenv("QSFT_CACHE_GIB", "1e-9")
    second = build(path, names=["demo_1"])
    rows = np.array([0, 1])
    np.testing.assert_array_equal(
        first.read("wrist_image", first.start["demo_1"] + rows), second.read("wrist_image", rows)
    )
    gone = first.folder
    del first
    third = build(path, names=["demo_2"])
    assert not gone.exists()
    assert second.folder.exists()
    assert third.folder.exists()
