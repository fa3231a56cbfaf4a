"""The player of chess endgames for logs: the best move, or any."""

from __future__ import annotations

import numpy as np

from sim.games.chess.env import ChessEndgameEnv
from sim.games.chess.notation import command_of

# name -> what goes wrong, in plain words; the noise is all that does
FAILURE_MODES: dict[str, str] = {}


class ChessPlayer:
    """Plays one episode; `noise` is the share of moves that are any legal one. With Stockfish as
    opponent it is LMRL-Gym's data policy: Stockfish's move with chance 1 - noise."""

    done = False  # it never ends a log early

    def __init__(self, env: ChessEndgameEnv, noise: float, rng: np.random.Generator) -> None:
        self.env, self.noise, self.rng = env, noise, rng

    def act(self) -> str:
        """The next move, in the environment's notation."""
        position = self.env.position
        if self.rng.random() < self.noise:
            move = position.moves[int(self.rng.integers(len(position.moves)))]
        else:
            move = self.env.best(self.rng)
        return command_of(position, move, self.env.notation)


def build_expert(
    env: ChessEndgameEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> ChessPlayer:
    """The player of the episode that `env` has just started; `noise` in [0, 1] is the share of
    moves that are any legal one."""
    if failure is not None:
        raise ValueError(f"Chess has no failure mode {failure!r}: random moves are its noise.")
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is the share of random moves; it lies in [0, 1].")
    return ChessPlayer(env, noise, rng)
