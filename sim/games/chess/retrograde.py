"""Exact play against a lone king: for every position of king and queens or rooks, the number of
moves to mate, found backwards from the mates.

Sets of positions are bitboards: an array over the squares of White's king and pieces, each entry a
word with one bit a square of Black's king.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from sim.games.chess.position import EMPTY, Move, Position, moved

# White's pieces beside the king, for which tables are made.
ENDINGS = {"KQK": "Q", "KRK": "R", "KQRK": "QR", "KRRK": "RR"}
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_A_FILE, _H_FILE = np.uint64(0x0101_0101_0101_0101), np.uint64(0x8080_8080_8080_8080)
_ONE, _SEVEN, _EIGHT, _NINE = (np.uint64(n) for n in (1, 7, 8, 9))
_BITS = _ONE << np.arange(64, dtype=np.uint64)
_ONES_OF = np.array([bin(n).count("1") for n in range(256)], np.int64)
_STRAIGHT = ((1, 0), (-1, 0), (0, 1), (0, -1))
_STEPS = {"R": _STRAIGHT, "Q": (*_STRAIGHT, (1, 1), (-1, 1), (1, -1), (-1, -1))}


class LoneKingTable:
    """Moves to mate with White's king and `pieces` (of "Q" and "R") against a lone king.

    `won[n]`: White, to move, mates in at most n moves. `lost[n]`: Black, to move, is mated after at
    most n more moves of White. A captured piece leaves a smaller ending, or a draw.
    """

    def __init__(self, pieces: str) -> None:
        self.pieces = pieces
        self._axes = 1 + len(pieces)
        squares = [self._square(axis) for axis in range(self._axes)]
        shape = (64,) * self._axes
        taken = np.zeros(shape, np.uint64)
        apart = np.ones(shape, bool)
        for axis, square in enumerate(squares):
            taken |= _BITS[square]
            for other in squares[:axis]:
                apart &= square != other
        # Where White's pieces can stand at all, all bits; elsewhere none.
        self._apart = np.where(apart, _ALL, np.uint64(0))
        near = _near(_BITS)[squares[0]]
        self._attacked = near | self._slides(squares)
        self._free = self._apart & ~taken & ~near
        self.won: list[np.ndarray] = [np.zeros(shape, np.uint64)]
        self.lost: list[np.ndarray] = []
        self._longest = 0
        self._solve(taken)
        self._counts: dict[int, np.ndarray] = {}

    @property
    def longest(self) -> int:
        """The most moves that a mate needs, White to move."""
        return self._longest

    def moves_to_mate(self, position: Position) -> int | None:
        """Moves of White to the mate from a legal position of these pieces, 0 for a mate; None
        where there is no forced mate."""
        index, king = self._index(position.board)
        levels = self.won if position.white_to_move else self.lost
        bit = 1 << king
        return next((n for n, level in enumerate(levels) if int(level[index]) & bit), None)

    def count(self, least: int) -> int:
        """Positions that White, to move, wins in `least` moves or more."""
        return int(self._running(least)[-1])

    def draw(self, rng: np.random.Generator, least: int) -> Position:
        """One of them, all alike."""
        running = self._running(least)
        chosen = int(rng.integers(int(running[-1])))
        at = int(np.searchsorted(running, chosen, side="right"))
        word = int((self.won[-1] & ~self.won[least - 1]).reshape(-1)[at])
        before = int(running[at - 1]) if at else 0
        kings = [square for square in range(64) if word >> square & 1]
        squares = [EMPTY] * 64
        places = np.unravel_index(at, self.won[0].shape)
        for piece, square in zip("K" + self.pieces, places, strict=True):
            squares[int(square)] = piece
        squares[kings[chosen - before]] = "k"
        return Position("".join(squares))

    def _running(self, least: int) -> np.ndarray:
        if least not in self._counts:
            some = self.won[-1] & ~self.won[least - 1] if least <= self.longest else self.won[0]
            ones = _ONES_OF[np.ascontiguousarray(some).reshape(-1, 1).view(np.uint8)].sum(1)
            self._counts[least] = np.cumsum(ones)
        return self._counts[least]

    def _index(self, board: str) -> tuple[tuple[int, ...], int]:
        found = [board.index("K")]
        for piece in self.pieces:
            start = found[-1] + 1 if len(found) > 1 and board[found[-1]] == piece else 0
            found.append(board.index(piece, start))
        return tuple(found), board.index("k")

    def _square(self, axis: int) -> np.ndarray:
        return np.arange(64).reshape([64 if i == axis else 1 for i in range(self._axes)])

    def _slides(self, squares: list[np.ndarray]) -> np.ndarray:
        """What queens and rooks attack, past Black's king: it can't hide behind itself."""
        attacked = np.zeros((64,) * self._axes, np.uint64)
        for axis, piece in enumerate(self.pieces, 1):
            for right, up in _STEPS[piece]:
                sees = np.ones(attacked.shape, bool)
                for target, inside in _steps(squares[axis], right, up):
                    sees &= inside
                    attacked |= np.where(sees, _BITS[target], np.uint64(0))
                    for other, square in enumerate(squares):
                        if other != axis:
                            sees &= square != target
        return attacked

    def _solve(self, taken: np.ndarray) -> None:
        smaller = [
            table_of(self.pieces[:i] + self.pieces[i + 1 :]) if len(self.pieces) > 1 else None
            for i in range(len(self.pieces))
        ]
        safe = ~self._attacked
        stuck = ~_near(safe)  # Black's king has no square to go to
        stalemate = stuck & safe
        last = max((table.longest for table in smaller if table), default=0)
        while True:
            n = len(self.won) - 1
            way_out = safe & ~taken & ~self.won[n]
            for i, table in enumerate(smaller):
                takes = safe & _BITS[self._square(i + 1)]
                if table is not None:
                    takes = takes & ~np.expand_dims(table.won[min(n, len(table.won) - 1)], i + 1)
                way_out = way_out | takes
            self.lost.append(self._free & ~_near(way_out) & ~stalemate)
            found = self._free & safe & self._before(self.lost[n])
            changed = (found != self.won[n]).any()
            if n >= last and not changed:
                del self.won[self._longest + 1 :]
                return
            self.won.append(found)
            self._longest = n + 1 if changed else self._longest

    def _before(self, after: np.ndarray) -> np.ndarray:
        """Positions from which a move of White leads to one of `after`."""
        shape = after.shape
        found = np.zeros(shape, np.uint64)
        for right, up in _STEPS["Q"]:
            found |= _shifted(after, 0, right, up)
        for axis, piece in enumerate(self.pieces, 1):
            # A piece goes on past a square that neither another piece nor Black's king holds.
            passes = self._apart & ~_BITS[self._square(axis)]
            for right, up in _STEPS[piece]:
                reached = np.zeros(shape, np.uint64)
                for _ in range(7):
                    reached = _shifted(after | (reached & passes), axis, right, up)
                found |= reached
        return found


@lru_cache(maxsize=8)  # environments of one process share them
def table_of(pieces: str) -> LoneKingTable:
    """The table of an ending's pieces, made by the first call."""
    return LoneKingTable(pieces)


def pieces_against_a_lone_king(board: str) -> str | None:
    """White's pieces beside the king as a table names them; None where there is no such table."""
    white = "".join(sorted(piece for piece in board if piece in "QR"))
    lone = not any(piece in "qr" for piece in board)
    return white if lone and white in (*ENDINGS.values(), "QQ") else None


def moves_to_mate(position: Position) -> int | None:
    """Moves of White to a forced mate of a lone king; None where there is none. ValueError where no
    table has the position."""
    if not any(piece in "QR" for piece in position.board):
        return None
    pieces = pieces_against_a_lone_king(position.board)
    if pieces is None:
        raise ValueError(
            "exact play is known for a lone black king against one or two queens and rooks."
        )
    return table_of(pieces).moves_to_mate(position)


def best_moves(position: Position) -> list[Move]:
    """The moves of the side to move that mate soonest or hold out longest; every legal move where
    White has no forced mate."""
    after: dict[Move, float] = {}
    for move in position.moves:
        left = moves_to_mate(Position(moved(position.board, move), not position.white_to_move))
        after[move] = np.inf if left is None else left
    best = (min if position.white_to_move else max)(after.values())
    return [move for move, left in after.items() if left == best]


def _near(words: np.ndarray) -> np.ndarray:
    """The squares a king's step away from those of bitboards."""
    left, right = words & ~_A_FILE, words & ~_H_FILE
    return (
        (left >> _ONE) | (right << _ONE) | (words << _EIGHT) | (words >> _EIGHT)
        | (left << _SEVEN) | (left >> _NINE) | (right << _NINE) | (right >> _SEVEN)
    )  # fmt: skip


def _steps(squares: np.ndarray, right: int, up: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Squares one to seven steps on, and which of them are on the board (else square 0)."""
    for n in range(1, 8):
        file, rank = squares % 8 + n * right, squares // 8 + n * up
        inside = (file >= 0) & (file < 8) & (rank >= 0) & (rank < 8)
        yield np.where(inside, file + 8 * rank, 0), inside


def _shifted(words: np.ndarray, axis: int, right: int, up: int) -> np.ndarray:
    """Entry s of the result is that of the square a step on from s along an axis, none off the
    board."""
    split = words.reshape(*words.shape[:axis], 8, 8, *words.shape[axis + 1 :])
    found = np.zeros_like(split)
    lead = (slice(None),) * axis
    found[(*lead, _rows(-up), _rows(-right))] = split[(*lead, _rows(up), _rows(right))]
    return found.reshape(words.shape)


def _rows(step: int) -> slice:
    return slice(max(0, step), 8 + min(0, step))
