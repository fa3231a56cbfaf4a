"""The verbs of the command line on Wordle: the same as for an arm."""

from __future__ import annotations

import json

import pytest

from qsft_robot.cli import main
from qsft_robot.policy.open import open_policy
from sim.games.wordle.words import read_words

SIZES = (
    "--model.width", "32", "--model.depth", "1", "--optim.behavior-steps", "3",
    "--optim.value-steps", "3", "--optim.batch-size", "16", "--optim.warmup-steps", "1",
)  # fmt: skip
# One guess is drawn: the likeliest of many is the same in every game of an untrained policy.
DRAWN = ("--acting.candidates", "1", "--acting.temperature", "1")
FEW = ("--workers", 1, "--envs-per-worker", 8, "--episodes", 48)


def verb(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Logs of games with a list of one's own."""
    folder = tmp_path_factory.mktemp("wordle")
    (folder / "list.txt").write_text("\n".join(read_words(None)[::12]))
    verb(
        "collect", "games/wordle", "--out", folder / "logs.hdf5", "--episodes", 60, "--workers", 1,
        "--env-kwargs", f"words={folder / 'list.txt'}",
    )  # fmt: skip
    return folder


def run(folder, name, *words):
    verb(
        *("train", "--preset", "games/wordle", "--data.path", folder / "logs.hdf5"),
        *("--out", folder / name, "--device", "cpu", *SIZES, *words),
    )
    return folder / name


def test_collect_tells_the_mean_return_and_a_log_plays_back(folder, capsys):
    few = ("--episodes", 20, "--workers", 1)
    verb("collect", "games/wordle", "--out", folder / "own.hdf5", *few, "--cameras")  # none
    assert "mean return -" in capsys.readouterr().out
    verb("playback", folder / "logs.hdf5")
    assert "accepted" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["perceptron", "whole_commands"])
def test_a_closed_policy_says_only_words_of_the_list_here_and_exported(folder, capsys, model):
    closed = ("--tokenizer.closed", "--model.name", model)
    made = run(folder, model, *closed, "--method", "qsft", *DRAWN)
    verb("evaluate", made, *FEW)
    said = capsys.readouterr().out
    summary = json.loads((made / "evaluation/policy/summary.json").read_text())
    assert summary["refused_commands"]["count"] == 0
    assert summary["mean_return_low"] < summary["mean_return"] < summary["mean_return_high"] <= 0
    assert f"mean return {summary['mean_return']:.4g}" in said
    exported, grown = folder / f"exported {model}", folder / f"grown {model}.hdf5"
    verb("export", made, "--out", exported)
    verb(
        *("collect", "games/wordle", "--policy", made, "--out", grown),
        *("--episodes", 6, "--workers", 1),
    )
    assert "mean return -" in capsys.readouterr().out.splitlines()[-1]
    words = set(open_policy(exported).tokenizer.closed)
    verb("evaluate", exported, *FEW)
    again = json.loads((folder / f"exported {model}.evaluation/policy/summary.json").read_text())
    assert again["mean_return"] == summary["mean_return"]
    assert words <= {" ".join(word) for word in read_words(str(folder / "list.txt"))}


def test_perceptrons_play_by_the_board_alone_and_the_likeliest_word(folder):
    made = run(folder, "board", "--tokenizer.closed", "--method", "qsft")
    verb("evaluate", made, *FEW)
    summary = json.loads((made / "evaluation/policy/summary.json").read_text())
    assert summary["refused_commands"]["count"] == 0
    policy = open_policy(made / "policy")
    assert policy.text_history == 0
    assert (policy.acting.candidates, policy.acting.judge) == (256, "likelihood")
    assert not policy.description.model["config"]["action_words"]


def test_whole_commands_need_a_closed_list(folder, capsys):
    words = ("--preset", "games/wordle", "--data.path", str(folder / "logs.hdf5"), *SIZES)
    out = ("--out", str(folder / "no"), "--model.name", "whole_commands")
    assert main(["train", *words, *out]) == 2
    assert "add --tokenizer.kind commands --tokenizer.closed" in capsys.readouterr().err


def test_a_free_policy_says_other_words_which_cost_what_the_environment_says(folder):
    made = run(folder, "free", "--method", "sft", *DRAWN)
    verb("evaluate", made, *FEW, "--env-kwargs", "outside_reward=-10", "--videos", 1)
    summary = json.loads((made / "evaluation/policy/summary.json").read_text())
    refused = summary["refused_commands"]["count"]
    assert refused > 0
    rows = [
        json.loads(x) for x in (made / "evaluation/policy/episodes.jsonl").read_text().splitlines()
    ]
    for row in rows:
        wrong = row["steps"] - row["success_any"]
        assert row["return"] == -wrong - 9 * row["refused_commands"]


def test_what_is_wrong_is_said_in_one_line(folder, tmp_path, capsys):
    (tmp_path / "long.txt").write_text("water\nwaters\n")
    out = ("--out", tmp_path / "logs.hdf5", "--episodes", 1)
    for words, message in (
        ([f"words={tmp_path / 'long.txt'}"], "line 2 is 'waters'"),
        ([f"words={tmp_path / 'none.txt'}"], "none.txt"),
        (["yelow=present"], "Did you mean 'yellow'?"),
    ):
        assert main(["collect", "games/wordle", *map(str, out), "--env-kwargs", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert main(["collect", "games/wordle", *map(str, out), "--cameras", "front"]) == 2
    assert "cameras" in capsys.readouterr().err
    train = ("--preset", "games/wordle", "--data.path", str(folder / "logs.hdf5"))
    assert main(["train", *train, "--data.return-low", "-3", "--out", str(tmp_path / "x")]) == 2
    assert "Declare a range that holds every return" in capsys.readouterr().err
    assert not (tmp_path / "logs.hdf5").exists()
