"""Curves go to the tracker that was asked for, and a missing one is said before a run begins."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from qsft_robot.files import read_json
from qsft_robot.training.tracking import check_tracker, open_tracker
from qsft_robot.training.train import train

FEW = {"optim__behavior_steps": 4, "optim__value_steps": 2, "log_every": 1}


def test_a_tracker_that_is_not_installed_is_said_before_the_run_folder_is_written(
    config, tmp_path, monkeypatch
):
    monkeypatch.setattr("qsft_robot.training.tracking.is_installed", lambda _: False)
    with pytest.raises(ImportError, match="--track wandb: wandb is not installed: pip install"):
        train(config(out=tmp_path / "run", track="wandb", **FEW))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ImportError, match="pip install trackio"):
        check_tracker("trackio")


def test_tensorboard_has_every_line(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(config(out=run, **FEW))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    drawn = EventAccumulator(str(run / "tensorboard"))
    drawn.Reload()
    found = {event.step: event.value for event in drawn.Scalars("loss/total")}
    assert found == pytest.approx({row["step"]: row["loss/total"] for row in lines})
    assert not (run / "tracking.json").exists()


TWICE = """
import sys
from pathlib import Path
from qsft_robot.training.tracking import open_tracker
for step, loss, resume_at in ((1, 0.5, None), (2, 0.25, 1)):
    tracker = open_tracker("trackio", Path(sys.argv[1]), {"seed": 3}, resume_at)
    tracker.add(step, {"loss/total": loss})
    tracker.close()
"""


def test_trackio_gets_every_line_and_a_resumed_run_goes_on(tmp_path, repository):
    pytest.importorskip("trackio")
    run, kept = tmp_path / "mine", tmp_path / "trackio"
    run.mkdir()
    # A process of its own: the folder is read from the environment on import.
    own = {"TRACKIO_DIR": str(kept), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(repository)}
    words = [sys.executable, "-c", TWICE, str(run)]
    subprocess.run(words, check=True, env=os.environ | own, capture_output=True)
    assert read_json(run / "tracking.json") == {"kind": "trackio", "name": "mine"}
    (file,) = kept.glob("*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("mine", 1), ("mine", 2)]
    assert [json.loads(x)["loss/total"] for *_, x in rows] == [0.5, 0.25]


def test_wandb_keeps_a_run_offline_and_goes_on_under_its_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    tracker = open_tracker("wandb", tmp_path, {"seed": 3})
    tracker.add(1, {"loss/total": 0.5})
    tracker.close()
    told = read_json(tmp_path / "tracking.json")
    open_tracker("wandb", tmp_path, {"seed": 3}, resume_at=1).close()
    assert read_json(tmp_path / "tracking.json") == told
    kept = list((tmp_path / "wandb").glob(f"offline-run-*-{told['name']}"))
    assert kept
