"""Wordle as a gymnasium.Env: five letters in, five colors out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.argument_kinds import checked_arguments
from sim.games.wordle.rules import BOARD_SIZE, GUESSES, WordTable, board, color
from sim.games.wordle.words import LETTERS, fingerprint, read_words

ENV_NAME = "wordle"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
INSTRUCTION = "find the hidden word of five letters in six guesses"
BEGIN, UNKNOWN = "Wordle:", "not in the word list"
_CHARACTERS = frozenset(string.printable)
_TEXT_LENGTH = 200


class WordleEnv(gymnasium.Env[dict[str, Any], str]):
    """One hidden word an episode, six guesses.

    Action, str: a word of the list, its letters with or without spaces between, e.g. "r a i s e".
    Observation: `feedback`, str, the colors of the last guess ("b y g b b"); `marks`, str, the same
    with the letters and their places, one word a place ("r1b a2y i3g s4b e5b"), for models that
    read a text as a bag of words; `board`, float32 [162], what all guesses told (see
    `rules.board`). Reward 0 for the hidden word, -1 for any other,
    `outside_reward` for what is not in the list, which costs a guess and is told as such
    (info["invalid_command"]). The episode ends with the hidden word or the sixth guess.
    `words`: file of the list, None for the shipped one. `yellow`: see rules.YELLOW_RULES.
    The seed of a reset alone determines the hidden word. Reset option: `word`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (gymnasium's own)
    control_hz = 1.0  # how fast videos play
    packages = ()  # nothing but numpy takes part

    def __init__(
        self,
        words: str | None = None,
        *,
        yellow: str = "present",
        outside_reward: float = -1.0,
        max_steps: int = GUESSES,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        if not (np.isfinite(outside_reward) and outside_reward <= 0):
            raise ValueError(f"outside_reward {outside_reward} is a penalty: give 0 or less.")
        self.table = WordTable(read_words(words), yellow)
        self.outside_reward, self.max_steps = float(outside_reward), int(max_steps)
        self.terminate_on_success, self.render_mode = terminate_on_success, render_mode
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "type": ENV_TYPE,
            "env_kwargs": {
                "words": None if words is None else str(Path(words).expanduser().resolve()),
                "yellow": yellow,
                "outside_reward": self.outside_reward,
                "max_steps": self.max_steps,
            },
            # What the logs were played with; not needed to build the environment.
            "word_list": {
                "number": len(self.table.words),
                "sha256": fingerprint(self.table.words),
            },
        }
        # Guesses and their colors, "" for a guess outside of the list; what a player may know.
        self.guesses: list[tuple[str, str]] = []
        self.word = ""
        self._playing = self._won = False
        self.action_space = spaces.Text(_TEXT_LENGTH, charset=_CHARACTERS)
        texts = {
            key: spaces.Text(_TEXT_LENGTH, min_length=0, charset=_CHARACTERS)
            for key in ("feedback", "marks")
        }
        self.observation_space = spaces.Dict(
            {**texts, "board": spaces.Box(-1.0, 1.0, (BOARD_SIZE,), np.float32)}
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Hide the word that the seed or the option `word` names; ValueError on other options."""
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - {"word"}):
            raise ValueError(f"Unknown reset options {unknown} of wordle; there is: word.")
        options = checked_arguments("reset options of wordle", {"word": str}, options)
        drawn = self.table.words[int(self.np_random.integers(len(self.table.words)))]
        self.word = options.get("word", drawn)
        if self.word not in self.table.index:
            raise ValueError(
                f"The word {self.word!r} is none of the {len(self.table.words)} words of the list."
            )
        self.guesses, self._playing, self._won = [], True, False
        return self._observation(), self._info(False)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Make one guess."""
        if not self._playing:
            raise RuntimeError("No game of Wordle is running; call reset first.")
        guess = "".join(str(action).split()).lower()
        outside = guess not in self.table.index
        self.guesses.append((guess, "" if outside else color(guess, self.word, self.table.rule)))
        won_before, self._won = self._won, self._won or guess == self.word
        reward = self.outside_reward if outside else float(guess == self.word) - 1.0
        if won_before:  # guesses after the end change no return
            reward = 0.0
        terminated = self._won and self.terminate_on_success
        truncated = not terminated and len(self.guesses) >= self.max_steps
        self._playing = not (terminated or truncated)
        return self._observation(), reward, terminated, truncated, self._info(outside)

    def render(self) -> np.ndarray:
        """The board, uint8 [256, 256, 3]."""
        from sim.games.wordle.board import draw_board

        return draw_board(self.guesses, self.max_steps)

    def _observation(self) -> dict[str, Any]:
        told = board(self.guesses)
        if not self.guesses:
            return {"feedback": BEGIN, "marks": "", "board": told}
        guess, colors = self.guesses[-1]
        if not colors:
            return {"feedback": UNKNOWN, "marks": UNKNOWN, "board": told}
        places = range(1, LETTERS + 1)
        marks = [f"{x}{place}{c}" for x, place, c in zip(guess, places, colors, strict=True)]
        return {"feedback": " ".join(colors), "marks": " ".join(marks), "board": told}

    def _info(self, outside: bool) -> dict[str, Any]:
        return {
            "instruction": INSTRUCTION,
            "success": self._won,
            "word": self.word,
            "invalid_command": outside,
        }


ENVIRONMENT = WordleEnv
