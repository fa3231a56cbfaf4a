"""Where games begin: positions drawn from an ending's table, or those of a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sim.games.chess.notation import fen_of, read_fen
from sim.games.chess.position import Position
from sim.games.chess.retrograde import ENDINGS, table_of
from sim.games.text_lines import lines_of


def read_endings(text: str, least_moves: int) -> tuple[str, ...]:
    """The endings that a list names, e.g. "KQK,KRK"; those that have a position which White needs
    `least_moves` moves for. ValueError where none is left, or a name is none."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in ENDINGS]
    if unknown or not names:
        said = unknown[0] if unknown else text
        raise ValueError(f"Chess has no ending {said!r}; there are: {', '.join(ENDINGS)}.")
    if least_moves < 1:
        raise ValueError(f"least_moves {least_moves} must be at least 1.")
    if least_moves == 1:  # every ending has such a position; its table is made when it is drawn
        return names
    longest = {name: table_of(ENDINGS[name]).longest for name in names}
    left = tuple(name for name in names if longest[name] >= least_moves)
    if not left:
        most = ", ".join(f"{name} {moves}" for name, moves in longest.items())
        raise ValueError(
            f"least_moves {least_moves}: White never needs so many; the most is {most}."
        )
    return left


def read_positions(path: str) -> tuple[Position, ...]:
    """The positions of a text file, a FEN a line, White to move in a game that is not over;
    ValueError names the line of one that is none."""
    file = Path(path).expanduser()
    lines = lines_of(file, "a FEN a line")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            position = read_fen(line)
        except ValueError as error:
            raise ValueError(f"{file}: line {number}: {error}") from error
        if not position.white_to_move or position.end:
            why = f"it is over ({position.end})" if position.end else "Black is to move"
            raise ValueError(f"{file}: line {number}: {line.strip()!r}: {why}; White has to move.")
        found.append(position)
    if not found:
        raise ValueError(f"{file}: no position; give a FEN a line.")
    return tuple(found)


def fingerprint(positions: tuple[Position, ...]) -> str:
    """SHA-256 of positions, by which logs tell where their games began."""
    return hashlib.sha256("\n".join(map(fen_of, positions)).encode()).hexdigest()
