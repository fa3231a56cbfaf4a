"""Colored primitives that ALFWorld's furniture and objects are put together from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

Color = tuple[float, float, float] | tuple[float, float, float, float]
Vector = tuple[float, float, float]

WHITE, BLACK, GRAY = (0.95, 0.95, 0.93), (0.08, 0.08, 0.09), (0.55, 0.56, 0.58)
STEEL, DARK = (0.74, 0.77, 0.8), (0.22, 0.22, 0.25)
WOOD, TAN = (0.55, 0.34, 0.17), (0.80, 0.62, 0.38)
RED, ORANGE, YELLOW = (0.85, 0.07, 0.07), (0.95, 0.45, 0.05), (0.98, 0.85, 0.1)
GREEN, BLUE = (0.15, 0.6, 0.15), (0.12, 0.3, 0.85)
PURPLE, PINK, BROWN = (0.5, 0.15, 0.6), (0.95, 0.5, 0.65), (0.4, 0.22, 0.1)
CREAM, GOLD, SKY = (0.95, 0.88, 0.7), (0.85, 0.65, 0.13), (0.55, 0.8, 0.95)

_BOX, _CYLINDER = int(mujoco.mjtGeom.mjGEOM_BOX), int(mujoco.mjtGeom.mjGEOM_CYLINDER)
_CAPSULE, _BALL = int(mujoco.mjtGeom.mjGEOM_CAPSULE), int(mujoco.mjtGeom.mjGEOM_ELLIPSOID)


@dataclass(frozen=True, eq=False)
class Parts:
    """n primitives in one frame: x to the viewer's right, y away from the viewer, z up; meters.

    kinds [n] MuJoCo's numbers of geom types; sizes [n, 3] half extents along a part's own axes, a
    capsule's without its caps; centers [n, 3];
    turns [n, 3, 3] rotations; colors [n, 4] RGBA in [0, 1]; glow [n] share of light of its own.
    """

    kinds: np.ndarray
    sizes: np.ndarray
    centers: np.ndarray
    turns: np.ndarray
    colors: np.ndarray
    glow: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)

    def placed(
        self, at: Sequence[float] | np.ndarray, turn: np.ndarray | None = None, scale: float = 1
    ) -> Parts:
        """The same parts scaled, turned ([3, 3]) and moved to `at` (meters)."""
        centers, turns = self.centers * scale, self.turns
        if turn is not None:
            centers, turns = centers @ turn.T, turn @ turns
        sizes = self.sizes * scale if scale != 1 else self.sizes
        return Parts(self.kinds, sizes, centers + at, turns, self.colors, self.glow)

    def tinted(self, color: Color, share: float) -> Parts:
        """Every color mixed with `share` of `color`; opacity stays."""
        colors = self.colors.copy()
        colors[:, :3] += share * (np.asarray(color[:3]) - colors[:, :3])
        return Parts(self.kinds, self.sizes, self.centers, self.turns, colors, self.glow)


Shape = tuple[Parts, ...]


def join(pieces: Sequence[Parts]) -> Parts:
    """All pieces as one, in their order."""
    if not pieces:
        return _NOTHING
    return Parts(
        np.concatenate([p.kinds for p in pieces]),
        np.concatenate([p.sizes for p in pieces]),
        np.concatenate([p.centers for p in pieces]),
        np.concatenate([p.turns for p in pieces]),
        np.concatenate([p.colors for p in pieces]),
        np.concatenate([p.glow for p in pieces]),
    )


_NOTHING = Parts(
    np.zeros(0, int),
    np.zeros((0, 3)),
    np.zeros((0, 3)),
    np.zeros((0, 3, 3)),
    np.zeros((0, 4)),
    np.zeros(0),
)


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation about "x", "y" or "z" by degrees, counter-clockwise seen from the axis' end."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == "x":
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def _one(
    kind: int, size: Vector, at: Vector, color: Color, turned: np.ndarray | None, glow: float
) -> Parts:
    rgba = (*color, 1.0) if len(color) == 3 else color
    rotation = np.eye(3) if turned is None else turned
    return Parts(
        np.array([kind]),
        np.array([size], float),
        np.array([at], float),
        rotation[None],
        np.array([rgba], float),
        np.array([glow]),
    )


def box(
    width: float,
    depth: float,
    height: float,
    at: Vector,
    color: Color,
    turned: np.ndarray | None = None,
    glow: float = 0,
) -> Parts:
    """A box of whole extents along x, y and z about its center `at`."""
    return _one(_BOX, (width / 2, depth / 2, height / 2), at, color, turned, glow)


def block(width: float, depth: float, low: float, high: float, color: Color) -> Parts:
    """A box about the z axis from height `low` to `high`."""
    return box(width, depth, high - low, (0, 0, (low + high) / 2), color)


def ball(
    rx: float,
    ry: float,
    rz: float,
    at: Vector,
    color: Color,
    glow: float = 0,
    turned: np.ndarray | None = None,
) -> Parts:
    """An ellipsoid of radii rx, ry, rz about `at`."""
    return _one(_BALL, (rx, ry, rz), at, color, turned, glow)


_AXES = {"x": turn("y", 90), "y": turn("x", 90), "z": None}


def disc(
    radius: float, height: float, at: Vector, color: Color, axis: str = "z", glow: float = 0
) -> Parts:
    """A cylinder about `at`, its axis along "x", "y" or "z"."""
    return _one(_CYLINDER, (radius, radius, height / 2), at, color, _AXES[axis], glow)


def rod(radius: float, start: Vector, end: Vector, color: Color, glow: float = 0) -> Parts:
    """A capsule from `start` to `end`."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    along = b - a
    length = float(np.linalg.norm(along))
    z = along / length
    x = np.cross((0, 1, 0) if abs(z[1]) < 0.9 else (1, 0, 0), z)
    x /= np.linalg.norm(x)
    middle = (a + b) / 2
    return _one(
        _CAPSULE,
        (radius, radius, length / 2),
        (float(middle[0]), float(middle[1]), float(middle[2])),
        color,
        np.stack([x, np.cross(z, x), z], axis=1),
        glow,
    )
