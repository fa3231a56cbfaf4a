"""The looks of ALFWorld's objects: whole and sliced, hot, cold and clean, a lamp off and lit."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

from sim.alfworld.drawing.lying import lying_shapes
from sim.alfworld.drawing.shapes import (
    BLACK,
    GOLD,
    Color,
    Parts,
    Shape,
    ball,
    box,
    disc,
    join,
    rod,
    turn,
)
from sim.alfworld.drawing.standing import standing_shapes
from sim.alfworld.state import RoomObject

CELL = 0.2  # meters: each object stands at z = 0 in a square of this side about the z axis
# Lying things are tipped towards whoever looks at them by this much, else one sees their edges.
_TIPPED = 35.0


def _lamp(height: float, lit: bool) -> Shape:
    shade = (1.0, 0.93, 0.45) if lit else (0.35, 0.37, 0.45)
    lamp = (
        disc(0.055, 0.015, (0, 0, 0.008), BLACK),
        rod(0.01, (0, 0, 0.01), (0, 0, height - 0.1), GOLD),
        disc(0.075, 0.08, (0, 0, height - 0.06), shade, glow=1.0 if lit else 0.0),
        disc(0.05, 0.03, (0, 0, height - 0.005), shade, glow=1.0 if lit else 0.0),
    )
    if not lit:
        return lamp
    light = (1.0, 0.95, 0.5, 0.3)
    pool = disc(0.12, 0.002, (0, 0, 0.002), (1.0, 0.95, 0.6, 0.75), glow=1.0)
    return (*lamp, pool, ball(0.13, 0.13, 0.1, (0, 0, height - 0.06), light, 1.0))


_ALIKE = {"ToiletPaperRoll": "ToiletPaper", "Lamp": "FloorLamp"}
_LAMPS: dict[str, Callable[[bool], Shape]] = {
    "DeskLamp": lambda lit: _lamp(0.24, lit),
    "FloorLamp": lambda lit: _lamp(0.36, lit),
}
_INSIDE: dict[str, tuple[Color, Color]] = {  # peel and flesh of what can be sliced
    "Apple": ((0.8, 0.02, 0.05), (0.98, 0.95, 0.75)),
    "Bread": ((0.62, 0.34, 0.1), (0.95, 0.85, 0.6)),
    "Egg": ((0.98, 0.95, 0.9), (0.98, 0.75, 0.1)),
    "Lettuce": ((0.35, 0.75, 0.2), (0.8, 0.95, 0.6)),
    "Potato": ((0.66, 0.5, 0.28), (0.95, 0.9, 0.6)),
    "Tomato": ((0.95, 0.25, 0.08), (1.0, 0.6, 0.4)),
}


def _sliced(peel: Color, flesh: Color) -> Shape:
    """Three slices that stand apart and show their flesh."""
    return tuple(
        part
        for x in (-0.06, 0.0, 0.06)
        for part in (
            disc(0.055, 0.02, (x, 0.03 - abs(x) / 2, 0.055), peel, "y"),
            disc(0.043, 0.026, (x, 0.03 - abs(x) / 2, 0.055), flesh, "y"),
        )
    )


def _unknown(kind: str) -> Shape:
    """A type that nobody drew: a cube and a ball in colors of its name."""
    number = zlib.crc32(kind.encode())
    r, g, b = ((number >> shift & 255) / 255 for shift in (0, 8, 16))
    return (
        box(0.1, 0.1, 0.1, (0, 0, 0.05), (r, g, b)),
        ball(0.045, 0.045, 0.045, (0, 0, 0.14), (b, r, g)),
    )


@cache
def known_types() -> frozenset[str]:
    """The types with a shape of their own."""
    return frozenset({*standing_shapes(), *lying_shapes(), *_ALIKE, *_LAMPS})


@cache
def _base(kind: str, sliced: bool, lit: bool) -> Parts:
    kind = _ALIKE.get(kind, kind)
    whole = kind.removesuffix("Sliced")
    if (sliced or kind != whole) and whole in _INSIDE:
        return join(_sliced(*_INSIDE[whole]))
    if kind in _LAMPS:
        return join(_LAMPS[kind](lit))
    flat = lying_shapes()
    if kind in flat:
        tipped = join(flat[kind]).placed((0, 0, 0), turn("x", _TIPPED))
        lowest = float((tipped.centers[:, 2] - tipped.sizes.min(axis=1)).min())
        return tipped.placed((0, 0, max(0.0, 0.02 - lowest)))
    return join(standing_shapes().get(kind) or _unknown(kind))


def _steam(height: float) -> Shape:
    """Red-hot ground and flames of steam above."""
    ground = disc(0.092, 0.006, (0, 0, 0.004), (1.0, 0.25, 0.0), glow=0.8)
    wisps = (
        rod(0.011, (x, -0.02, height + 0.02), (x + 0.015, -0.02, height + 0.08), color, 1.0)
        for x, color in (
            (-0.05, (1.0, 0.45, 0.1)),
            (0.0, (1.0, 0.2, 0.0)),
            (0.05, (1.0, 0.6, 0.1)),
        )
    )
    return (ground, *wisps)


def _frost(height: float) -> Shape:
    """Icy ground and a snow crystal above."""
    ground = disc(0.092, 0.006, (0, 0, 0.004), (0.45, 0.8, 1.0), glow=0.5)
    z = height + 0.055
    arms = (
        box(0.1, 0.014, 0.014, (0, -0.02, z), (0.35, 0.7, 1.0), turn("y", angle), 0.9)
        for angle in (0, 60, 120)
    )
    return (ground, *arms)


def _bubbles(height: float) -> Shape:
    """Soap bubbles and a sparkle."""
    foam, gleam = (0.8, 0.92, 1.0), (1.0, 0.85, 0.1)
    bubbles = (
        ball(r, r, r, (x, -0.075, z), foam, 0.25)
        for x, z, r in ((-0.085, 0.03, 0.026), (-0.06, 0.075, 0.016), (0.085, 0.025, 0.022))
    )
    z = min(height, 0.12)
    sparkle = (
        ball(0.05, 0.006, 0.011, (0.07, -0.07, z), gleam, 0.6),
        ball(0.011, 0.006, 0.05, (0.07, -0.07, z), gleam, 0.6),
    )
    return (*bubbles, *sparkle)


@cache
def _drawn(kind: str, hot: bool, cold: bool, clean: bool, sliced: bool, lit: bool) -> Parts:
    parts = _base(kind, sliced, lit)
    height = float((parts.centers[:, 2] + parts.sizes.min(axis=1)).max())
    signs: list[Parts] = []
    if hot:
        parts = parts.tinted((1.0, 0.2, 0.0), 0.3)
        signs.extend(_steam(height))
    if cold:
        parts = parts.tinted((0.55, 0.85, 1.0), 0.35)
        signs.extend(_frost(height))
    if clean:
        signs.extend(_bubbles(height))
    return join([parts, *signs])


def draw_object(thing: RoomObject) -> Parts:
    """An object of about CELL meters across, standing at the origin, with signs of its state:
    flames when hot, a snow crystal when cold, bubbles when clean, slices when sliced."""
    return _drawn(thing.type, thing.hot, thing.cold, thing.clean, thing.sliced, thing.lit)
