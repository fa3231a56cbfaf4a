"""The places of everything in an ALFWorld room: its furniture, and the objects on and in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sim.alfworld.drawing.furniture import TOPS, draw_furniture
from sim.alfworld.drawing.objects import CELL, draw_object
from sim.alfworld.drawing.shapes import Parts, box, join, turn
from sim.alfworld.drawing.surfaces import Furniture, Surface
from sim.alfworld.state import Receptacle, RoomObject, RoomState

WALL_HEIGHT = 2.8  # meters
_ON_FLOOR = 0.3  # meters; below this AI2-THOR's position is furniture's foot, above it its top
_ON_TABLES = frozenset({"Microwave", "Safe", "CoffeeMachine", "Toaster"})
_COLUMN = 0.2  # meters; drawers and cabinets above one another face the same way
_LARGEST = 1.55  # of CELL: how much the objects of an uncrowded surface are enlarged
# Floor and wall of kitchens, living rooms, bedrooms and bathrooms.
_DECOR = {
    0: ((0.55, 0.42, 0.32), (0.9, 0.85, 0.7)),
    2: ((0.5, 0.36, 0.25), (0.72, 0.8, 0.7)),
    3: ((0.45, 0.4, 0.42), (0.75, 0.75, 0.88)),
    4: ((0.62, 0.68, 0.7), (0.7, 0.86, 0.88)),
}


@dataclass(frozen=True, eq=False)
class Placed:
    """A receptacle with its furniture in the room's frame: x right, y THOR's z, z up; meters."""

    receptacle: Receptacle
    furniture: Furniture
    facing: float  # degrees: the way the agent looks when it faces it
    turn: np.ndarray  # [3, 3]
    foot: np.ndarray  # [3]
    low: np.ndarray  # [3] of its bounding box
    high: np.ndarray  # [3]

    def to_room(self, point: Sequence[float]) -> np.ndarray:
        """A point of the furniture's frame in the room's."""
        return self.foot + self.turn @ np.asarray(point, float)

    @property
    def parts(self) -> Parts:
        """The furniture's parts in the room's frame."""
        return self.furniture.parts.placed(self.foot, self.turn)

    @property
    def shows_contents(self) -> bool:
        """Whether its objects can be seen and taken."""
        return self.receptacle.open or not self.receptacle.openable


def place_receptacles(state: RoomState) -> tuple[Placed, ...]:
    """Every receptacle of the room, in the state's order."""
    return _placed(state.receptacles)


@lru_cache(maxsize=64)
def _placed(receptacles: tuple[Receptacle, ...]) -> tuple[Placed, ...]:
    return tuple(_place(x, _facing(x, receptacles), _height(x, receptacles)) for x in receptacles)


def _place(receptacle: Receptacle, facing: float, height: float) -> Placed:
    furniture = draw_furniture(receptacle.type, round(height, 3), receptacle.open)
    rotation = turn("z", -facing)
    x, _, y = receptacle.position
    foot = np.array([x, y, 0.0])
    parts = furniture.parts
    reach = np.abs(parts.turns) @ parts.sizes[:, :, None]
    low = (parts.centers - reach[:, :, 0]).min(axis=0)
    high = (parts.centers + reach[:, :, 0]).max(axis=0)
    corners = np.array([[a, b] for a in (low[0], high[0]) for b in (low[1], high[1])])
    flat = corners @ rotation[:2, :2].T + foot[:2]
    return Placed(
        receptacle,
        furniture,
        facing,
        rotation,
        foot,
        np.array([*flat.min(axis=0), low[2]]),
        np.array([*flat.max(axis=0), high[2]]),
    )


def _facing(one: Receptacle, everything: Sequence[Receptacle]) -> float:
    """The way that most stands of its column face, by quarter turns: the pose that reaches a lower
    drawer may look at it from the side."""
    x, _, z = one.position
    column = Counter(
        90 * round(other.stand.facing / 90) % 360
        for other in everything
        if other.type == one.type
        and math.dist((x, z), (other.position[0], other.position[2])) < _COLUMN
    )
    most = max(column.values())
    own = 90 * round(one.stand.facing / 90) % 360
    best = [facing for facing, count in sorted(column.items()) if count == most]
    return float(own if own in best else best[0])


def _height(one: Receptacle, everything: Sequence[Receptacle]) -> float:
    """Height of a table's top, above the drawers that it holds; else the layout's height, on top
    of the table that carries it."""
    x, y, z = one.position
    if one.type not in TOPS:
        below = [
            _height(other, everything)
            for other in everything
            if one.type in _ON_TABLES
            and other.type in TOPS
            and math.dist((x, z), (other.position[0], other.position[2])) < 0.8
        ]
        return max([y, *(top for top in below if abs(top - y) < 0.2)])
    drawers = [
        other.position[1] + 0.11
        for other in everything
        if other.type == "Drawer"
        and abs(other.position[0] - x) < 0.45
        and abs(other.position[2] - z) < 0.45
    ]
    return max([y if y > _ON_FLOOR else TOPS[one.type][0], *drawers])


def place_objects(placed: Placed, things: Sequence[RoomObject]) -> Parts:
    """The objects that stand on or in a receptacle, in the room's frame: the tallest at the back,
    each in a cell of its own, larger where there are few."""
    surfaces = placed.furniture.surfaces
    drawn = [draw_object(x) for x in things]
    order = sorted(
        range(len(things)), key=lambda i: (-_tall(drawn[i]), things[i].type, things[i].id)
    )
    share = math.ceil(len(order) / len(surfaces)) if len(order) > 3 else 3
    pieces = []
    for i, surface in enumerate(surfaces):
        here = order[i * share : (i + 1) * share] if i + 1 < len(surfaces) else order[i * share :]
        cells, scale = _cells(surface, len(here))
        for cell, k in zip(cells, here, strict=True):
            pieces.append(drawn[k].placed(placed.to_room(cell), placed.turn, scale))
    return join(pieces)


@lru_cache(maxsize=4096)
def _tall(parts: Parts) -> float:
    return round(float((parts.centers[:, 2] + parts.sizes.min(axis=1)).max()), 1)


def _cells(surface: Surface, count: int) -> tuple[list[tuple[float, float, float]], float]:
    """Centers of `count` cells, from the back left to the front right, and the objects' scale."""
    if count == 0:
        return [], 1.0
    rows = max(
        range(1, count + 1),
        key=lambda r: min(surface.width / math.ceil(count / r), surface.depth / r * 1.25),
    )
    columns = math.ceil(count / rows)
    side = min(surface.width / columns, surface.depth / rows * 1.25)
    wide, deep = surface.width / columns, surface.depth / rows
    x0, y0, z = surface.center
    cells = []
    for i in range(count):
        row, column = divmod(i, columns)
        in_row = min(columns, count - row * columns)
        x = x0 + (column - (in_row - 1) / 2) * wide
        y = y0 + ((rows - 1) / 2 - row) * deep
        cells.append((x, y, z))
    return cells, min(_LARGEST, side / CELL)


@dataclass(frozen=True)
class Bounds:
    """The room's walls: lowest and highest x and y, meters."""

    low: tuple[float, float]
    high: tuple[float, float]


def room_bounds(state: RoomState) -> Bounds:
    """Walls around all furniture and everywhere that can be stood at."""
    return _bounds(state.receptacles, state.reachable)


@lru_cache(maxsize=64)
def _bounds(
    receptacles: tuple[Receptacle, ...], reachable: tuple[tuple[float, float], ...]
) -> Bounds:
    low, high = [], []
    for placed in _placed(receptacles):
        # Not its bounding box, which an open drawer or door would push outwards.
        wide, deep = placed.furniture.extent
        if placed.facing % 180 == 90:
            wide, deep = deep, wide
        x, y = placed.foot[:2]
        low.append((x - wide - 0.06, y - deep - 0.06))
        high.append((x + wide + 0.06, y + deep + 0.06))
    for x, y in [*reachable, *((r.stand.x, r.stand.z) for r in receptacles)]:
        low.append((x - 0.5, y - 0.5))
        high.append((x + 0.5, y + 0.5))
    (x0, y0), (x1, y1) = np.min(low, axis=0), np.max(high, axis=0)
    return Bounds((float(x0), float(y0)), (float(x1), float(y1)))


def draw_walls(state: RoomState, eye: np.ndarray) -> Parts:
    """Floor, and the ceiling and walls that `eye` [3] is on the inner side of. Each floor plan has
    its own shade, so that rooms can be told apart."""
    bounds = room_bounds(state)
    floor, wall = _DECOR.get(state.floor_plan // 100, _DECOR[0])
    shade = np.array([0.06, -0.04, 0.05]) * math.sin(state.floor_plan * 2.4)
    tint = np.array([0.05, 0.05, -0.06]) * math.cos(state.floor_plan * 1.7)
    red, green, blue = (float(c) for c in np.clip(np.asarray(wall) + shade + tint, 0, 1))
    (x0, y0), (x1, y1) = bounds.low, bounds.high
    x, y, w, d, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, WALL_HEIGHT
    thick = 0.1
    pieces = [box(w, d, thick, (x, y, -thick / 2), floor)]
    if eye[2] < h:
        pieces.append(box(w, d, thick, (x, y, h + thick / 2), (0.93, 0.93, 0.91)))
    paint, darker = (red, green, blue), (red * 0.93, green * 0.93, blue * 0.93)
    if eye[0] > x0:
        pieces.append(box(thick, d, h, (x0 - thick / 2, y, h / 2), darker))
    if eye[0] < x1:
        pieces.append(box(thick, d, h, (x1 + thick / 2, y, h / 2), darker))
    if eye[1] > y0:
        pieces.append(box(w, thick, h, (x, y0 - thick / 2, h / 2), paint))
    if eye[1] < y1:
        pieces.append(box(w, thick, h, (x, y1 + thick / 2, h / 2), paint))
    return join(pieces)
