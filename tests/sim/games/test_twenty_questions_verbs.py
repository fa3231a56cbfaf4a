"""The verbs of the command line on Twenty Questions: the same as for an arm."""

from __future__ import annotations

import json

from qsft_robot.cli import main

SIZES = (
    "--model.width", "32", "--model.depth", "1", "--optim.behavior-steps", "2",
    "--optim.value-steps", "2", "--optim.batch-size", "16", "--optim.warmup-steps", "1",
)  # fmt: skip


def test_collect_train_evaluate_on_held_out_objects(tmp_path, capsys):
    def verb(*words):
        assert main([str(word) for word in words]) == 0

    logs, run = tmp_path / "logs.hdf5", tmp_path / "run"
    game = "games/twenty_questions"
    verb(
        *("collect", game, "--out", logs, "--episodes", 30, "--workers", 1),
        *("--env-kwargs", "split=train"),
    )
    assert "mean return -" in capsys.readouterr().out
    verb("playback", logs)
    verb(
        *("train", "--preset", game, "--tokenizer.closed", "--data.path", logs, "--out", run),
        *("--device", "cpu", *SIZES),
    )
    few = ("--workers", 1, "--envs-per-worker", 8, "--episodes", 8)
    verb("evaluate", run, *few, "--env-kwargs", "split=held_out", "--videos", 1)
    summary = json.loads((run / "evaluation/policy/summary.json").read_text())
    assert summary["env_args"]["env_kwargs"]["split"] == "held_out"
    assert summary["refused_commands"]["count"] == 0
    assert -20 <= summary["mean_return"] < 0
    out = ("--out", str(tmp_path / "x.hdf5"), "--env-kwargs", f"table={tmp_path / 'none.npz'}")
    assert main(["collect", game, *out]) == 2
    assert "none.npz" in capsys.readouterr().err
