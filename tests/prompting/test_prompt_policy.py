"""Prompted models: what they are shown is true, what they say is read, and episodes count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qsft_robot.cli import main
from qsft_robot.files import read_json
from qsft_robot.logs.writer import write_demonstrations
from qsft_robot.parts.simulators import build_env
from qsft_robot.prompting.config import PromptConfig
from qsft_robot.prompting.policy import PromptPolicy, read_commands
from qsft_robot.prompting.transcript import (
    COMMAND,
    THOUGHT,
    matched,
    said_in,
    told_of,
    worked_example,
)
from qsft_robot.types import Episode, Observation
from tests.prompting.test_address import chat, serve  # noqa: F401

WORLDS = {
    "wordle": ({}, {"word": "ocean"}),
    "twenty_questions": ({}, {"object": "guitar"}),
    "chess_endgames": ({}, {"fen": "7k/5K2/8/8/8/8/6Q1/8 w - - 0 1"}),
    "webshop": ({"links": "rank"}, {"goal": 0}),
}


@pytest.mark.parametrize("world", WORLDS)
def test_a_worked_example_is_what_its_environment_says(world):
    if world == "webshop":
        pytest.importorskip("bm25s")
    kwargs, options = WORLDS[world]
    env = build_env({"env_name": world, "env_kwargs": kwargs})
    (shown,) = worked_example(world)
    seen, info = env.reset(seed=0, options=options)
    assert shown.instruction == info["instruction"]
    for turn in shown.turns:
        texts = {key: x for key, x in seen.items() if isinstance(x, str)}
        assert told_of(texts, ()) == turn.told
        assert turn.thought
        seen, _, _, _, info = env.step(turn.command)
        assert not info["invalid_command"]
    assert info["success"]
    env.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("act: raise", ("", "raise")),
        ("think: so\nact: raise", ("so", "raise")),
        ("Think: so\n\n**Act: raise**\nthen", ("so", "raise")),
        ("`raise`", ("", "raise")),
        ("\n  raise \nmore", ("", "raise")),
        ("think: only", ("only", "")),
        ("", ("", "")),
    ],
)
def test_thought_and_command_are_read_from_an_answer(answer, said):
    assert said_in(answer) == said


def test_a_command_of_a_list_is_found_by_its_letters():
    assert matched("Raise", ["r a i s e", "o c e a n"]) == "r a i s e"
    assert matched("raised", ["r a i s e"]) == "raised"


def logs(path, count=3):
    """Games of one guess and more; the longest is the worst."""
    games = []
    for i in range(count):
        told = np.array(["Wordle:", *["b b b b b"] * (i + 1)], object)
        rewards = np.array([-1.0] * i + [0.0], np.float32)
        games.append(
            Episode(
                f"demo_{i}", {}, np.array([f"w o r d {i}"] * (i + 1), object), rewards, True, False,
                True, "find it", {}, {"feedback": told},
            )
        )  # fmt: skip
    write_demonstrations(path, games, {"env_name": "wordle"})
    return path


class Repeats:
    """A model of a given room that says the last line it was shown, and keeps what it was told."""

    def __init__(self, length=None):
        self.length, self.told = length, []

    def count(self, text):
        return len(text.split())

    def likeliest(self, text, lines):
        self.told.append(text)
        return len(lines) - 1

    def write(self, text, most, temperature, generator):
        self.told.append(text)
        return "a thought" if text.endswith(THOUGHT) else "o c e a n"


def observation(told="Wordle:", **texts):
    return Observation({}, {}, "find it", {"feedback": told, **texts})


def policy(model, **settings):
    return PromptPolicy(PromptConfig(model="x", **settings), "wordle", model)


def test_the_best_logs_are_shown_and_their_commands_are_the_list(tmp_path):
    model = Repeats()
    acts = policy(model, examples=logs(tmp_path / "a.hdf5"), shots=2)
    memory = acts.begin_episode(5)
    assert acts.infer_batch([observation()], [memory])[0].actions.tolist() == ["w o r d 2"]
    (told,) = model.told
    assert told.count(f"{COMMAND} w o r d 0") == 1
    assert told.count(f"{COMMAND} w o r d 1") == 2
    assert "w o r d 2" not in told
    assert told.endswith(f"> Wordle:\n{COMMAND}")
    acts.infer_batch([observation("y b b b b")], [memory])
    assert model.told[1].endswith(f"{COMMAND} w o r d 2\n> y b b b b\n{COMMAND}")


def test_an_observations_own_list_comes_first_and_thoughts_before_commands():
    model = Repeats()
    acts = policy(model, thoughts=True)
    seen = observation(admissible_commands="go\nstay")
    memory = acts.begin_episode(0)
    assert acts.infer_batch([seen], [memory])[0].actions.tolist() == ["stay"]
    assert model.told[0].endswith(THOUGHT)
    assert model.told[1] == f"{model.told[0]} a thought\n{COMMAND}"
    assert "c a n o e" in model.told[0]  # the worked example
    assert (memory.turns[0].thought, memory.turns[0].command) == ("a thought", "stay")
    writes = policy(Repeats(), answer="write")
    assert writes.infer_batch([seen], [writes.begin_episode(0)])[0].actions.tolist() == [
        "o c e a n"
    ]


def test_what_does_not_fit_is_left_out_and_one_that_never_fits_is_named():
    model = Repeats(length=160)
    acts = policy(model, answer="write", tokens=4)
    memory = acts.begin_episode(0)
    for i in range(30):
        acts.infer_batch([observation(f"answer {i} " + "word " * 10)], [memory])
    assert model.count(model.told[-1]) <= 152
    assert "answer 29" in model.told[-1]
    assert "answer 2 " not in model.told[-1]
    with pytest.raises(ValueError, match=r"longer than the 160 tokens.*--prompt.text-keys"):
        acts.infer_batch([observation("word " * 500)], [acts.begin_episode(1)])


def test_lists_and_settings_that_make_no_sense_are_refused(tmp_path):
    for content, words in (
        ("a\nb\na\n", "line 3: 'a' stands in line 1"),
        ("\n \n", "no command"),
    ):
        (tmp_path / "list").write_text(content)
        with pytest.raises(ValueError, match=words):
            read_commands(tmp_path / "list")
    (tmp_path / "list").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="no UTF-8"):
        read_commands(tmp_path / "list")
    for settings, words in (
        ({}, "--prompt.model names"),
        ({"model": "x", "url": "http://a", "answer": "score"}, "--prompt.answer write"),
        ({"model": "x", "token_file": tmp_path}, "is for an address"),
        ({"model": "x", "tokens": 0}, "--prompt.tokens"),
    ):
        with pytest.raises(ValueError, match=words):
            PromptConfig(**settings)
    acts = policy(Repeats(), answer="score")
    with pytest.raises(ValueError, match="lists no commands"):
        acts.infer_batch([observation()], [acts.begin_episode(0)])
    with pytest.raises(ValueError, match=r"no such text; there are: feedback"):
        told_of({"feedback": "x"}, ["page"])


def test_a_model_behind_an_address_plays_whole_games(tmp_path, serve, capsys):  # noqa: F811
    server = serve(chat("think: a word\nact: C R A N E"))
    token = tmp_path / "token"
    token.write_text("secret\n")
    out = tmp_path / "out"
    words = ["prompt", "games/wordle", "--prompt.url", server.url, "--prompt.model", "small",
             "--prompt.thoughts", "--prompt.token-file", str(token), "--out", str(out),
             "--episodes", "3", "--max-steps", "2"]  # fmt: skip
    assert main(words) == 0
    assert "mean return -2 [-2, -2]" in capsys.readouterr().out
    summary = read_json(out / "evaluation" / "policy" / "summary.json")
    assert (summary["n"], summary["mean_return"]) == (3, -2)
    assert summary["seeds"] == [100000, 100001, 100002]
    assert summary["refused_commands"]["count"] == 0
    lines = (out / "evaluation" / "policy" / "transcript.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert len(told) == len(server.seen) == 6
    assert {(x["thought"], x["command"]) for x in told} == {("a word", "C R A N E")}
    assert {x["step"] for x in told} == {0, 1}
    assert all(headers["Authorization"] == "Bearer secret" for _, headers, _ in server.seen)
    said = server.seen[0][2]["messages"][1]["content"]
    assert said.endswith(f"> Wordle:\n{THOUGHT}")


def test_an_address_that_answers_garbage_is_one_line(tmp_path, serve, capsys):  # noqa: F811
    server = serve(b"<html>")
    words = ["prompt", "games/wordle", "--prompt.url", server.url, "--prompt.model", "small",
             "--out", str(tmp_path / "out"), "--episodes", "1"]  # fmt: skip
    assert main(words) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: {server.url}: no answer of a chat")
