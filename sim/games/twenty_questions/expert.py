"""Askers of Twenty Questions for logs: by halving, by category, at random, each with errors."""

from __future__ import annotations

import numpy as np

from sim.games.twenty_questions.env import TwentyQuestionsEnv
from sim.games.twenty_questions.table import GUESS

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "category_first": "asks the questions that still tell something in the table's order",
    "random_question": "asks any question again and again, and guesses what fits now and then",
}
# Objects that fit when an asker stops asking, and how often the random one guesses.
_GUESSES_AT, _GUESS_SHARE = 2, 0.3


class Asker:
    """Plays one episode by what was said alone.

    `noise` is the share of turns that err: any question of the table, or one time in four a guess
    of any object.
    """

    done = False  # it never ends a log early

    def __init__(
        self, env: TwentyQuestionsEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.failure, self.noise, self.rng = env, failure, noise, rng

    def act(self) -> str:
        """The next question or guess."""
        table, known = self.env.table, self.env.knowledge
        if self.rng.random() < self.noise:
            if self.rng.random() < 0.25:
                return self._guess(known.possible)
            return self._any_question()
        fitting = known.fitting(self.env.said, self.env.guessed)
        if not len(fitting):  # the object is none of those that may be hidden
            return self._any_question()
        if self.failure == "random_question":
            if self.rng.random() < _GUESS_SHARE:
                return self._guess(fitting)
            return self._any_question()
        question = None if len(fitting) <= _GUESSES_AT else known.halving(fitting)
        if question is None:
            return f"{GUESS} {table.objects[int(fitting[0])]}"
        if self.failure == "category_first":
            share = known.yes[fitting].mean(0)
            question = int(np.flatnonzero((share > 0) & (share < 1))[0])
        return table.questions[question]

    def _any_question(self) -> str:
        questions = self.env.table.questions
        return questions[int(self.rng.integers(len(questions)))]

    def _guess(self, among: np.ndarray) -> str:
        chosen = int(among[int(self.rng.integers(len(among)))])
        return f"{GUESS} {self.env.table.objects[chosen]}"


def build_expert(
    env: TwentyQuestionsEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> Asker:
    """The asker of the episode that `env` has just started; `noise` in [0, 1] is the share of turns
    that err."""
    if failure is not None and failure not in FAILURE_MODES:
        raise ValueError(
            f"Twenty Questions has no failure mode {failure!r}; it has: {', '.join(FAILURE_MODES)}."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is the share of turns that err; it lies in [0, 1].")
    return Asker(env, failure, noise, rng)
