"""The floor plans that the `alfworld` package ships: receptacles, where to stand, object types."""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sim.alfworld.state import Layout, Stand

INSTALL = "install it with: pip install 'qsft-robot[alfworld]'"
# AI2-THOR numbers its rooms by kind: 1-30, 201-230, 301-330, 401-430.
ROOM_KINDS = {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}
FLOOR_PLANS = tuple(100 * hundreds + i for hundreds in ROOM_KINDS for i in range(1, 31))
# ALFRED keeps the first six rooms of each kind away from training.
_UNSEEN_PER_KIND = 6


def package_folder() -> Path:
    """Where the `alfworld` package lies, without importing it; ImportError says how to install."""
    spec = find_spec("alfworld")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"ALFWorld needs the package alfworld, which is missing; {INSTALL}")
    return Path(spec.submodule_search_locations[0])


def room_kind(floor_plan: int) -> str:
    """Kitchen, LivingRoom, Bedroom or Bathroom."""
    return ROOM_KINDS[floor_plan // 100]


def is_unseen(floor_plan: int) -> bool:
    """Whether a room is one of those that are never trained on."""
    return floor_plan % 100 <= _UNSEEN_PER_KIND


@cache
def read_layout(floor_plan: int) -> Layout:
    """The receptacles of a floor plan, where each is reached from, and where one can stand.

    Raises ValueError on a number that names no floor plan, ImportError without the package.
    """
    if floor_plan not in FLOOR_PLANS:
        raise ValueError(
            f"There is no FloorPlan{floor_plan}; there are 1-30 (kitchens), 201-230 (living "
            "rooms), 301-330 (bedrooms) and 401-430 (bathrooms)."
        )
    folder = package_folder() / "gen" / "layouts"
    poses = json.loads((folder / f"FloorPlan{floor_plan}-openable.json").read_text())
    points = np.load(folder / f"FloorPlan{floor_plan}-layout.npy")
    stands = {name: Stand(*map(float, pose)) for name, pose in sorted(poses.items())}
    reachable = tuple((float(x), float(z)) for x, z in points[:, :2])
    return Layout(floor_plan, stands, reachable)


@cache
def object_types(floor_plan: int) -> tuple[str, ...]:
    """The types of things in a floor plan (apples as well as windows), sorted."""
    file = package_folder() / "gen" / "layouts" / f"FloorPlan{floor_plan}-objects.json"
    return tuple(sorted(json.loads(file.read_text())))


def receptacle_type(name: str) -> str:
    """The type in an AI2-THOR id: Cabinet|+00.68|..., or Sink|...|SinkBasin, a part of a sink."""
    parts = name.split("|")
    return parts[4] if len(parts) > 4 else parts[0]
