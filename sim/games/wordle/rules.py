"""Wordle's rules on whole word lists: colors, consistent words, and the guess of most information.

Colors are one letter a place: g (the letter stands there), y (elsewhere), b (not in the word).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

BLACK, YELLOW, GREEN = range(3)
COLORS = "byg"
GUESSES = 6
# How a letter is colored that the guess has more often than the word.
# present: yellow wherever the word has it anywhere (LMRL-Gym). counted: green and yellow together
# as often as the word has it, green first, then from the left (the published game).
YELLOW_RULES = ("present", "counted")
_PLACES = 5
BOARD_SIZE = 26 * _PLACES + 26 + GUESSES
_POWERS = 3 ** np.arange(_PLACES)


def color(guess: str, word: str, rule: str = "present") -> str:
    """The colors of a guess, e.g. "bygbb"; both have five letters."""
    if rule == "present":
        return "".join(
            "g" if letter == word[i] else "y" if letter in word else "b"
            for i, letter in enumerate(guess)
        )
    left = [letter for letter, other in zip(word, guess, strict=True) if letter != other]
    found = []
    for letter, other in zip(guess, word, strict=True):
        if letter == other:
            found.append("g")
        elif letter in left:
            left.remove(letter)
            found.append("y")
        else:
            found.append("b")
    return "".join(found)


def board(guesses: Iterable[tuple[str, str]]) -> np.ndarray:
    """What guesses and their colors told, float32 [162]: for each letter a to z and each place 1 if
    it stands there, -1 if not, 0 if nothing was said; for each letter 1 if the word has it, -1 if
    not, 0; for each of six guesses 1 if it was made.

    A letter that is black while the same guess has it yellow or green elsewhere (the counted rule)
    does not stand at its place, and no more.
    """
    places = np.zeros((26, _PLACES), np.float32)
    has = np.zeros(26, np.float32)
    made = np.zeros(GUESSES, np.float32)
    for number, (guess, colors) in enumerate(guesses):
        made[min(number, GUESSES - 1)] = 1.0
        found = {x for x, c in zip(guess, colors, strict=False) if c != "b"}
        for place, (letter, c) in enumerate(zip(guess, colors, strict=False)):
            number_of = ord(letter) - ord("a")
            if c == "g":
                places[:, place] = -1.0
                places[number_of, place] = 1.0
            elif c == "y" or letter in found:
                places[number_of, place] = -1.0
            else:
                places[number_of] = -1.0
            has[number_of] = 1.0 if letter in found else -1.0
    return np.concatenate([places.ravel(), has, made])


class WordTable:
    """The colors of every guess against every word of one list, as numbers 0 to 242."""

    def __init__(self, words: Sequence[str], rule: str = "present") -> None:
        if rule not in YELLOW_RULES:
            raise ValueError(
                f"Wordle has no yellow rule {rule!r}; there are: {', '.join(YELLOW_RULES)}."
            )
        self.words, self.rule = tuple(words), rule
        self.index = {word: i for i, word in enumerate(self.words)}
        self.codes = _codes(self.words, rule)
        self._best: dict[bytes, int] = {}

    def consistent(self, guesses: Iterable[tuple[str, str]]) -> np.ndarray:
        """Numbers of the words that would have been colored so, for pairs of guess and colors;
        guesses outside of the list were told nothing and say nothing."""
        fits = np.ones(len(self.words), bool)
        for guess, colors in guesses:
            if guess in self.index:
                fits &= self.codes[self.index[guess]] == code_of(colors)
        return np.flatnonzero(fits)

    def most_informative(self, fitting: np.ndarray) -> int:
        """The fitting word whose colors have the largest entropy over the fitting words; the first
        of the list where several have."""
        key = fitting.tobytes()
        if key not in self._best:
            counts = np.zeros((len(fitting), 3**_PLACES))
            codes = self.codes[np.ix_(fitting, fitting)]
            np.add.at(counts, (np.arange(len(fitting))[:, None], codes), 1.0)
            share = counts / len(fitting)
            entropy = -(share * np.log2(share, out=np.zeros_like(share), where=share > 0)).sum(1)
            # Equal but for the order of the sum must not depend on rounding.
            self._best[key] = int(fitting[np.flatnonzero(entropy > entropy.max() - 1e-9)[0]])
        return self._best[key]

    def best_return(self) -> float:
        """The mean return over all hidden words of always guessing `most_informative`."""
        total = 0
        for word in self.words:
            guesses: list[tuple[str, str]] = []
            while len(guesses) < GUESSES and (not guesses or guesses[-1][0] != word):
                guess = self.words[self.most_informative(self.consistent(guesses))]
                guesses.append((guess, color(guess, word, self.rule)))
            total -= len(guesses) - (guesses[-1][0] == word)
        return total / len(self.words)


def code_of(colors: str) -> int:
    """Colors as their number in `WordTable.codes`."""
    return int(sum(COLORS.index(c) * int(power) for c, power in zip(colors, _POWERS, strict=True)))


@lru_cache(maxsize=4)  # environments of one process share it
def _codes(words: tuple[str, ...], rule: str) -> np.ndarray:
    letters = np.array([[ord(c) for c in word] for word in words], np.int16)
    count, step = len(words), max(1, 2_000_000 // len(words))
    codes = np.empty((count, count), np.uint8)
    for start in range(0, count, step):
        some = letters[start : start + step]
        green = some[:, None, :] == letters[None, :, :]  # [guess, word, place]
        found = np.where(green, GREEN, BLACK)
        if rule == "present":
            inside = (some[:, None, :, None] == letters[None, :, None, :]).any(-1)
            found[inside & ~green] = YELLOW
        else:
            free = ~green  # places of the word that no letter of the guess has taken
            for place in range(_PLACES):
                same = (some[:, None, place, None] == letters[None, :, :]) & free
                taken = same.any(-1) & ~green[:, :, place]
                at = same.argmax(-1)
                rows, columns = np.nonzero(taken)
                free[rows, columns, at[rows, columns]] = False
                found[:, :, place][taken] = YELLOW
        codes[start : start + step] = (found * _POWERS).sum(-1)
    return codes
