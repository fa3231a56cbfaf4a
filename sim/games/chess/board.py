"""A chess board as an image."""

from __future__ import annotations

import numpy as np

from sim.games.chess.position import EMPTY, WHITE, Move

_SIDE, _CELL = 256, 32
_LIGHT, _DARK, _MOVED = (240, 217, 181), (181, 136, 99), (205, 210, 106)


def draw_board(board: str, last: Move | None) -> np.ndarray:
    """Pieces as letters on discs, White at the bottom, the last move's squares marked, uint8
    [256, 256, 3]."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE))
    draw = ImageDraw.Draw(image)
    for square, piece in enumerate(board):
        x, y = square % 8 * _CELL, (7 - square // 8) * _CELL
        fill = _LIGHT if (square % 8 + square // 8) % 2 else _DARK
        marked = last is not None and square in last
        draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), _MOVED if marked else fill)
        if piece != EMPTY:
            white = piece in WHITE
            disc, ink = ((255, 255, 255), (0, 0, 0)) if white else ((0, 0, 0), (255, 255, 255))
            draw.ellipse((x + 4, y + 4, x + _CELL - 5, y + _CELL - 5), disc, (60, 60, 60))
            draw.text((x + _CELL / 2, y + _CELL / 2), piece.upper(), ink, anchor="mm")
    return np.asarray(image)
