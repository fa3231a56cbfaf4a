"""The turns of a game as an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SIDE, _LINE = 256, 12


def draw_turns(turns: Sequence[tuple[str, str]]) -> np.ndarray:
    """A line a turn (what was asked, what was said), the last ones that have room, uint8
    [256, 256, 3]."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    for row, (asked, said) in enumerate(turns[-(_SIDE // _LINE) :]):
        ink = {"Yes.": (40, 120, 50), "No.": (150, 50, 50)}.get(said, (90, 90, 90))
        draw.text((4, row * _LINE), f"{asked}  {said}", ink)
    return np.asarray(image)
