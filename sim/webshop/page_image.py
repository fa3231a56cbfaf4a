"""A page of a shop as an image."""

from __future__ import annotations

import textwrap

import numpy as np

from sim.webshop.pages import BETWEEN

_SIDE, _LINE, _WIDTH = 256, 11, 42


def draw_page(instruction: str, page: str) -> np.ndarray:
    """The goal, then the parts of the page, a line each, uint8 [256, 256, 3]."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (_SIDE, _SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    lines = [(line, (150, 60, 20)) for line in textwrap.wrap(instruction, _WIDTH)[:5]]
    lines += [
        (line, (30, 30, 30))
        for part in page.split(BETWEEN)
        for line in textwrap.wrap(part, _WIDTH)[:2]
    ]
    for row, (line, ink) in enumerate(lines[: _SIDE // _LINE]):
        draw.text((3, row * _LINE), line.encode("ascii", "replace").decode(), ink)
    return np.asarray(image)
