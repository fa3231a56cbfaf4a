"""The shapes of the ALFWorld receptacles that open: doors, lids and drawers."""

from __future__ import annotations

from collections.abc import Callable

from sim.alfworld.drawing.shapes import (
    BLACK,
    DARK,
    GRAY,
    STEEL,
    WHITE,
    Color,
    Parts,
    Vector,
    ball,
    box,
    disc,
    join,
    rod,
    turn,
)
from sim.alfworld.drawing.surfaces import LINING, MAPLE, PAINT, PINE, Furniture, Surface


def _cabinet(y: float, is_open: bool) -> Furniture:
    w, d, h = 0.56, 0.4, 0.5
    z = max(y, h / 2 + 0.03)
    low = z - h / 2
    parts = [
        box(w, 0.02, h, (0, 0.3, z), LINING),
        box(0.02, d, h, (-w / 2, 0.1, z), PAINT),
        box(0.02, d, h, (w / 2, 0.1, z), PAINT),
        box(w, d, 0.02, (0, 0.1, low), PINE),
        box(w, d, 0.02, (0, 0.1, z + h / 2), PAINT),
    ]
    if is_open:
        hinge = turn("z", -115)
        door = join(
            [
                box(w, 0.02, h, (w / 2, 0, 0), PAINT),
                rod(0.012, (w - 0.05, 0.03, -0.08), (w - 0.05, 0.03, 0.08), STEEL),
            ]
        )
        parts.append(door.placed((-w / 2, -0.11, z), hinge))
    else:
        parts = [
            box(w, d, h, (0, 0.1, z), PAINT),
            box(w - 0.1, 0.02, h - 0.1, (0, -0.105, z), (0.74, 0.71, 0.63)),
            rod(0.012, (w / 2 - 0.07, -0.13, z - 0.09), (w / 2 - 0.07, -0.13, z + 0.09), STEEL),
        ]
    surface = Surface((0, 0.08, low + 0.012), 0.5, 0.34)
    span = 0.82 if is_open else 1.15
    return Furniture(join(parts), (surface,), (0, 0, z - 0.07), span, 18, (w / 2, 0.3))


def _drawer(y: float, is_open: bool) -> Furniture:
    w, h, z = 0.5, 0.16, max(y, 0.1)
    front = -0.24 - (0.42 if is_open else 0.0)
    parts = [
        box(w, 0.03, h, (0, front, z), PINE),
        box(w - 0.08, 0.032, h - 0.06, (0, front - 0.002, z), MAPLE),
        ball(0.022, 0.022, 0.022, (0, front - 0.03, z), STEEL),
    ]
    if is_open:
        middle, depth = front + 0.22, 0.44
        parts += [
            box(w - 0.02, depth, 0.02, (0, middle, z - h / 2 + 0.02), (0.9, 0.8, 0.6)),
            box(0.02, depth, h * 0.8, (-w / 2 + 0.01, middle, z - 0.015), MAPLE),
            box(0.02, depth, h * 0.8, (w / 2 - 0.01, middle, z - 0.015), MAPLE),
            box(w + 0.06, 0.02, h + 0.04, (0, -0.215, z), (0.3, 0.2, 0.12)),
        ]
    else:
        parts.append(box(w, 0.4, h, (0, -0.02, z), MAPLE))
    surface = Surface((0, front + 0.22, z - h / 2 + 0.03), 0.46, 0.36)
    focus = (0, front + 0.2, z) if is_open else (0, front, z)
    return Furniture(join(parts), (surface,), focus, 0.78, 52 if is_open else 25, (w / 2, 0.26))


def _fridge(y: float, is_open: bool) -> Furniture:
    w, d, h = 0.78, 0.6, 1.75
    cold, body = (0.86, 0.93, 0.97), (0.7, 0.73, 0.76)
    shelves = (0.75, 1.12)
    parts = [
        box(w, 0.03, h, (0, d / 2, h / 2), cold),
        box(0.03, d, h, (-w / 2, 0, h / 2), body),
        box(0.03, d, h, (w / 2, 0, h / 2), body),
        box(w, d, 0.04, (0, 0, h), body),
        box(w, d, 0.5, (0, 0, 0.3), body),
        *(box(w - 0.03, d - 0.06, 0.015, (0, 0.02, z), (0.65, 0.82, 0.9)) for z in shelves),
    ]
    if is_open:
        door = join(
            [
                box(w, 0.05, h - 0.1, (w / 2, 0, 0), body),
                box(w - 0.1, 0.06, h - 0.3, (w / 2, 0.01, 0), cold),
            ]
        )
        parts.append(door.placed((-w / 2, -d / 2, h / 2), turn("z", -112)))
    else:
        parts = [
            box(w, d, h, (0, 0, h / 2), body),
            box(w, 0.02, 0.02, (0, -d / 2 - 0.01, 1.2), DARK),
            rod(
                0.018, (w / 2 - 0.08, -d / 2 - 0.04, 0.7), (w / 2 - 0.08, -d / 2 - 0.04, 1.1), WHITE
            ),
            rod(
                0.018,
                (w / 2 - 0.08, -d / 2 - 0.04, 1.28),
                (w / 2 - 0.08, -d / 2 - 0.04, 1.55),
                WHITE,
            ),
        ]
    surfaces = tuple(Surface((0, -0.04, z + 0.01), 0.68, 0.4) for z in shelves[::-1])
    focus = (0, 0, 1.08 if is_open else 0.9)
    span = 1.06 if is_open else 2.0
    return Furniture(join(parts), surfaces, focus, span, 16, (w / 2, d / 2))


def _chest(
    y: float, is_open: bool, shell: Color, inside: Color, size: Vector, sign: list[Parts]
) -> Furniture:
    """A box with a door hinged at its left, its middle at height y; `sign` is what its closed door
    shows."""
    w, d, h = size
    low = max(y - h / 2, 0.02)
    z = low + h / 2
    parts = [
        box(w, 0.02, h, (0, d / 2, z), inside),
        box(0.03, d, h, (-w / 2, 0, z), shell),
        box(0.03, d, h, (w / 2, 0, z), shell),
        box(w, d, 0.03, (0, 0, low), inside),
        box(w, d, 0.03, (0, 0, low + h), shell),
    ]
    if is_open:
        door = box(w, 0.03, h, (w / 2, 0, 0), shell)
        parts.append(door.placed((-w / 2, -d / 2, z), turn("z", -115)))
    else:
        parts = [box(w, d, h, (0, 0, z), shell)]
        parts += [piece.placed((0, -d / 2, z)) for piece in sign]
    surface = Surface((0, -0.02, low + 0.02), w - 0.08, d - 0.08)
    span = 0.76 if is_open else 1.0
    return Furniture(join(parts), (surface,), (0, -d / 4, z - 0.04), span, 18, (w / 2, d / 2))


def _microwave(y: float, is_open: bool) -> Furniture:
    window = [
        box(0.38, 0.01, 0.24, (-0.07, -0.003, 0), BLACK),
        rod(0.012, (0.14, -0.03, -0.11), (0.14, -0.03, 0.11), STEEL),
        box(0.07, 0.01, 0.06, (0.22, -0.003, 0.09), (0.3, 1.0, 0.5), glow=0.8),
        *(box(0.05, 0.012, 0.02, (0.22, -0.003, z), GRAY) for z in (0.02, -0.03, -0.08)),
    ]
    size = (0.58, 0.42, 0.36)
    return _chest(max(y, 0.3) + 0.18, is_open, WHITE, (0.95, 0.9, 0.6), size, window)


def _safe(y: float, is_open: bool) -> Furniture:
    dial = [
        disc(0.07, 0.03, (0, -0.01, 0), STEEL, "y"),
        box(0.012, 0.04, 0.06, (0, -0.015, 0.03), (0.8, 0.1, 0.1)),
        rod(0.014, (0.14, -0.03, -0.06), (0.14, -0.03, 0.06), STEEL),
    ]
    return _chest(y + 0.22, is_open, (0.2, 0.24, 0.22), (0.45, 0.5, 0.48), (0.5, 0.42, 0.44), dial)


# Drawn at a height (meters), open or closed.
CASES: dict[str, Callable[[float, bool], Furniture]] = {
    "Cabinet": _cabinet,
    "Drawer": _drawer,
    "Fridge": _fridge,
    "Microwave": _microwave,
    "Safe": _safe,
}
