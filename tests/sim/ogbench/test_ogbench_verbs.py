"""OGBench on the command line: play data are recorded, cut into logs of a task, and inspected."""

import json

import numpy as np
import pytest

pytest.importorskip("ogbench")

from qsft_robot.cli import main
from qsft_robot.logs.inspection import summarize
from qsft_robot.rollouts.record_play import record_play

SETTINGS = {"task": "cube-single", "steps": 25}


def test_a_recording_goes_on_where_it_was_broken_off(tmp_path):
    out = tmp_path / "play.npz"
    made = record_play("ogbench", SETTINGS, out, 3, workers=2)
    first = [dict(np.load(path)) for path in made.episodes]
    made.episodes[1].unlink()
    stamp = made.episodes[0].stat().st_mtime_ns
    told = []
    again = record_play("ogbench", SETTINGS, out, 3, workers=1, tell=lambda *x: told.append(x))
    assert told == [(3, 3)]
    assert again.episodes[0].stat().st_mtime_ns == stamp
    for path, before in zip(again.episodes, first, strict=True):
        for name, rows in np.load(path).items():
            np.testing.assert_array_equal(rows, before[name])
    with pytest.raises(ValueError, match="other settings"):
        record_play("ogbench", SETTINGS, out, 3, seed=1)


def test_play_data_become_logs_of_any_task_of_their_scene(tmp_path, capsys):
    play, logs = tmp_path / "play.npz", tmp_path / "logs.hdf5"
    words = ["collect", "ogbench/cube-single", "--episodes", "1", "--workers", "1"]
    assert main([*words, "--out", str(play)]) == 0
    assert np.load(play)["observations"].shape == (1001, 28)
    assert not (tmp_path / "play.npz.parts").exists()
    for task in ("cube-single", "cube-single-task1"):
        arguments = ["import-npz", str(play), "--env", f"ogbench/{task}", "--out", str(logs)]
        assert main(arguments) == 0
        summary = summarize(logs)
        assert max(summary.lengths) == 200
        assert list(summary.keys) == ["observation"]
    direct = tmp_path / "direct.hdf5"
    assert main([*words, "--env-kwargs", "task=cube-single-task1", "--out", str(direct)]) == 0
    assert summarize(direct).to_json()["steps"] == summary.steps
    capsys.readouterr()
    assert main(["inspect", str(direct), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["environment"].startswith("ogbench")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["collect", "ogbench/cube-singel"], "Did you mean 'ogbench/cube-single"),
        (["collect", "ogbench/scene", "--env-kwargs", "task=scen"], "Did you mean 'scene'?"),
        (["collect", "ogbench/scene", "--mixture", "expert=1"], "--mixture has no place"),
        (["import-npz", "a.npz", "--env", "ogbench/scen"], "Did you mean 'ogbench/scene"),
        (["import-npz", "a.npz", "--env", "ogbench/scene"], "a.npz: no column 'qpos'"),
        (["import-npz", "b.npz", "--env", "ogbench/scene"], "another one"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    columns = {
        "observations": np.zeros((4, 40)),
        "actions": np.zeros((4, 5)),
        "terminals": np.eye(4)[3],
    }
    np.savez("a.npz", **columns)
    np.savez("b.npz", **columns, qpos=np.zeros((4, 3)), button_states=np.zeros((4, 2)))
    assert main([*words, "--out", "logs.hdf5"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "logs.hdf5").exists()
