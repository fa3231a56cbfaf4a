"""Players of Wordle for logs: the guess of most information, and random words that fit."""

from __future__ import annotations

import numpy as np

from sim.games.wordle.env import WordleEnv

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "consistent": "any word that fits all colors so far, not the one that tells most",
}


class WordlePlayer:
    """Plays one episode by what was said alone.

    `noise` is the share of guesses that are any word of the list: "consistent" with a noise of .67
    is LMRL-Gym's data policy with p = .33.
    """

    done = False  # it never ends a log early

    def __init__(
        self, env: WordleEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.failure, self.noise, self.rng = env, failure, noise, rng

    def act(self) -> str:
        """The next guess, with spaces between the letters."""
        table = self.env.table
        if self.rng.random() < self.noise:
            guess = int(self.rng.integers(len(table.words)))
        else:
            fitting = table.consistent(self.env.guesses)
            if self.failure == "consistent":
                guess = int(fitting[int(self.rng.integers(len(fitting)))])
            else:
                guess = table.most_informative(fitting)
        return " ".join(table.words[guess])


def build_expert(
    env: WordleEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> WordlePlayer:
    """The player of the episode that `env` has just started; `noise` in [0, 1] is the share of
    guesses that are any word."""
    if failure is not None and failure not in FAILURE_MODES:
        raise ValueError(
            f"Wordle has no failure mode {failure!r}; it has: {', '.join(FAILURE_MODES)}."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is the share of random guesses; it lies in [0, 1].")
    return WordlePlayer(env, failure, noise, rng)
