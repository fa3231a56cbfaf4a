"""The verbs of the command line on chess endgames: the same as for an arm."""

from __future__ import annotations

import json

import pytest

from qsft_robot.cli import main
from sim.games.chess.stockfish import PROGRAM_VARIABLE
from tests.sim.games.test_chess_stockfish import odd_engine  # noqa: F401

SIZES = (
    "--model.width", "32", "--model.depth", "1", "--optim.behavior-steps", "3",
    "--optim.value-steps", "3", "--optim.batch-size", "16", "--optim.warmup-steps", "1",
)  # fmt: skip
GAME = "games/chess_endgames"
FEW = ("--workers", 1, "--envs-per-worker", 4, "--episodes", 8)
SHORT = ("--env-kwargs", "endings=KQK,KRK", "max_steps=12")


def verb(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def summary_of(folder):
    return json.loads((folder / "policy/summary.json").read_text())


@pytest.mark.parametrize("notation", ["san", "uci"])
def test_collect_train_evaluate_export(tmp_path, capsys, notation, odd_engine):  # noqa: F811
    logs, run = tmp_path / "logs.hdf5", tmp_path / "run"
    few = ("--episodes", 20, "--workers", 1)
    verb("collect", GAME, "--out", logs, *few, *SHORT, f"notation={notation}")
    assert "success 0.150 (expert 3/20)" in capsys.readouterr().out
    verb("playback", logs)
    verb(
        *("train", "--preset", GAME, "--tokenizer.no-free", "--data.path", logs, "--out", run),
        *("--device", "cpu", *SIZES),
    )
    verb("evaluate", run, *FEW, "--videos", 1)
    summary = summary_of(run / "evaluation")
    assert summary["refused_commands"]["count"] == 0  # within the legal moves
    assert summary["mean_return"] == summary["success_rate"]
    verb("export", run, "--out", tmp_path / "exported")
    verb("evaluate", tmp_path / "exported", *FEW)
    assert summary_of(tmp_path / "exported.evaluation")["mean_return"] == summary["mean_return"]
    if notation == "uci":  # once is enough: a dead engine costs its own game alone
        odd_engine("dies", 3)
        verb("evaluate", run, *FEW, "--name", "dead", "--env-kwargs", "opponent=stockfish")
        lines = (run / "evaluation/dead/episodes.jsonl").read_text().splitlines()
        reasons = [json.loads(line)["failure_reason"] for line in lines]
        assert (reasons.count("error"), len(reasons)) == (1, 8)


def test_moves_of_any_characters_are_paid_for_where_they_are_illegal(tmp_path):
    logs, run = tmp_path / "logs.hdf5", tmp_path / "run"
    verb("collect", GAME, "--out", logs, "--episodes", 10, "--workers", 1, *SHORT)
    train = ("train", "--preset", GAME, "--data.path", logs, "--out", run, "--device", "cpu")
    verb(*train, *SIZES, "--method", "sft")
    verb("evaluate", run, *FEW)
    rows = [
        json.loads(line)
        for line in (run / "evaluation/policy/episodes.jsonl").read_text().splitlines()
    ]
    assert sum(row["refused_commands"] for row in rows) > 0
    for row in rows:
        assert row["return"] == row["success_any"] - row["refused_commands"]


def test_without_stockfish_one_line_says_how_to_install_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(PROGRAM_VARIABLE, "/nowhere/stockfish")
    out = ("--out", str(tmp_path / "logs.hdf5"), "--episodes", "1")
    assert main(["collect", f"{GAME}_stockfish", *out]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: Stockfish is not installed")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "logs.hdf5").exists()
