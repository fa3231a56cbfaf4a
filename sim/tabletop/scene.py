"""The two MuJoCo scenes of the tabletop: compiled once a process, laid out anew each episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mujoco
import numpy as np

from sim.tabletop.arm import Arm

OBJECTS = ("red cube", "green cube", "yellow brick")
RECEPTACLES = ("blue bowl", "white tray")
NEUTRAL = np.array([0.37, 0.0, 0.20])  # meters; where episodes start
NEUTRAL_SPREAD = 0.015  # meters each way at the start of an episode

OBJECT_HEIGHT = 0.02  # of an object's center above what it stands on, meters
DRAWER_OPEN = (0.105, 0.13)  # meters of opening that count as open at the start
DRAWER_FLOOR = 0.012  # height of the drawer's floor, meters
# Where the drawer's object stands in the drawer's own frame (opening 0, cabinet's center), meters.
DRAWER_SPOT_LOW, DRAWER_SPOT_HIGH = np.array([0.0, -0.024]), np.array([0.03, 0.024])
CABINET_X = 0.22

# Where things stand on the table: x, y of centers, meters.
_TABLE_LOW, _TABLE_HIGH = np.array([0.27, -0.19]), np.array([0.47, 0.19])
_OBJECTS_APART = 0.105  # the open hand must fit beside a neighbor
_OBJECT_FROM_RECEPTACLE = 0.118
_RECEPTACLES_APART = 0.16


@dataclass(frozen=True)
class Layout:
    """Where everything stands when an episode starts (meters, radians, base frame)."""

    objects: Mapping[str, tuple[float, float, float, float]]  # name -> x, y, z, yaw
    receptacles: Mapping[str, tuple[float, float]]  # name -> x, y; empty in the drawer scene
    hand: np.ndarray  # [3]
    drawer_opening: float = 0.0


@cache
def load_scene(name: str) -> mujoco.MjModel:
    """Compile the "table" or the "drawer" scene of assets/ once a process; treat as read-only."""
    path = Path(__file__).parent / "assets" / f"tabletop_{name}.xml"
    return mujoco.MjModel.from_xml_path(str(path))


def sample_hand(rng: np.random.Generator) -> np.ndarray:
    """A start of the hand near neutral, [3], meters."""
    return NEUTRAL + rng.uniform(-NEUTRAL_SPREAD, NEUTRAL_SPREAD, 3)


def sample_table(rng: np.random.Generator) -> Layout:
    """Three objects and two receptacles, none overlapping, each with room for the hand."""
    names = (*RECEPTACLES, *OBJECTS)
    spots = rng.uniform(_TABLE_LOW, _TABLE_HIGH, (len(names), 2))
    while not _apart(spots):
        spots = rng.uniform(_TABLE_LOW, _TABLE_HIGH, (len(names), 2))
    where = dict(zip(names, spots.tolist(), strict=True))
    yaws = rng.uniform(-0.3, 0.3, len(OBJECTS))
    return Layout(
        objects={
            name: (*where[name], OBJECT_HEIGHT, float(yaw))
            for name, yaw in zip(OBJECTS, yaws, strict=True)
        },
        receptacles={name: tuple(where[name]) for name in RECEPTACLES},
        hand=sample_hand(rng),
    )


def _apart(spots: np.ndarray) -> bool:
    """Whether receptacles (the first two rows) and objects keep their distances."""
    for i in range(len(spots)):
        for j in range(i):
            if i < len(RECEPTACLES):
                least = _RECEPTACLES_APART
            elif j < len(RECEPTACLES):
                least = _OBJECT_FROM_RECEPTACLE
            else:
                least = _OBJECTS_APART
            if math.dist(spots[i], spots[j]) < least:
                return False
    return True


def sample_drawer(rng: np.random.Generator, target: str, is_open: bool) -> Layout:
    """`target` in the drawer, the other objects on the table at either side of it."""
    opening = float(rng.uniform(*DRAWER_OPEN))
    spot = rng.uniform(DRAWER_SPOT_LOW, DRAWER_SPOT_HIGH)
    sides = rng.permutation([-1.0, 1.0])
    beside = rng.uniform([0.34, 0.165], [0.46, 0.195], (2, 2))
    yaws = rng.uniform(-0.2, 0.2, 3)
    opening = opening if is_open else 0.0
    objects = {
        target: (
            CABINET_X + opening + float(spot[0]),
            float(spot[1]),
            DRAWER_FLOOR + OBJECT_HEIGHT,
            float(yaws[0]),
        )
    }
    for i, name in enumerate(name for name in OBJECTS if name != target):
        x, y = float(beside[i, 0]), float(beside[i, 1] * sides[i])
        objects[name] = (x, y, OBJECT_HEIGHT, float(yaws[1 + i]))
    return Layout(objects, {}, sample_hand(rng), opening)


class Scene:
    """One episode's physics state over a shared model, with everything addressed by name."""

    def __init__(self, name: str) -> None:
        self.model = load_scene(name)
        self.data = mujoco.MjData(self.model)
        self.arm = Arm(self.model, self.data)
        self._bodies = {name: self.model.body(name).id for name in OBJECTS}
        self._qpos = {n: int(self.model.jnt_qposadr[self._joint(n)]) for n in OBJECTS}
        self._qvel = {n: int(self.model.jnt_dofadr[self._joint(n)]) for n in OBJECTS}
        self._mocap: dict[str, int] = {}
        self._drawer: int | None = None
        if name == "table":
            self._mocap = {n: int(self.model.body(n).mocapid[0]) for n in RECEPTACLES}
        else:
            self._drawer = int(self.model.joint("drawer").qposadr[0])
            self._handle = self.model.site("handle").id

    def _joint(self, name: str) -> int:
        return int(self.model.body_jntadr[self._bodies[name]])

    def arrange(self, layout: Layout) -> None:
        """Reset the physics to `layout`, everything at rest."""
        mujoco.mj_resetData(self.model, self.data)
        for name, (x, y, z, yaw) in layout.objects.items():
            at = self._qpos[name]
            self.data.qpos[at : at + 7] = (x, y, z, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2))
        for name, (x, y) in layout.receptacles.items():
            self.data.mocap_pos[self._mocap[name]] = (x, y, 0.0)
        if self._drawer is not None:
            self.data.qpos[self._drawer] = layout.drawer_opening
        self.arm.place(layout.hand)
        mujoco.mj_forward(self.model, self.data)

    def object_position(self, name: str) -> np.ndarray:
        """Center of an object, [3], meters."""
        return self.data.xpos[self._bodies[name]]

    def object_speed(self, name: str) -> float:
        """Linear speed of an object, m/s."""
        at = self._qvel[name]
        return float(np.linalg.norm(self.data.qvel[at : at + 3]))

    def receptacle_position(self, name: str) -> np.ndarray:
        """Center of a receptacle's foot, [3], meters."""
        return self.data.mocap_pos[self._mocap[name]]

    @property
    def drawer_opening(self) -> float:
        """Meters that the drawer is pulled out; 0 in the table scene."""
        return 0.0 if self._drawer is None else float(self.data.qpos[self._drawer])

    @property
    def handle_position(self) -> np.ndarray | None:
        """Center of the drawer's handle, [3], meters; None in the table scene."""
        return None if self._drawer is None else self.data.site_xpos[self._handle]
