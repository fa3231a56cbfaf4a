"""What is known in a game of Twenty Questions, and the question that halves what fits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from sim.games.twenty_questions.table import NO, UNSURE, YES, AnswerTable

TURNS = 20
# An UNSURE answer is no, or tossed anew for each game (and the same whenever it is asked again).
UNSURE_RULES = ("no", "coin")


class Knowledge:
    """The objects of a table that fit what was said, by number."""

    def __init__(self, table: AnswerTable, unsure: str, possible: np.ndarray) -> None:
        if unsure not in UNSURE_RULES:
            raise ValueError(
                f"Twenty Questions has no rule {unsure!r} for unsure answers; there are: "
                f"{', '.join(UNSURE_RULES)}."
            )
        self.table, self.unsure, self.possible = table, unsure, possible
        answers = table.answers if unsure == "coin" else np.where(table.answers == YES, YES, NO)
        # Chance of a yes, [object, question].
        self.yes = np.where(answers == UNSURE, 0.5, (answers == YES).astype(np.float64))
        self._halves: dict[bytes, int] = {}

    def fitting(self, said: Iterable[tuple[int, bool]], guessed: Iterable[int] = ()) -> np.ndarray:
        """Numbers of the possible objects that could have answered so, without wrong guesses."""
        fits = np.zeros(len(self.table.objects), bool)
        fits[self.possible] = True
        for question, answer in said:
            fits &= self.yes[:, question] > 0 if answer else self.yes[:, question] < 1
        fits[list(guessed)] = False
        return np.flatnonzero(fits)

    def halving(self, fitting: np.ndarray) -> int | None:
        """The question whose answer tells most about objects that are equally likely, the first of
        several; None where none tells anything."""
        key = fitting.tobytes()
        if key not in self._halves:
            yes = self.yes[fitting]
            told = _bits(yes.mean(0)) - _bits(yes).mean(0)
            best = int(np.flatnonzero(told > told.max() - 1e-9)[0])
            self._halves[key] = best if told[best] > 1e-9 else -1
        found = self._halves[key]
        return None if found < 0 else found

    def best_return(self) -> float:
        """The mean return over all possible objects of halving until two fit, then guessing; for
        answers without a coin."""
        if self.unsure == "coin":
            raise ValueError("with a coin the mean is over games: play them.")
        return -self._lost(self.possible, TURNS) / len(self.possible)

    def _lost(self, fitting: np.ndarray, turns: int) -> int:
        """Turns that all of these objects cost together."""
        if turns == 0 or len(fitting) == 0:
            return 0
        question = None if len(fitting) <= 2 else self.halving(fitting)
        if question is None:  # guess the first
            return len(fitting) - 1 + self._lost(fitting[1:], turns - 1)
        yes = self.yes[fitting, question] > 0.5
        return len(fitting) + sum(
            self._lost(part, turns - 1) for part in (fitting[yes], fitting[~yes])
        )


def _bits(p: np.ndarray) -> np.ndarray:
    """Entropy of a yes or no of this chance, in bits."""
    q = 1 - p
    return -sum(
        x * np.log2(x, out=np.zeros_like(x), where=x > 0) for x in (np.asarray(p), np.asarray(q))
    )
