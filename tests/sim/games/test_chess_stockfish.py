"""Stockfish by UCI: games that repeat, and engines that hang, die, or answer what is no move."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from qsft_robot.parts.simulators import build_env, build_expert
from sim.games.chess.env import ChessEndgameEnv
from sim.games.chess.stockfish import PROGRAM_VARIABLE, EngineError, stockfish_program

try:
    stockfish_program()
    MISSING = ""
except FileNotFoundError as error:
    MISSING = str(error)
needs_stockfish = pytest.mark.skipif(bool(MISSING), reason=MISSING)

# An engine that replies with its first legal move, and fails at the move that a file counts down.
ENGINE = """#!{python}
import pathlib, sys, time
sys.path[:] = {path}
from sim.games.chess.notation import read_fen, uci_of
left = pathlib.Path({count!r})
for line in sys.stdin:
    word = line.split()[0]
    if word == "uci":
        print("id name Odd 1\\noption name UCI_Elo type spin min 1350 max 2850\\nuciok")
    elif word == "isready":
        print("readyok")
    elif word == "position":
        fen = line.removeprefix("position fen ").strip()
    elif word == "go":
        n = int(left.read_text())
        left.write_text(str(n - 1))
        if n == 0 and {fault!r} == "hangs":
            time.sleep(60)
        if n == 0 and {fault!r} == "dies":
            sys.exit(1)
        odd = {{"illegal": "e9e4", "none": "(none)", "silent": ""}}
        move = odd.get({fault!r}) if n == 0 else uci_of(read_fen(fen).moves[0])
        print("bestmove", move)
    sys.stdout.flush()
"""


@pytest.fixture
def odd_engine(tmp_path, monkeypatch):
    """Makes the engine of the environment one with a fault at some move of its."""

    def install(fault, moves_before):
        count, program = tmp_path / "left", tmp_path / "engine"
        count.write_text(str(moves_before))
        path = [*sys.path]
        program.write_text(
            ENGINE.format(python=sys.executable, path=path, count=str(count), fault=fault)
        )
        program.chmod(0o755)
        monkeypatch.setenv(PROGRAM_VARIABLE, str(program))
        return program

    return install


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("dies", "died; the game is lost"),
        ("hangs", "said no bestmove in 0.5 s"),
        ("illegal", "answered 'e9e4', which is no legal move in '"),
        ("none", r"answered '\(none\)'"),
        ("silent", "said 'bestmove'"),
    ],
)
def test_a_failing_engine_loses_its_game_and_the_next_one_has_a_fresh_process(
    odd_engine, fault, said
):
    odd_engine(fault, 1)
    env = ChessEndgameEnv("KRRK", opponent="stockfish")
    env.stockfish.answer_s = 30.0
    env.reset(seed=0)
    env.step(env.commands[0])
    first = env.stockfish.pid
    env.stockfish.answer_s = 0.5 if fault == "hangs" else 30.0
    with pytest.raises(EngineError, match=said):
        env.step(env.commands[0])
    assert env.stockfish.pid is None
    with pytest.raises(RuntimeError, match="call reset first"):
        env.step("K a 1")
    env.stockfish.answer_s = 30.0
    env.reset(seed=0)
    env.step(env.commands[0])
    assert env.stockfish.pid not in (None, first)
    env.close()
    assert env.stockfish.pid is None


def test_an_elo_that_the_engine_does_not_play_is_refused(odd_engine):
    odd_engine("dies", 1)
    env = ChessEndgameEnv("KRK", opponent="stockfish", elo=1200)
    with pytest.raises(ValueError, match="elo 1200: Odd 1 plays 1350 to 2850"):
        env.reset(seed=0)
    env.close()


def test_a_missing_engine_is_answered_with_the_install_line(monkeypatch):
    monkeypatch.setenv(PROGRAM_VARIABLE, "/nowhere/stockfish")
    with pytest.raises(OSError, match=r"sudo apt-get install stockfish, or name the program"):
        build_env({"env_name": "chess_endgames", "env_kwargs": {"opponent": "stockfish"}})


def test_a_program_that_is_no_engine_is_answered(monkeypatch):
    monkeypatch.setenv(PROGRAM_VARIABLE, "true")  # ends at once
    env = ChessEndgameEnv("KRK", opponent="stockfish")
    begun = time.monotonic()
    with pytest.raises(EngineError, match="died"):
        env.reset(seed=0)
    assert time.monotonic() - begun < 20


@needs_stockfish
def test_stockfish_wins_and_the_same_seed_gives_the_same_game():
    env = ChessEndgameEnv("KQK", opponent="stockfish", nodes=2000)

    def fens(seed):
        said, _ = env.reset(seed=seed)
        actor = build_expert(env, None, 0.2, np.random.default_rng(seed))
        found, over = [said["fen"]], False
        while not over:
            said, _, ended, cut, info = env.step(actor.act())
            found.append(said["fen"])
            over = ended or cut
        return found, info["success"]

    games = [fens(seed) for seed in range(4)]
    assert sum(won for _, won in games) >= 2
    assert games == [fens(seed) for seed in range(4)]
    env.close()
