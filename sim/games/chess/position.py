"""Chess positions of kings, queens and rooks: legal moves, checks, and how a game ends.

Squares are 0 (a1) to 63 (h8), a rank after another. No pawns, bishops, knights or castling: what
they ask for beside moving (promotion, en passant, rights) is left out with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

Move = tuple[int, int]  # from, to
WHITE, BLACK, EMPTY = "KQR", "kqr", "."
# Half moves without a capture after which a game is drawn.
QUIET_HALF_MOVES = 100
_DIRECTIONS: dict[str, tuple[tuple[int, int], ...]] = {
    "R": ((1, 0), (-1, 0), (0, 1), (0, -1)),
    "B": ((1, 1), (-1, 1), (1, -1), (-1, -1)),
}
_DIRECTIONS["Q"] = _DIRECTIONS["K"] = _DIRECTIONS["R"] + _DIRECTIONS["B"]


def ray(square: int, direction: tuple[int, int]) -> tuple[int, ...]:
    """The squares from one on in a direction (files, ranks), nearest first, to the edge."""
    file, rank, (right, up) = square % 8, square // 8, direction
    found = []
    while 0 <= (file := file + right) < 8 and 0 <= (rank := rank + up) < 8:
        found.append(file + 8 * rank)
    return tuple(found)


# Piece -> square -> the rays it moves along; a king's have one square.
RAYS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    piece: tuple(
        tuple(
            squares[: 1 if piece == "K" else None]
            for direction in _DIRECTIONS[piece]
            if (squares := ray(square, direction))
        )
        for square in range(64)
    )
    for piece in "KQR"
}


@dataclass(frozen=True)
class Position:
    """Pieces on 64 squares (FEN's letters, "." for none, a1 first), who is to move, half moves
    since the last capture, and the number of the move."""

    board: str
    white_to_move: bool = True
    half_moves: int = 0
    number: int = 1

    @property
    def moves(self) -> tuple[Move, ...]:
        """Every legal move, sorted."""
        return _moves(self.board, self.white_to_move)

    @property
    def in_check(self) -> bool:
        """Whether the king of the side to move is attacked."""
        return is_checked(self.board, self.white_to_move)

    def after(self, move: Move) -> Position:
        """The position after a legal move."""
        captures = self.board[move[1]] != EMPTY
        return Position(
            moved(self.board, move),
            not self.white_to_move,
            0 if captures else self.half_moves + 1,
            self.number + (not self.white_to_move),
        )

    @property
    def end(self) -> str | None:
        """checkmate (of the side to move), stalemate, bare kings, fifty moves; None while the game
        goes on. A repeated position ends no game."""
        if not self.moves:
            return "checkmate" if self.in_check else "stalemate"
        if sum(piece != EMPTY for piece in self.board) == 2:
            return "bare kings"
        return "fifty moves" if self.half_moves >= QUIET_HALF_MOVES else None


def moved(board: str, move: Move) -> str:
    """A board after a piece went from a square to another."""
    squares = list(board)
    squares[move[1]], squares[move[0]] = squares[move[0]], EMPTY
    return "".join(squares)


def is_checked(board: str, white: bool) -> bool:
    """Whether the king of a color is attacked."""
    king = board.index("K" if white else "k")
    others = BLACK if white else WHITE
    for squares in RAYS["Q"][king]:
        seen = next(((i, board[s]) for i, s in enumerate(squares) if board[s] != EMPTY), None)
        if seen is None or seen[1] not in others:
            continue
        kind = seen[1].upper()
        straight = king % 8 == squares[0] % 8 or king // 8 == squares[0] // 8
        if kind == "Q" or (kind == "R" and straight) or (kind == "K" and seen[0] == 0):
            return True
    return False


@lru_cache(maxsize=20_000)
def _moves(board: str, white: bool) -> tuple[Move, ...]:
    own = WHITE if white else BLACK
    found = []
    for origin, piece in enumerate(board):
        if piece not in own:
            continue
        for squares in RAYS[piece.upper()][origin]:
            for target in squares:
                if board[target] in own or board[target] in "Kk":
                    break
                if not is_checked(moved(board, (origin, target)), white):
                    found.append((origin, target))
                if board[target] != EMPTY:
                    break
    return tuple(sorted(found))
