"""Run folders that something else wrote into are refused in one line, and nothing is left."""

import json
import os
import shutil

import pytest

from qsft_robot.cli import main

TINY = (
    "--optim.behavior-steps", "2", "--optim.value-steps", "1", "--optim.batch-size", "4",
    "--model.width", "16", "--model.depth", "1",
)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ran")
    logs = folder / "logs.hdf5"
    assert main(["collect", "tabletop/pick", "--out", str(logs), "--episodes", "2",
                 "--workers", "1", "--cameras"]) == 0  # fmt: skip
    assert main(["train", "--data.path", str(logs), "--out", str(folder / "run"), *TINY]) == 0
    return folder


ROWS = {
    "no UTF-8": (b'{"step": 1, "stage": "\xb5"}\n', "metrics.jsonl"),
    "a list": (b"[1, 2]\n", "metrics.jsonl, line 1: no number of updates"),
    "no number": (b'{"step": "1"}\n', "metrics.jsonl, line 1: no number of updates"),
    "nested": (b"[" * 100_000 + b"\n", "metrics.jsonl, line 1: not valid JSON"),
}


@pytest.mark.parametrize("rows", ROWS)
def test_metrics_that_training_did_not_write_are_named(ran, tmp_path, capsys, rows):
    content, words = ROWS[rows]
    run = shutil.copytree(ran / "run", tmp_path / "run")
    (run / "metrics.jsonl").write_bytes(content)
    before = sorted(run.rglob("*"))
    assert main(["train", "--resume", str(run)]) == 2
    assert sorted(run.rglob("*")) == before
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    assert str(run) in line
    assert words in line
    assert (run / "metrics.jsonl").read_bytes() == content


def test_a_name_that_settings_cannot_hold_is_refused_before_training(ran, tmp_path, capsys):
    logs = tmp_path / os.fsdecode(b"logs\xff.hdf5")
    shutil.copyfile(ran / "logs.hdf5", logs)
    words = ["train", "--data.path", str(logs), "--out", str(tmp_path / "run"), *TINY]
    assert main(words) == 2
    assert r"logs\udcff.hdf5: the name is no UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_behavior_network_gives_none(ran, tmp_path, capsys):
    given = tmp_path / "given"
    words = ["export", str(ran / "run"), "--out", str(given / "checkpoint"), "--no-onnx"]
    assert main([*words, "--acting", "k=1"]) == 0
    assert json.loads((given / "checkpoint" / "policy.json").read_text())["networks"] == [
        "value",
        "void",
    ]
    words = ["train", "--data.path", str(ran / "logs.hdf5"), "--out", str(tmp_path / "run"), *TINY]
    assert main([*words, "--behavior-from", str(given)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"--behavior-from {given}: its policy holds no behavior network" in line
    left = [p.name for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert left == ["config.json"]
