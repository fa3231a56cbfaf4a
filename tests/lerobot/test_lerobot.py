"""Logs survive the way into a LeRobot data set and back, and a broken data set says what is wrong.

scripts/check_lerobot.py compares with LeRobot itself, which needs an environment of its own.
"""

import json
import shutil
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_logs import ENV, KINDS, make, rewrite, smooth_frames

from qsft_robot.cli import main
from qsft_robot.files import check_sums
from qsft_robot.lerobot import parquet as lerobot_parquet
from qsft_robot.lerobot import video as lerobot_video
from qsft_robot.lerobot.exporting import export_lerobot
from qsft_robot.lerobot.format import camera_feature, log_key
from qsft_robot.lerobot.importing import import_lerobot
from qsft_robot.lerobot.stats import JoinedStatistics, image_statistics, row_statistics
from qsft_robot.logs.reader import read_env_args, read_episodes, read_masks

# Mean difference in gray levels that a codec may leave on the smooth frames below.
LOSS = {"png": 0.0, "h264": 4.0, "libsvtav1": 8.0}


def logs(path):
    return read_episodes(path, action_scale=(-100, 100), require_reward=False)


@pytest.fixture
def file(tmp_path, rng):
    return make(tmp_path / "logs.hdf5", rng)


@pytest.fixture
def exported(tmp_path, file):
    return export_lerobot(file, tmp_path / "set", codec="png")


@pytest.mark.parametrize("codec", LOSS)
def test_logs_come_back_as_they_went(tmp_path, file, codec):
    told = []
    folder = export_lerobot(
        file, tmp_path / "set", codec=codec, state_keys=["grip", "proprio"],
        tell=lambda *done: told.append(done),
    )  # fmt: skip
    check_sums(folder)
    report = import_lerobot(folder, tmp_path / "back.hdf5", tell=lambda *done: told.append(done))
    assert told == [(i + 1, len(KINDS)) for i in range(len(KINDS))] * 2
    before, after = logs(file), logs(tmp_path / "back.hdf5")
    assert report.episodes == len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old.actions, new.actions)
        assert np.array_equal(old.rewards, new.rewards)
        assert (old.success, old.terminated) == (new.success, new.terminated)
        assert (old.instruction, old.attributes) == (new.instruction, new.attributes)
        assert old.observations.keys() == new.observations.keys()
        for key, rows in old.observations.items():
            there, back = rows[:-1].astype(float), new.observations[key][:-1]
            if key.endswith("image"):
                assert np.abs(there - back).mean() <= LOSS[codec]
            else:
                assert np.array_equal(there, back)
            # LeRobot has no observation after the last action.
            assert np.array_equal(new.observations[key][-1], new.observations[key][-2])
    assert read_masks(tmp_path / "back.hdf5") == read_masks(file)
    assert read_env_args(tmp_path / "back.hdf5") == ENV


def test_files_are_cut_where_they_get_large_and_nothing_else_changes(
    tmp_path, file, monkeypatch, exported
):
    monkeypatch.setattr(lerobot_parquet, "DATA_MB", 0)
    monkeypatch.setattr(lerobot_video, "VIDEO_MB", 0)
    monkeypatch.setattr(lerobot_parquet, "FILES_OF_A_CHUNK", 3)
    monkeypatch.setattr(lerobot_video, "FILES_OF_A_CHUNK", 3)
    folder = export_lerobot(file, tmp_path / "cut")
    names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.*")) if p.is_file()]
    places = [f"chunk-000/file-00{i}" for i in range(3)] + ["chunk-001/file-000"]
    for place in places:
        assert f"data/{place}.parquet" in names
        assert f"meta/episodes/{place}.parquet" in names
        assert f"videos/observation.images.front/{place}.mp4" in names
    for source, name in ((folder, "a"), (exported, "b")):
        import_lerobot(source, tmp_path / f"{name}.hdf5")
    for a, b in zip(logs(tmp_path / "a.hdf5"), logs(tmp_path / "b.hdf5"), strict=True):
        assert np.array_equal(a.actions, b.actions)
        assert np.array_equal(a.observations["target"], b.observations["target"])
        off = a.observations["front_image"] - b.observations["front_image"].astype(float)
        assert np.abs(off).mean() <= LOSS["h264"]


@pytest.mark.parametrize(
    ("feature", "key"),
    [
        ("observation.images.front", "front_image"),
        ("observation.images.left.wrist", "left_wrist_image"),
        ("observation.images.agentview_image", "agentview_image"),
        ("observation.images.image", "image"),
        ("observation.image", "image"),
        ("observation.state", "state"),
        ("observation.environment_state", "environment_state"),
        ("observation.effort.left", "effort_left"),
    ],
)
def test_features_get_the_names_that_the_documentation_tells(feature, key):
    assert log_key(feature) == key


@pytest.mark.parametrize("key", ["front_image", "image", "robot0_eye_in_hand_image"])
def test_camera_names_go_there_and_back(key):
    assert log_key(camera_feature(key)) == key


def test_images_are_resized_and_cameras_chosen(tmp_path, exported):
    out = tmp_path / "small.hdf5"
    report = import_lerobot(exported, out, image_size=(8, 12), cameras=["wrist_image"])
    rows = logs(out)[0].observations
    assert rows["wrist_image"].shape == (8, 8, 12, 3)
    assert "front_image" not in rows
    assert report.left_out["observation.images.front"] == "not asked for"
    import_lerobot(exported, out, cameras=[])
    assert not [key for key in logs(out)[0].observations if key.endswith("image")]


def edit(folder, change):
    path = folder / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def forget(folder, *features):
    """As a data set that was recorded without these features."""
    (folder / "meta" / "qsft_robot.json").unlink(missing_ok=True)
    edit(folder, lambda info: [info["features"].pop(name) for name in features])


def test_a_recording_without_outcomes_takes_them_from_the_caller(tmp_path, exported):
    forget(exported, "next.success", "next.truncated", "next.reward")
    out = tmp_path / "a.hdf5"
    with pytest.raises(ValueError, match=r"no feature next\.success.*--success all"):
        import_lerobot(exported, out)
    for arguments, good in (
        ({"success": "all"}, [1, 1, 1, 1]),
        ({"success": "none"}, [0, 0, 0, 0]),
        ({"successful": [1, 3]}, [0, 1, 0, 1]),
    ):
        import_lerobot(exported, out, failure_end="truncated", **arguments)
        found = logs(out)
        assert [e.success for e in found] == [bool(x) for x in good]
        assert [e.rewards.sum() for e in found] == good
        assert [e.truncated for e in found] == [not x for x in good]
    with pytest.raises(ValueError, match="no episode 7; there are 0 to 3"):
        import_lerobot(exported, out, successful=[7])
    with pytest.raises(ValueError, match=r"no feature next\.reward"):
        import_lerobot(exported, out, success="reward")


def test_the_robot_and_its_rate_stand_in_env_args(tmp_path, exported):
    forget(exported)
    edit(exported, lambda info: info.update(robot_type="so101_follower", fps=30))
    report = import_lerobot(exported, tmp_path / "a.hdf5", success="reward", cameras=())
    env_args = read_env_args(tmp_path / "a.hdf5")
    assert env_args["env_name"] == "lerobot:so101_follower"
    assert env_args["control_hz"] == report.control_hz == 30
    assert env_args["env_kwargs"]["actions"] == ["action_0", "action_1"]
    assert logs(tmp_path / "a.hdf5")[0].observations["state"].shape == (8, 6)
    assert "--data.action-low" in str(report)


def ninetieth(rows):
    """The smallest value that nine tenths of the rows don't pass."""
    return np.sort(rows, axis=0)[int(np.ceil(0.9 * len(rows))) - 1]


def test_statistics_of_episodes_join_to_those_of_all_frames(rng):
    parts = [rng.normal(size=(n, 3)) * 4 + 1 for n in (1, 5, 40, 300)]
    joined = JoinedStatistics()
    for part in parts:
        joined.add({"x": row_statistics(part)})
    rows = np.concatenate(parts)
    found = joined.to_json()["x"]
    for name, value in (
        ("min", rows.min(axis=0)),
        ("max", rows.max(axis=0)),
        ("mean", rows.mean(axis=0)),
        ("std", rows.std(axis=0)),
        ("count", [len(rows)]),
        ("q90", sum(len(p) * ninetieth(p) for p in parts) / len(rows)),
    ):
        assert np.allclose(found[name], value), name


def test_statistics_of_images_are_those_of_their_pixels(rng):
    frames = rng.integers(0, 256, (6, 10, 8, 3)).astype(np.uint8)
    found = image_statistics(frames)
    pixels = frames.reshape(-1, 3) / 255
    for name, value in (
        ("min", pixels.min(axis=0)),
        ("mean", pixels.mean(axis=0)),
        ("std", pixels.std(axis=0)),
        ("q50", np.quantile(pixels, 0.5, axis=0, method="inverted_cdf")),
    ):
        assert np.allclose(found[name], value.reshape(3, 1, 1)), name
    assert found["count"].tolist() == [6]
    # Long episodes are looked at in part, large images thinned out.
    assert image_statistics(np.zeros((1000, 2, 2, 3), np.uint8))["count"].tolist() == [177]


def drop_file(pattern):
    return lambda folder: next(folder.rglob(pattern)).unlink()


def cut_rows(folder, rows):
    rewrite(folder, "data/*/*.parquet", lambda table: table.slice(0, table.num_rows - rows))


def empty_tasks(folder):
    words = pa.table({"task_index": [0, 1], "task": ["", " "]})
    pq.write_table(words, folder / "meta" / "tasks.parquet")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: edit(f, lambda info: info.update(codebase_version="v2.1")),
         r"version v2\.1; this reads v3\.0.*convert_dataset_v21_to_v30"),
        (lambda f: edit(f, lambda info: info.update(codebase_version="v2.0")), "to v2.1 first"),
        (lambda f: edit(f, lambda info: info.pop("fps")), r"fps is None.*--control-hz"),
        (lambda f: edit(f, lambda info: info["features"].pop("action")), "no feature 'action'"),
        (drop_file("file-000.mp4"), r"file-000\.mp4: no such file.*episode 0"),
        (lambda f: shutil.rmtree(f / "meta" / "episodes"), r"finalize\(\)"),
        (lambda f: next(f.rglob("*.mp4")).write_bytes(b"no video"), "can't be decoded"),
        (drop_file("tasks.parquet"), r"no tasks.*--task"),
        (empty_tasks, "no task has words"),
        (lambda f: cut_rows(f, 1), "no rows of episode 3"),
        (lambda f: cut_rows(f, 3), "7 rows of episode 2, whose description tells 9"),
        (lambda f: rewrite(f, "data/*/*.parquet", lambda t: t.drop_columns(["action"])),
         "no column 'action'"),
    ],
)  # fmt: skip
def test_a_broken_data_set_is_answered_with_what_is_wrong(tmp_path, file, spoil, words):
    folder = export_lerobot(file, tmp_path / "set")
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        import_lerobot(folder, tmp_path / "a.hdf5")
    assert not (tmp_path / "a.hdf5").exists()


def test_a_video_with_too_few_frames_is_named(tmp_path, file, rng):
    folder = export_lerobot(file, tmp_path / "set")
    path = folder / "videos/observation.images.front/chunk-000/file-000.mp4"
    path.unlink()
    with lerobot_video.CameraVideos(folder, "observation.images.front", 12.5, "h264") as video:
        video.append(smooth_frames(rng, 12, 24, 32))
    with pytest.raises(ValueError, match=r"file-000\.mp4: 8 of the 9 frames of episode 2"):
        import_lerobot(folder, tmp_path / "a.hdf5")


def test_what_an_export_lacks_is_asked_for(tmp_path, rng):
    kinds = [(3, True, True, "")]
    file = make(tmp_path / "a.hdf5", rng, kinds, control_hz=None, size=(9, 11))
    out = tmp_path / "set"
    for arguments, words in (
        ({}, "--fps"),
        ({"fps": 10}, r"demo_0 has no instruction.*--task"),
        ({"fps": 10, "task": "x", "state_keys": ["propio"]}, "Did you mean proprio"),
        ({"fps": 10, "task": "x", "codec": "libsvtav1"}, "even image sizes, got 9x11"),
        ({"fps": 10, "task": "x", "filter_key": "good"}, "no filter key 'good'"),
    ):
        with pytest.raises(ValueError, match=words):
            export_lerobot(file, out, **arguments)
        assert [p.name for p in tmp_path.iterdir()] == ["a.hdf5"]
    export_lerobot(file, out, fps=10, task="x")
    with pytest.raises(ValueError, match="already there"):
        export_lerobot(file, out, fps=10, task="x")


@pytest.mark.parametrize("package", ["pyarrow", "av"])
def test_a_missing_package_is_answered_with_the_install_line(
    tmp_path, file, package, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, package, None)
    for words in (
        ["export-lerobot", str(file), "--out", str(tmp_path / "set")],
        ["import-lerobot", str(tmp_path), "--out", str(tmp_path / "a.hdf5")],
    ):
        assert main(words) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert "pip install 'qsft-robot[lerobot]'" in error[-1]


def test_the_verbs_go_there_and_back(tmp_path, file, capsys):
    folder, back = tmp_path / "set", tmp_path / "back.hdf5"
    words = ["--state-keys", "proprio", "--codec", "png", "--filter-key", "train"]
    assert main(["export-lerobot", str(file), "--out", str(folder), *words]) == 0
    assert main(["import-lerobot", str(folder), "--out", str(back), "--image-size", "8", "8"]) == 0
    said = capsys.readouterr().out
    assert f"{folder}: 3 episodes" in said
    assert "3 logs, 12 steps at 12.5 Hz, 2 successful, 2 instructions" in said
    assert "front_image (observation.images.front)" in said
    assert main(["import-lerobot", str(tmp_path), "--out", str(back)]) == 2
    assert "is no LeRobot data set" in capsys.readouterr().err


def test_a_camera_of_another_name_comes_back_under_it(tmp_path, rng):
    file = make(tmp_path / "logs.hdf5", rng, cameras=("agentview_rgb",))
    folder = export_lerobot(file, tmp_path / "set", codec="png")
    import_lerobot(folder, tmp_path / "back.hdf5", cameras=["agentview_rgb"])
    assert "agentview_rgb" in logs(tmp_path / "back.hdf5")[0].observations


def test_a_key_that_the_joined_state_would_hide_is_named(tmp_path, rng):
    file = make(tmp_path / "logs.hdf5", rng)
    with h5py.File(file, "r+") as opened:
        for demo in opened["data"].values():
            for group in ("obs", "next_obs"):
                demo[group].move("grip", "state")
    with pytest.raises(ValueError, match=r"the key 'state'.*--state-keys"):
        export_lerobot(file, tmp_path / "set", state_keys=["proprio"])
    assert not (tmp_path / "set").exists()
    folder = export_lerobot(file, tmp_path / "set", codec="png")
    import_lerobot(folder, tmp_path / "back.hdf5")
    assert logs(file)[0].observations.keys() == logs(tmp_path / "back.hdf5")[0].observations.keys()
