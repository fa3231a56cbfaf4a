"""A piece of ALFWorld furniture: its parts, and the surfaces that hold objects."""

from __future__ import annotations

from dataclasses import dataclass

from sim.alfworld.drawing.shapes import Parts, Vector

PAINT, LINING, STONE = (0.82, 0.8, 0.74), (0.62, 0.47, 0.3), (0.78, 0.76, 0.73)
CERAMIC, WATER = (0.93, 0.94, 0.95), (0.7, 0.85, 0.92)
OAK, WALNUT, PINE = (0.64, 0.42, 0.22), (0.36, 0.22, 0.13), (0.85, 0.67, 0.42)
MAPLE, CHERRY = (0.74, 0.55, 0.34), (0.5, 0.2, 0.13)


@dataclass(frozen=True)
class Surface:
    """A level rectangle that objects stand on: center, extents along x and y; meters."""

    center: Vector
    width: float
    depth: float


@dataclass(frozen=True, eq=False)
class Furniture:
    """A receptacle in its own frame: x to the right and y away for who faces it, z up from the
    floor, x = y = 0 at its position. `focus` is looked at from `pitch` degrees above, so that
    `span` meters fill the width of the view; `extent` is its half size along x and y."""

    parts: Parts
    surfaces: tuple[Surface, ...]
    focus: Vector
    span: float
    pitch: float
    extent: tuple[float, float]
