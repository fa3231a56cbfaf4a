"""Twenty Questions as a gymnasium.Env: a question or a guess in, yes or no out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.argument_kinds import checked_arguments
from sim.games.twenty_questions.rules import TURNS, Knowledge
from sim.games.twenty_questions.table import GUESS, UNSURE, YES, plain, read_names, read_table

ENV_NAME = "twenty_questions"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
INSTRUCTION = "find out which object it is in twenty questions or guesses"
BEGIN, UNKNOWN = "Questions:", "I don't understand."
ANSWERS = ("No.", "Yes.")
# all: every possible object; train: four of five of them; held_out: every fifth.
SPLITS = ("all", "train", "held_out")
_CHARACTERS = frozenset(string.printable)
_TEXT_LENGTH = 400


class TwentyQuestionsEnv(gymnasium.Env[dict[str, Any], str]):
    """One hidden object an episode, twenty turns.

    Action, str: a question of the table ("is it an animal") or a guess ("guess bear"), in whatever
    case and punctuation. Observation: `feedback`, str, "Yes.", "No." or that it was not understood,
    which costs a turn all the same (info["invalid_command"]); `answers`, float32 [questions +
    possible objects + 1], all that was said: 1 for a yes, -1 for a no and for a wrong guess, 0 for
    what was not asked, and the share of the turns that are over. Reward 0 for the right guess, else
    -1. The episode ends with the right guess or the twentieth turn.
    `table`: see read_table. `objects`: file of the names that may be hidden; None for all of the
    table. `split`: which of them are hidden, see SPLITS. `unsure`: see rules.UNSURE_RULES.
    The seed of a reset alone determines object and coins. Reset option: `object`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012 (gymnasium's own)
    control_hz = 1.0  # how fast videos play
    packages = ()  # nothing but numpy takes part

    def __init__(
        self,
        table: str | None = None,
        *,
        objects: str | None = None,
        split: str = "all",
        unsure: str = "no",
        max_steps: int = TURNS,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps {max_steps} must be at least 1.")
        if split not in SPLITS:
            raise ValueError(
                f"Twenty Questions has no split {split!r}; there are: {', '.join(SPLITS)}."
            )
        self.table = read_table(table)
        everything = np.arange(len(self.table.objects))
        possible = everything if objects is None else read_names(objects, self.table)
        # What a player has to reckon with is the same in every split.
        self.knowledge = Knowledge(self.table, unsure, possible)
        fifth = np.arange(len(possible)) % 5 == 4
        self.hidden = possible[{"all": fifth | True, "train": ~fifth, "held_out": fifth}[split]]
        if not len(self.hidden):
            raise ValueError(f"split {split}: none of {len(possible)} objects.")
        self.max_steps, self.terminate_on_success = int(max_steps), terminate_on_success
        self.render_mode = render_mode
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "type": ENV_TYPE,
            "env_kwargs": {
                "table": None if table is None else str(Path(table).expanduser().resolve()),
                "objects": None if objects is None else str(Path(objects).expanduser().resolve()),
                "split": split,
                "unsure": unsure,
                "max_steps": self.max_steps,
            },
            # What the logs were played with; not needed to build the environment.
            "answers": {
                "objects": len(possible),
                "questions": len(self.table.questions),
                "sha256": self.table.fingerprint,
            },
        }
        self._question = {text: i for i, text in enumerate(self.table.questions)}
        self._object = {name: i for i, name in enumerate(self.table.objects)}
        # What a player may know: questions with their answers, and wrong guesses.
        self.said: list[tuple[int, bool]] = []
        self.guessed: list[int] = []
        self.object = -1
        self._turns: list[tuple[str, str]] = []
        self._playing = self._won = False
        self._coins = np.zeros(0, bool)
        self.action_space = spaces.Text(_TEXT_LENGTH, charset=_CHARACTERS)
        self.observation_space = spaces.Dict(
            {
                "feedback": spaces.Text(_TEXT_LENGTH, charset=_CHARACTERS),
                "answers": spaces.Box(-1.0, 1.0, (self._told().size,), np.float32),
            }
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Choose the object that the seed or the option `object` names; ValueError on others."""
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - {"object"}):
            raise ValueError(
                f"Unknown reset options {unknown} of twenty_questions; there is: object."
            )
        options = checked_arguments("reset options of twenty_questions", {"object": str}, options)
        drawn = int(self.hidden[int(self.np_random.integers(len(self.hidden)))])
        self._coins = self.np_random.random(len(self.table.questions)) < 0.5
        name = options.get("object", self.table.objects[drawn])
        if plain(name) not in self._object:
            raise ValueError(
                f"The object {name!r} is none of the {len(self._object)} objects of the table."
            )
        self.object = self._object[plain(name)]
        self.said, self.guessed, self._turns = [], [], []
        self._playing, self._won = True, False
        return {"feedback": BEGIN, "answers": self._told()}, self._info(False)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Ask or guess."""
        if not self._playing:
            raise RuntimeError("No game of Twenty Questions is running; call reset first.")
        text = plain(str(action))
        won_before = self._won
        feedback = self._answer(text)
        self._turns.append((text, feedback))
        right = text == f"{GUESS} {self.table.objects[self.object]}"
        self._won |= right
        reward = 0.0 if right or won_before else -1.0  # turns after the end change no return
        terminated = self._won and self.terminate_on_success
        truncated = not terminated and len(self._turns) >= self.max_steps
        self._playing = not (terminated or truncated)
        return (
            {"feedback": feedback, "answers": self._told()},
            reward,
            terminated,
            truncated,
            self._info(feedback == UNKNOWN),
        )

    def render(self) -> np.ndarray:
        """The turns so far, uint8 [256, 256, 3]."""
        from sim.games.twenty_questions.page import draw_turns

        return draw_turns(self._turns)

    def _answer(self, text: str) -> str:
        if text in self._question:
            question = self._question[text]
            code = self.table.answers[self.object, question]
            answer = code == YES
            if code == UNSURE and self.knowledge.unsure == "coin":
                answer = bool(self._coins[question])
            self.said.append((question, bool(answer)))
            return ANSWERS[int(answer)]
        guess = self._object.get(text.removeprefix(f"{GUESS} "), -1)
        if not text.startswith(f"{GUESS} ") or guess < 0:
            return UNKNOWN
        if guess != self.object:
            self.guessed.append(guess)
        return ANSWERS[int(guess == self.object)]

    def _told(self) -> np.ndarray:
        """The observation `answers`."""
        questions = len(self.table.questions)
        told = np.zeros(questions + len(self.knowledge.possible) + 1, np.float32)
        for question, answer in self.said:
            told[question] = 1.0 if answer else -1.0
        told[questions:-1][np.isin(self.knowledge.possible, self.guessed)] = -1.0
        told[-1] = len(self._turns) / self.max_steps
        return told

    def _info(self, invalid: bool) -> dict[str, Any]:
        return {
            "instruction": INSTRUCTION,
            "success": self._won,
            "object": self.table.objects[self.object],
            "invalid_command": invalid,
        }


ENVIRONMENT = TwentyQuestionsEnv
