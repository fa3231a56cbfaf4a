"""The shapes of the ALFWorld receptacles, whatever they are: tables, seats, basins and bins."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from sim.alfworld.drawing.cases import CASES
from sim.alfworld.drawing.shapes import (
    BLACK,
    DARK,
    GRAY,
    STEEL,
    TAN,
    WHITE,
    WOOD,
    Color,
    Parts,
    box,
    disc,
    join,
    rod,
)
from sim.alfworld.drawing.surfaces import (
    CERAMIC,
    CHERRY,
    MAPLE,
    OAK,
    PINE,
    STONE,
    WALNUT,
    WATER,
    Furniture,
    Surface,
)


def _shelf(y: float) -> Furniture:
    z = max(y, 0.05)
    parts = [
        box(0.9, 0.32, 0.03, (0, 0.05, z), OAK),
        box(0.03, 0.26, 0.12, (-0.35, 0.08, z - 0.07), WALNUT),
        box(0.03, 0.26, 0.12, (0.35, 0.08, z - 0.07), WALNUT),
    ]
    surface = Surface((0, 0.04, z + 0.016), 0.84, 0.28)
    return Furniture(join(parts), (surface,), (0, 0, z + 0.06), 0.98, 24, (0.45, 0.21))


def _top(
    width: float, depth: float, z: float, board: list[Parts], span: float = 1.08, pitch: float = 42
) -> Furniture:
    """Furniture whose objects stand on its top, towards the viewer."""
    usable = min(depth - 0.06, 0.5)
    wide = min(width - 0.08, 0.98)
    surface = Surface((0, -depth / 2 + 0.03 + usable / 2, z), wide, usable)
    focus = (0.0, surface.center[1], z + 0.04)
    parts = join(board)
    return Furniture(
        parts, (surface,), focus, min(span, wide + 0.22), pitch, (width / 2, depth / 2)
    )


def _legs(w: float, d: float, z: float, color: Color, thick: float = 0.05) -> list[Parts]:
    x, y = w / 2 - thick, d / 2 - thick
    corners = ((-x, -y), (x, -y), (-x, y), (x, y))
    return [box(thick, thick, z, (a, b, z / 2), color) for a, b in corners]


def _table(w: float, d: float, z: float, color: Color, legs: Color) -> Furniture:
    board = [box(w, d, 0.05, (0, 0, z - 0.025), color), *_legs(w, d, z - 0.05, legs)]
    return _top(w, d, z, board)


def _solid(w: float, d: float, z: float, top: Color, body: Color) -> Furniture:
    board = [
        box(w, d, 0.05, (0, 0, z - 0.025), top),
        box(w - 0.06, d - 0.1, z - 0.05, (0, 0.04, (z - 0.05) / 2), body),
    ]
    return _top(w, d, z, board)


def _dresser(z: float) -> Furniture:
    board = [
        box(1.0, 0.46, 0.04, (0, 0, z - 0.02), WALNUT),
        box(0.96, 0.42, z - 0.06, (0, 0.01, z / 2), CHERRY),
        *(box(0.98, 0.42, 0.015, (0, -0.005, z * k), BLACK) for k in (0.3, 0.6)),
    ]
    return _top(1.0, 0.46, z, board)


def _tv_stand(z: float) -> Furniture:
    board = [
        box(1.1, 0.42, 0.04, (0, 0, z - 0.02), DARK),
        box(1.1, 0.4, 0.04, (0, 0, 0.1), DARK),
        box(0.04, 0.4, z, (-0.5, 0, z / 2), DARK),
        box(0.04, 0.4, z, (0.5, 0, z / 2), DARK),
        box(0.9, 0.03, 0.5, (0, 0.19, z + 0.3), BLACK),
    ]
    return _top(1.1, 0.42, z, board)


def _cart(z: float) -> Furniture:
    board = [
        box(0.6, 0.42, 0.02, (0, 0, z), STEEL),
        box(0.6, 0.42, 0.02, (0, 0, z * 0.45), STEEL),
        *_legs(0.6, 0.42, z, GRAY, 0.03),
    ]
    return _top(0.6, 0.42, z + 0.01, board)


def _seat(w: float, cloth: Color, cushion: Color) -> Furniture:
    z = 0.42
    board = [
        box(w, 0.75, z - 0.12, (0, 0, (z - 0.12) / 2), cloth),
        box(w - 0.3, 0.66, 0.12, (0, -0.03, z - 0.06), cushion),
        box(w, 0.18, 0.45, (0, 0.3, z + 0.15), cloth),
        box(0.15, 0.75, 0.24, (-w / 2 + 0.075, 0, z), cloth),
        box(0.15, 0.75, 0.24, (w / 2 - 0.075, 0, z), cloth),
    ]
    wide = min(w - 0.34, 0.95)
    surface = Surface((0, -0.1, z), wide, 0.46)
    extent = (w / 2, 0.38)
    return Furniture(join(board), (surface,), (0, -0.05, z + 0.08), wide + 0.3, 36, extent)


def _ottoman() -> Furniture:
    purple = (0.45, 0.25, 0.5)
    return _top(0.6, 0.6, 0.42, [box(0.6, 0.6, 0.36, (0, 0, 0.24), purple)])


def _bed() -> Furniture:
    board = [
        box(1.5, 1.6, 0.3, (0, 0, 0.15), WOOD),
        box(1.46, 1.56, 0.2, (0, 0, 0.4), (0.9, 0.9, 0.93)),
        box(1.48, 1.0, 0.22, (0, -0.28, 0.402), (0.35, 0.45, 0.7)),
        box(1.5, 0.08, 0.95, (0, 0.8, 0.47), WOOD),
    ]
    return _top(1.5, 1.6, 0.514, board)


def _basin(w: float, d: float, rim: float, floor: float, counter: Color) -> Furniture:
    """A basin sunk into a counter, with a tap at its back."""
    z, high = (rim + floor) / 2, rim - floor
    parts = [
        box(w, d, 0.02, (0, 0, floor), WATER),
        box(w + 0.16, 0.08, high, (0, -d / 2 - 0.03, z), counter),
        box(w + 0.16, 0.14, high, (0, d / 2 + 0.06, z), counter),
        box(0.08, d, high, (-w / 2 - 0.04, 0, z), counter),
        box(0.08, d, high, (w / 2 + 0.04, 0, z), counter),
        rod(0.022, (0, d / 2 + 0.05, rim), (0, d / 2 + 0.05, rim + 0.2), STEEL),
        rod(0.02, (0, d / 2 + 0.05, rim + 0.2), (0, d / 2 - 0.1, rim + 0.18), STEEL),
        disc(0.03, 0.004, (0, 0.02, floor + 0.012), DARK),
        box(
            w + 0.1,
            d + 0.1,
            max(floor - 0.02, 0.02),
            (0, 0.02, max(floor - 0.02, 0.02) / 2),
            counter,
        ),
    ]
    wide, deep = min(w - 0.06, 0.9), min(d - 0.06, 0.46)
    surface = Surface((0, -d / 2 + 0.03 + deep / 2, floor + 0.012), wide, deep)
    extent = (w / 2 + 0.08, d / 2 + 0.12)
    return Furniture(join(parts), (surface,), (0, 0, rim - 0.05), wide + 0.3, 48, extent)


def _toilet() -> Furniture:
    parts = [
        disc(0.2, 0.36, (0, -0.1, 0.18), CERAMIC),
        disc(0.22, 0.04, (0, -0.1, 0.4), WHITE),
        disc(0.14, 0.045, (0, -0.12, 0.402), WATER),
        box(0.52, 0.26, 0.4, (0, 0.25, 0.58), CERAMIC),
        box(0.54, 0.28, 0.03, (0, 0.25, 0.795), WHITE),
        rod(0.012, (-0.2, 0.11, 0.7), (-0.13, 0.1, 0.7), STEEL),
    ]
    surface = Surface((0, 0.25, 0.812), 0.52, 0.26)
    return Furniture(join(parts), (surface,), (0, 0.15, 0.76), 0.86, 34, (0.27, 0.38))


def _bin(wall: Color, inside: Color, high: float) -> Furniture:
    r, z = 0.21, high / 2
    parts = [
        box(2 * r, 0.02, high, (0, -r, z), wall),
        box(2 * r, 0.02, high, (0, r, z), wall),
        box(0.02, 2 * r, high, (-r, 0, z), wall),
        box(0.02, 2 * r, high, (r, 0, z), wall),
        box(2 * r, 2 * r, 0.02, (0, 0, high - 0.14), inside),
        box(2 * r + 0.03, 0.03, 0.04, (0, -r, high), DARK),
    ]
    surface = Surface((0, 0.0, high - 0.12), 0.38, 0.36)
    return Furniture(join(parts), (surface,), (0, 0, high - 0.05), 0.78, 55, (r, r))


def _hanger(y: float, width: float) -> Furniture:
    z = max(y, 0.5)
    parts = [
        rod(0.015, (-width / 2, -0.02, z), (width / 2, -0.02, z), STEEL),
        box(0.03, 0.14, 0.03, (-width / 2, 0.04, z), STEEL),
        box(0.03, 0.14, 0.03, (width / 2, 0.04, z), STEEL),
        box(width, 0.02, 0.3, (0, 0.11, z - 0.02), CERAMIC),
    ]
    surface = Surface((0, -0.03, z - 0.02), width - 0.04, 0.22)
    return Furniture(join(parts), (surface,), (0, 0, z), 0.7, 14, (width / 2, 0.12))


def _burner(y: float) -> Furniture:
    z = max(y, 0.9)
    board = [
        box(0.5, 0.5, 0.06, (0, 0, z - 0.03), DARK),
        disc(0.16, 0.012, (0, 0, z), BLACK),
        disc(0.12, 0.014, (0, 0, z), (0.5, 0.12, 0.08)),
        disc(0.08, 0.016, (0, 0, z), BLACK),
        box(0.5, 0.5, z - 0.06, (0, 0.02, (z - 0.06) / 2), GRAY),
    ]
    return _top(0.5, 0.5, z + 0.01, board)


def _coffee_machine(y: float) -> Furniture:
    z = max(y, 0.3)
    parts = [
        box(0.34, 0.14, 0.42, (0, 0.12, z + 0.21), DARK),
        box(0.34, 0.36, 0.1, (0, 0.02, z + 0.38), DARK),
        box(0.34, 0.36, 0.03, (0, 0.02, z + 0.015), STEEL),
        disc(0.02, 0.04, (0, -0.03, z + 0.31), STEEL),
        box(0.05, 0.01, 0.03, (0.1, -0.165, z + 0.38), (1.0, 0.2, 0.1), glow=0.8),
    ]
    surface = Surface((0, -0.06, z + 0.03), 0.3, 0.2)
    return Furniture(join(parts), (surface,), (0, 0, z + 0.2), 0.8, 18, (0.17, 0.2))


def _toaster(y: float) -> Furniture:
    z = max(y, 0.3)
    board = [
        box(0.4, 0.22, 0.22, (0, 0, z + 0.11), STEEL),
        box(0.3, 0.03, 0.01, (0, 0.04, z + 0.222), BLACK),
        box(0.3, 0.03, 0.01, (0, -0.04, z + 0.222), BLACK),
    ]
    return _top(0.4, 0.22, z + 0.2, board)


def _pedestal(y: float) -> Furniture:
    z = y if y > 0.3 else 0.5
    return _solid(0.6, 0.5, z, PINE, TAN)


# Types whose height is that of their top: its usual height, and how they look with it.
TOPS: dict[str, tuple[float, Callable[[float], Furniture]]] = {
    "CounterTop": (0.95, lambda z: _solid(1.25, 0.6, z, STONE, (0.5, 0.5, 0.48))),
    "SideTable": (0.58, lambda z: _table(0.6, 0.5, z, OAK, WALNUT)),
    "CoffeeTable": (0.42, lambda z: _table(1.1, 0.62, z, (0.45, 0.55, 0.55), DARK)),
    "DiningTable": (0.78, lambda z: _table(1.3, 0.8, z, MAPLE, OAK)),
    "Desk": (0.76, lambda z: _table(1.2, 0.6, z, PINE, STEEL)),
    "Dresser": (0.9, _dresser),
    "TVStand": (0.5, _tv_stand),
    "Cart": (0.8, _cart),
}
_REST: dict[str, Callable[[float], Furniture]] = {
    "ArmChair": lambda y: _seat(0.85, (0.25, 0.45, 0.35), (0.4, 0.6, 0.5)),
    "Sofa": lambda y: _seat(1.7, (0.45, 0.3, 0.3), (0.65, 0.5, 0.48)),
    "Ottoman": lambda y: _ottoman(),
    "Bed": lambda y: _bed(),
    "Shelf": _shelf,
    "SinkBasin": lambda y: _basin(0.56, 0.4, max(y, 0.6) + 0.03, max(y, 0.6) - 0.1, STONE),
    "BathtubBasin": lambda y: _basin(1.3, 0.62, 0.5, 0.3, CERAMIC),
    "Toilet": lambda y: _toilet(),
    "GarbageCan": lambda y: _bin((0.3, 0.34, 0.36), BLACK, 0.5),
    "LaundryHamper": lambda y: _bin((0.8, 0.68, 0.48), WOOD, 0.6),
    "TowelHolder": lambda y: _hanger(y, 0.6),
    "HandTowelHolder": lambda y: _hanger(y, 0.4),
    "ToiletPaperHanger": lambda y: _hanger(y, 0.3),
    "StoveBurner": _burner,
    "CoffeeMachine": _coffee_machine,
    "Toaster": _toaster,
}


@cache
def draw_furniture(kind: str, y: float, is_open: bool) -> Furniture:
    """A receptacle of a type at height y (meters); of those in TOPS, y is the top's height."""
    if kind in TOPS:
        return TOPS[kind][1](y)
    if kind in CASES:
        return CASES[kind](y, is_open)
    return _REST.get(kind, _pedestal)(y)
