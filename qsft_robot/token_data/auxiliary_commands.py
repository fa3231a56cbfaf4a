"""Admissible commands at each row of text logs, as targets of an auxiliary task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from qsft_robot.types import ADMISSIBLE, Episode

# A beginning has to be admissible, and not admissible, at this share of the rows to be told.
_RARE = 0.001


def command_columns(episodes: Sequence[Episode]) -> Float32[np.ndarray, "R a"]:
    """Numbers of every observation row (t + 1 a log), each of zero mean.

    One a beginning of two words ("take mug"): whether an admissible command has it. One a verb:
    whether a command of it begins its second word with one that the instruction has, so that image
    tokens which hear the instruction learn to look for what it names. The two kinds weigh the same
    in a mean over the columns. ValueError where the logs list no commands, or always the same.
    """
    for episode in episodes:
        if ADMISSIBLE not in episode.texts:
            raise ValueError(
                f"--data.auxiliary-commands: {episode.name} has no text {ADMISSIBLE}, the commands "
                "that could be given."
            )
    texts = dict.fromkeys(text for e in episodes for text in e.texts[ADMISSIBLE])
    pairs = {text: _pairs(text) for text in texts}
    known = sorted({pair for found in pairs.values() for pair in found})
    verbs = sorted({verb for verb, _ in known})
    place = {pair: i for i, pair in enumerate(known)}
    place_of_verb = {verb: i for i, verb in enumerate(verbs)}
    rows = sum(len(e) + 1 for e in episodes)
    can = np.zeros((rows, len(known)), np.float32)
    named = np.zeros((rows, len(verbs)), np.float32)
    row = 0
    for episode in episodes:
        asked = set(episode.instruction.lower().split())
        for text in episode.texts[ADMISSIBLE]:
            for pair in pairs[text]:
                can[row, place[pair]] = 1.0
                if pair[1] in asked:
                    named[row, place_of_verb[pair[0]]] = 1.0
            row += 1
    parts = [part for part in map(_standardized, (can, named)) if part.shape[1]]
    if not parts:
        raise ValueError(
            "--data.auxiliary-commands: the same commands are admissible everywhere, so there is "
            "nothing to tell."
        )
    columns = sum(part.shape[1] for part in parts)
    weighed = [part * (columns / (len(parts) * part.shape[1])) ** 0.5 for part in parts]
    return np.concatenate(weighed, 1)


def _pairs(text: str) -> list[tuple[str, str]]:
    """The first two words of each command that has so many, each pair once."""
    words = [line.split(maxsplit=2) for line in text.split("\n")]
    return list(dict.fromkeys((line[0], line[1]) for line in words if len(line) > 1))


def _standardized(table: np.ndarray) -> Float32[np.ndarray, "R a"]:
    """Zero mean and unit deviation, without the columns that are (almost) always the same."""
    mean = table.mean(0, dtype=np.float64)
    table = table[:, np.minimum(mean, 1 - mean) > _RARE]
    return (table - table.mean(0)) / table.std(0)
