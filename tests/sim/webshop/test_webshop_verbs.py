"""The verbs of the command line on WebShop: the same as for an arm."""

from __future__ import annotations

import json

import pytest

from qsft_robot.cli import main

pytest.importorskip("bm25s", reason="bm25s is not installed: pip install 'qsft-robot[webshop]'")

SIZES = (
    "--model.width", "32", "--model.depth", "1", "--optim.behavior-steps", "2",
    "--optim.value-steps", "2", "--optim.batch-size", "8", "--optim.warmup-steps", "1",
)  # fmt: skip
FEW = ("--workers", 1, "--envs-per-worker", 4, "--episodes", 6)


def verb(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_collect_train_evaluate_export(tmp_path, capsys):
    logs, run = tmp_path / "logs.hdf5", tmp_path / "run"
    verb("collect", "webshop", "--out", logs, "--episodes", 30, "--workers", 1)
    assert "mean return 0." in capsys.readouterr().out
    verb("playback", logs)
    verb(
        *("train", "--preset", "webshop", "--data.path", logs, "--out", run, "--device", "cpu"),
        *SIZES,
    )
    test = ("--env-kwargs", "split=test", "max_steps=6")
    verb("evaluate", run, *FEW, *test, "--videos", 1)
    summary = json.loads((run / "evaluation/policy/summary.json").read_text())
    assert 0 <= summary["mean_return"] <= 1
    assert summary["env_args"]["env_kwargs"]["split"] == "test"
    verb("export", run, "--out", tmp_path / "exported")
    verb("evaluate", tmp_path / "exported", *FEW, *test)
    again = json.loads((tmp_path / "exported.evaluation/policy/summary.json").read_text())
    assert again["mean_return"] == summary["mean_return"]


def test_a_partial_folder_is_answered_in_one_line(tmp_path, capsys):
    (tmp_path / "items_human_ins.json").write_text("{}")
    out = ("--out", str(tmp_path / "x.hdf5"), "--env-kwargs", f"data={tmp_path}")
    assert main(["collect", "webshop", *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: no items_shuffle_1000.json or items_shuffle.json")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "x.hdf5").exists()
