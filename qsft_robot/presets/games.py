"""Presets and recipes of language games: text commands, a reward a step."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart

# Shared by the presets. A return is the sum of all rewards to the end.
_SHARED: dict[str, Any] = {
    "discount": 1.0,
    "data.state_keys": (),
    "tokenizer.kind": "commands",
    "tokenizer.free": True,
    "model.width": 128,
    "model.depth": 3,
    "model.dropout": 0.0,
    "optim.batch_size": 64,
    "optim.behavior_steps": 2000,
    "optim.value_steps": 4000,
    "optim.learning_rate": 1e-3,
    "optim.value_learning_rate": 1e-3,
}
_WORDLE: dict[str, Any] = {"data.return_low": -6.0, "data.return_high": 0.0}
# The board tells all; whole words are compared, since the likeliest letters make no likely word.
_BOARD: dict[str, Any] = {
    "data.state_keys": ("board",),
    "model.text_history": 0,
    "model.width": 256,
    "model.depth": 2,
    "optim.batch_size": 256,
    "acting.candidates": 256,
    "acting.judge": "likelihood",
    "acting.min_p": 0.0,
    "acting.temperature": 0.7,
}
# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Letters as tokens, any letters; --tokenizer.closed leaves only the words of the logs.
    "games/wordle": {
        **_SHARED,
        **_WORDLE,
        **_BOARD,
        "model.name": "perceptron",
        "model.dropout": 0.1,
        "optim.behavior_steps": 4000,
        "optim.value_steps": 3000,
    },
    # Only words of the logs, each scored whole: a perceptron that says letter after letter has to
    # learn for every beginning which words that fit begin so.
    "games/wordle_closed": {
        **_SHARED,
        **_WORDLE,
        **_BOARD,
        "tokenizer.closed": True,
        "model.name": "whole_commands",
        "model.dropout": 0.2,
        "optim.behavior_steps": 2500,
        "optim.value_steps": 1500,
    },
    # The same from text alone, for pretrained language models.
    "games/wordle_text": {
        **_SHARED,
        **_WORDLE,
        "data.text_keys": ("feedback",),
        "model.text_history": 6,
        "model.text_length": 160,
    },
    # Words of questions as tokens, any words; --tokenizer.closed leaves only what the logs asked.
    "games/twenty_questions": {
        **_SHARED,
        "data.text_keys": ("feedback",),
        "data.return_low": -20.0,
        "data.return_high": 0.0,
        "model.text_history": 20,
        "model.frame_text_length": 4,
    },
    # Any characters of moves; --tokenizer.no-free leaves only the legal moves.
    "games/chess_endgames": {
        **_SHARED,
        "data.state_keys": ("board",),
        "discount": 0.97,
    },
}


def _chess(opponent: str, said: str) -> Recipe:
    # The noise is the share of moves drawn at random: 1 - p of LMRL-Gym's data policy.
    return Recipe(
        f"chess endgames: half of White's moves best, half any, against {said}",
        "chess_endgames",
        {"opponent": opponent},
        (RecipePart(1.0, {"expert": 1.0}, 0.5),),
        episodes=10_000,
    )


RECIPES: dict[str, Recipe] = {
    # The noise is the share of guesses drawn at random: 1 - p of LMRL-Gym's data policy.
    "games/wordle": Recipe(
        "Wordle: a third of the guesses fits what is known, the others are any word",
        "wordle",
        {},
        (RecipePart(1.0, {"consistent": 1.0}, 0.67),),
        episodes=20_000,
    ),
    # Askers of all kinds, each of them wrong in a good part of its turns.
    "games/twenty_questions": Recipe(
        "Twenty Questions: askers by halving, by category and at random, with errors",
        "twenty_questions",
        {},
        (RecipePart(1.0, {"expert": 0.2, "category_first": 0.3, "random_question": 0.5}, 0.7),),
        episodes=20_000,
    ),
    "games/chess_endgames": _chess("exact", "a lone king that holds out longest"),
    "games/chess_endgames_stockfish": _chess("stockfish", "Stockfish (which has to be installed)"),
}
