"""Chess in letters: positions as FEN, moves as SAN and as UCI's words."""

from __future__ import annotations

import re

from sim.games.chess.position import BLACK, EMPTY, WHITE, Move, Position, is_checked

# san: "Ra1xa7+"'s shortest form, a character a word (as LMRL-Gym has it): "R x a 7 +".
# uci: from and to as one word: "a1a7".
NOTATIONS = ("san", "uci")
_FILES = "abcdefgh"


def square_name(square: int) -> str:
    """e.g. "a1"."""
    return f"{_FILES[square % 8]}{square // 8 + 1}"


def fen_of(position: Position) -> str:
    """A position in Forsyth-Edwards notation."""
    rows = [position.board[8 * rank : 8 * rank + 8] for rank in reversed(range(8))]
    placed = "/".join(re.sub(r"\.+", lambda run: str(len(run[0])), row) for row in rows)
    to_move = "w" if position.white_to_move else "b"
    return f"{placed} {to_move} - - {position.half_moves} {position.number}"


def read_fen(text: str) -> Position:
    """The position of a FEN of four to six fields; ValueError on what is none, on pieces other than
    kings, queens and rooks, and where the side that is not to move stands in check."""
    fields = text.split()
    if not 4 <= len(fields) <= 6:
        raise ValueError(f"{text!r} is no FEN: it has {len(fields)} fields of 4 to 6.")
    placed, to_move, castling, passant, *counts = fields
    rows = [re.sub(r"[1-8]", lambda run: EMPTY * int(run[0]), row) for row in placed.split("/")]
    if len(rows) != 8 or any(len(row) != 8 for row in rows):
        raise ValueError(f"{text!r} is no FEN: it needs 8 ranks of 8 squares.")
    board = "".join(reversed(rows))
    if strange := sorted(set(board) - set(WHITE + BLACK + EMPTY)):
        raise ValueError(f"{text!r}: {strange[0]!r} is no king, queen or rook (K Q R k q r).")
    if board.count("K") != 1 or board.count("k") != 1:
        raise ValueError(f"{text!r}: each side has one king.")
    if to_move not in ("w", "b") or castling != "-" or passant != "-":
        raise ValueError(f"{text!r}: after the squares stand w or b, and - - (no castling).")
    if not all(re.fullmatch(r"\d{1,4}", count) for count in counts):
        raise ValueError(f"{text!r}: the last fields count half moves and moves.")
    if is_checked(board, to_move == "b"):
        raise ValueError(f"{text!r}: the side that is not to move stands in check.")
    half_moves, number = [int(x) for x in counts] + [0, 1][len(counts) :]
    return Position(board, to_move == "w", half_moves, max(1, number))


def uci_of(move: Move) -> str:
    """A move as UCI writes it, e.g. "a1a7"."""
    return square_name(move[0]) + square_name(move[1])


def san_of(position: Position, move: Move) -> str:
    """A legal move in standard algebraic notation, e.g. "Rxa7+"."""
    origin, target = move
    piece = position.board[origin]
    rivals = [
        other
        for other, to in position.moves
        if to == target and other != origin and position.board[other] == piece
    ]
    name = square_name(origin)
    if not rivals:
        told = ""
    elif all(other % 8 != origin % 8 for other in rivals):
        told = name[0]
    elif all(other // 8 != origin // 8 for other in rivals):
        told = name[1]
    else:
        told = name
    takes = "x" if position.board[target] != EMPTY else ""
    after = position.after(move)
    check = ("+" if after.moves else "#") if after.in_check else ""
    return f"{piece.upper()}{told}{takes}{square_name(target)}{check}"


def command_of(position: Position, move: Move, notation: str) -> str:
    """A legal move as players say it: see NOTATIONS."""
    return uci_of(move) if notation == "uci" else " ".join(san_of(position, move))


def plain_move(text: str, notation: str) -> str:
    """A move as it is compared: without spaces and, in SAN, the signs of captures and checks."""
    return re.sub(r"\s" if notation == "uci" else r"[\sx+#]", "", text)
