"""Wordle's board as an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.games.wordle.words import LETTERS

_SIDE = 256
_COLORS = {"b": (120, 124, 126), "y": (201, 180, 88), "g": (106, 170, 100), "": (235, 235, 235)}


def draw_board(guesses: Sequence[tuple[str, str]], rows: int) -> np.ndarray:
    """A row a guess (guess, colors), uint8 [256, 256, 3]; guesses outside of the list are pale."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    cell = _SIDE // max(rows, LETTERS)
    left = (_SIDE - cell * LETTERS) // 2
    for row in range(rows):
        guess, colors = guesses[row] if row < len(guesses) else ("", "")
        for place in range(LETTERS):
            x, y = left + place * cell, row * cell
            fill = _COLORS[colors[place] if colors else ""]
            draw.rectangle((x + 2, y + 2, x + cell - 3, y + cell - 3), fill)
            ink = (255, 255, 255) if colors else (90, 90, 90)
            letter = guess[place : place + 1].upper()
            draw.text((x + cell / 2, y + cell / 2), letter, ink, anchor="mm")
    return np.asarray(image)
