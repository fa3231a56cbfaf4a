"""The verbs of the command line on the real ALFWorld engine: the same as for an arm."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imageio
import pytest

from qsft_robot.cli import main

SIZES = (
    "--model.width", "32", "--model.text-history", "4", "--optim.behavior-steps", "2",
    "--optim.value-steps", "2", "--optim.batch-size", "8", "--optim.warmup-steps", "1",
)  # fmt: skip
ONE = ("--workers", 1, "--envs-per-worker", 1)  # an engine takes longer to start than to play


def verb(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def ran(alfworld_games: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of logs.hdf5 and of a run that decodes freely, which is what says nonsense."""
    folder = tmp_path_factory.mktemp("verbs")
    logs, run = folder / "logs.hdf5", folder / "run"
    size = ("--image-size", 32, "--env-kwargs", "max_steps=25", "--workers", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(alfworld_games))
        verb("collect", "alfworld", "--out", logs, "--episodes", 6, "--mixture", "expert=1", *size)
        verb(
            "train", "--preset", "alfworld/text_image", "--tokenizer.free", "--data.path", logs,
            "--out", run, *SIZES,
        )  # fmt: skip
    return folder


@pytest.mark.usefixtures("alfworld_data")
def test_collect_train_evaluate_and_report_run_in_turn_and_say_what_happened(ran, capsys):
    verb("playback", ran / "logs.hdf5")
    assert "accepted" in capsys.readouterr().out
    verb("inspect", ran / "logs.hdf5", "--fail-on", "warning")
    assert "No warnings." in capsys.readouterr().out
    few = ("--episodes", 6, "--max-steps", 3, *ONE, "--videos", 1)
    verb("evaluate", ran / "run", "--env-kwargs", "split=valid_unseen", *few)
    said = capsys.readouterr().out
    summary = json.loads((ran / "run/evaluation/policy/summary.json").read_text())
    assert summary["env_args"]["env_kwargs"]["split"] == "valid_unseen"
    assert sorted(row["n"] for row in summary["tasks"].values()) == [1] * 6
    refused = summary["refused_commands"]["count"]
    assert f"{refused} commands were refused" in said
    assert 0 < refused <= 18
    (film,) = (ran / "run/evaluation/policy/videos").iterdir()
    assert len([frame for frame in imageio.get_reader(film)]) == 4
    verb("report", ran / "run")
    page = (ran / "run/report.html").read_text()
    assert "alfworld/valid_unseen" in page
    assert all(kind in page for kind in summary["tasks"])


def test_a_corrupt_game_costs_its_own_episode_of_an_evaluation(ran, alfworld_data, capsys):
    games = ran / "games"
    shutil.copytree(alfworld_data / "generated", games)
    (spoilt, *_) = sorted((games / "valid_unseen").glob("look_at_obj*/*/game.tw-pddl"))
    game = json.loads(spoilt.read_text())
    spoilt.write_text(json.dumps({**game, "pddl_problem": game["pddl_problem"][:900]}))
    few = ("--episodes", 6, "--max-steps", 2, *ONE)
    verb("evaluate", ran / "run", "--env-kwargs", "split=valid_unseen", f"data={games}", *few)
    said = capsys.readouterr().out
    assert "1 episodes broke off" in said
    assert f"{spoilt.parent.name}/game.tw-pddl: the engine can't start it" in said
    rows = [
        json.loads(line)
        for line in (ran / "run/evaluation/policy/episodes.jsonl").read_text().splitlines()
    ]
    assert [row["failure_reason"] for row in rows].count("error") == 1
    assert [row["steps"] for row in rows].count(2) == 5


def test_what_is_wrong_is_said_in_one_line_before_anything_runs(alfworld_data, tmp_path, capsys):
    out = ("--out", tmp_path / "logs.hdf5", "--episodes", 1)
    for words, message in (
        (["split=valid_unsen"], "Did you mean 'valid_unseen'?"),
        (["split=valid_seen"], "no split 'valid_seen' in it; it holds: train, valid_unseen"),
        (["task_types=pick_two_obj_and_place"], "where a list (each text) is expected"),
        (['task_types=["pick_two_obj"]'], "pick_two_obj_and_place"),
        ([f"data={tmp_path / 'nowhere'}"], "no such folder of ALFWorld games"),
        (["splt=train"], "Did you mean 'split'?"),
    ):
        assert main(["collect", "alfworld", *map(str, out), "--env-kwargs", *words]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("error: ")
        assert len(error.splitlines()) == 1
    assert not (tmp_path / "logs.hdf5").exists()
