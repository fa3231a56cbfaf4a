"""Chess endgames as a gymnasium.Env: White's moves in, Black's replies out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim.argument_kinds import checked_arguments
from sim.games.chess.notation import (
    NOTATIONS,
    command_of,
    fen_of,
    plain_move,
    read_fen,
    square_name,
    uci_of,
)
from sim.games.chess.position import BLACK, WHITE, Move, Position
from sim.games.chess.positions import fingerprint, read_endings, read_positions
from sim.games.chess.retrograde import ENDINGS, best_moves, pieces_against_a_lone_king, table_of
from sim.games.chess.stockfish import Stockfish

ENV_NAME = "chess_endgames"
ENV_TYPE = 2  # robomimic's number for "some gym environment"
INSTRUCTION = "mate the black king"
MAX_STEPS = 50
# exact: holds out longest (a lone king alone). random: any legal move. stockfish: the program.
OPPONENTS = ("exact", "random", "stockfish")
BOARD_SIZE = 64 * len(WHITE + BLACK)
_CHARACTERS = frozenset(string.printable)
_TEXT_LENGTH = 4000


class ChessEndgameEnv(gymnasium.Env[dict[str, Any], str]):
    """A won ending of king, queen and rook an episode, White to move; Black replies at once.

    Action, str: a move, in SAN with or without spaces between its characters ("R x a 7 +") or as
    UCI's word ("a1a7"). Observation: `fen`, str; `pieces`, str, color, piece and square as a word
    each, for models that read a text as a bag of words ("wkc3 wra1 bkd5"); `board`, float32 [384],
    1 where a square has a piece, a plane each for KQRkqr; `admissible_commands`, str, the legal
    moves, one a line (at the end of a game those of the last move). Reward 1 for mate, -1 for being
    mated and for anything that is no legal move, which changes nothing, takes a step and is told
    (info["invalid_command"]); else 0. An episode ends with mate, stalemate, bare kings, fifty moves
    without a capture, or after `max_steps` moves of White.
    `endings`: names of retrograde.ENDINGS, in turns as the seed has it. `least_moves`: only
    positions in which White, playing best, needs so many moves or more. `positions`: file of FENs
    to begin from, by the seed's number, in place of both. `opponent`: see OPPONENTS. `nodes`,
    `elo`: see Stockfish. The seed of a reset alone determines the position and, but for `elo`, the
    replies. Reset option: `fen`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}  # noqa: RUF012 (gymnasium's own)
    control_hz = 2.0  # how fast videos play
    packages = ()  # nothing but numpy takes part

    def __init__(
        self,
        endings: str = ",".join(ENDINGS),
        *,
        least_moves: int = 1,
        positions: str | None = None,
        notation: str = "san",
        opponent: str = "exact",
        nodes: int = 10_000,
        elo: int | None = None,
        max_steps: int = MAX_STEPS,
        terminate_on_success: bool = True,
        render_mode: str | None = None,
    ) -> None:
        for name, number in (("max_steps", max_steps), ("nodes", nodes)):
            if number < 1:
                raise ValueError(f"{name} {number} must be at least 1.")
        for name, word, known in (
            ("notation", notation, NOTATIONS),
            ("opponent", opponent, OPPONENTS),
        ):
            if word not in known:
                raise ValueError(f"Chess has no {name} {word!r}; there are: {', '.join(known)}.")
        self.endings = () if positions else read_endings(endings, least_moves)
        self.positions = read_positions(positions) if positions else ()
        self.least_moves, self.notation, self.opponent = int(least_moves), notation, opponent
        for position in self.positions:
            self._refuse_unknown(position)
        self.stockfish = Stockfish(int(nodes), elo) if opponent == "stockfish" else None
        self.max_steps, self.terminate_on_success = int(max_steps), terminate_on_success
        self.render_mode = render_mode
        self.env_args: dict[str, Any] = {
            "env_name": ENV_NAME,
            "type": ENV_TYPE,
            "env_kwargs": {
                "endings": endings,
                "least_moves": self.least_moves,
                "positions": positions and str(Path(positions).expanduser().resolve()),
                "notation": notation,
                "opponent": opponent,
                "nodes": int(nodes),
                "elo": elo,
                "max_steps": self.max_steps,
            },
        }
        if self.positions:  # what the logs were played from; not needed to build the environment
            told = {"number": len(self.positions), "sha256": fingerprint(self.positions)}
            self.env_args["position_set"] = told
        self.position = Position("K" + "." * 62 + "k")
        self.commands: tuple[str, ...] = ()
        self._moves: dict[str, Move] = {}
        self.end: str | None = None
        self._last: Move | None = None
        self._steps, self._playing, self._won = 0, False, False
        self.action_space = spaces.Text(_TEXT_LENGTH, charset=_CHARACTERS)
        texts = {
            key: spaces.Text(_TEXT_LENGTH, min_length=0, charset=_CHARACTERS)
            for key in ("fen", "pieces", "admissible_commands")
        }
        self.observation_space = spaces.Dict(
            {**texts, "board": spaces.Box(0.0, 1.0, (BOARD_SIZE,), np.float32)}
        )

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Set up the position of the seed, or of the option `fen`; ValueError on other options,
        EngineError where Stockfish doesn't start."""
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - {"fen"}):
            raise ValueError(f"Unknown reset options {unknown} of {ENV_NAME}; there is: fen.")
        options = checked_arguments(f"reset options of {ENV_NAME}", {"fen": str}, options)
        self._playing = False
        self.position = self._begin(seed, options.get("fen"))
        if self.stockfish is not None:
            self.stockfish.new_game()
        self._steps, self._playing, self._won, self._last, self.end = 0, True, False, None, None
        self._list_commands()
        return self._observation(), self._info(False)

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Make a move; Black replies."""
        if not self._playing:
            raise RuntimeError("No game of chess is running; call reset first.")
        self._steps += 1
        reward, invalid = 0.0, False
        if not self.end:  # moves after the end change nothing
            move = self._moves.get(plain_move(str(action), self.notation))
            invalid = move is None
            reward = -1.0 if move is None else self._play(move)
        terminated = self.end is not None and (self.terminate_on_success or not self._won)
        truncated = not terminated and self._steps >= self.max_steps
        self._playing = not (terminated or truncated)
        return self._observation(), reward, terminated, truncated, self._info(invalid)

    def render(self) -> np.ndarray:
        """The board with the last move, uint8 [256, 256, 3]."""
        from sim.games.chess.board import draw_board

        return draw_board(self.position.board, self._last)

    def close(self) -> None:
        """End Stockfish's process."""
        if self.stockfish is not None:
            self.stockfish.close()
        self._playing = False

    def best(self, rng: np.random.Generator) -> Move:
        """The best move of the side to move: Stockfish's where it plays, else an exact one."""
        if self.stockfish is None:
            moves = best_moves(self.position)
            return moves[int(rng.integers(len(moves)))]
        fen = fen_of(self.position)
        try:
            word = self.stockfish.best_move(fen)
        except RuntimeError:
            self._playing = False
            raise
        move = {uci_of(x): x for x in self.position.moves}.get(word)
        if move is None:
            self._playing = False
            raise self.stockfish.failed(f"answered {word!r}, which is no legal move in {fen!r}")
        return move

    def _play(self, move: Move) -> float:
        """The reward of a legal move and Black's reply."""
        self._last, self.position = move, self.position.after(move)
        self.end = self.position.end
        if self.end is None:
            if self.opponent == "random":
                moves = self.position.moves
                self._last = moves[int(self.np_random.integers(len(moves)))]
            else:
                self._last = self.best(self.np_random)
            self.position = self.position.after(self._last)
            self.end = self.position.end
        self._won = self.end == "checkmate" and not self.position.white_to_move
        if self.end is None:
            self._list_commands()
        return 0.0 if self.end != "checkmate" else 1.0 if self._won else -1.0

    def _begin(self, seed: int | None, fen: str | None) -> Position:
        if fen is not None:
            position = read_fen(fen)
            if not position.white_to_move or position.end:
                raise ValueError(f"{fen!r}: White is to move, in a game that is not over.")
            self._refuse_unknown(position)
            return position
        if self.positions:
            turn = int(self.np_random.integers(2**31)) if seed is None else int(seed)
            return self.positions[turn % len(self.positions)]
        ending = self.endings[int(self.np_random.integers(len(self.endings)))]
        return table_of(ENDINGS[ending]).draw(self.np_random, self.least_moves)

    def _refuse_unknown(self, position: Position) -> None:
        if self.opponent == "exact" and pieces_against_a_lone_king(position.board) is None:
            raise ValueError(
                f"{fen_of(position)!r}: the exact opponent has a lone king against one or two "
                "queens and rooks; take opponent=stockfish or opponent=random."
            )

    def _list_commands(self) -> None:
        named = {command_of(self.position, x, self.notation): x for x in self.position.moves}
        self.commands = tuple(sorted(named))
        self._moves = {plain_move(text, self.notation): x for text, x in named.items()}

    def _observation(self) -> dict[str, Any]:
        planes = np.zeros((len(WHITE + BLACK), 64), np.float32)
        words = []
        for square, piece in enumerate(self.position.board):
            if piece in WHITE + BLACK:
                planes[(WHITE + BLACK).index(piece), square] = 1.0
                color = "w" if piece in WHITE else "b"
                words.append(f"{color}{piece.lower()}{square_name(square)}")
        return {
            "fen": fen_of(self.position),
            "pieces": " ".join(words),
            "board": planes.ravel(),
            "admissible_commands": "\n".join(self.commands),
        }

    def _info(self, invalid: bool) -> dict[str, Any]:
        return {
            "instruction": INSTRUCTION,
            "success": self._won,
            "end": self.end or "",
            "last_move": "" if self._last is None else uci_of(self._last),
            "invalid_command": invalid,
        }


ENVIRONMENT = ChessEndgameEnv
