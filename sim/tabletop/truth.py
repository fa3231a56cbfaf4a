"""Ground truth of a tabletop scene, and where each camera sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from sim.tabletop.scene import CABINET_X, OBJECTS, RECEPTACLES, Scene

GRIPPER, HANDLE, DRAWER = "gripper", "drawer handle", "drawer"
INSIDE_RADIUS = 0.05  # meters from a receptacle's center
INSIDE_HEIGHT = 0.045  # meters above the table

_DRAWER_DEPTH, _DRAWER_WIDTH, _DRAWER_HEIGHT = 0.066, 0.088, 0.06  # inside, half, half, whole
_HAND_BODIES = ("hand", "left_finger", "right_finger")


@dataclass(frozen=True)
class Sighting:
    """Where a camera sees the center of a thing."""

    column: float  # 0 at the image's left edge, 1 at its right edge
    row: float  # 0 at the top, 1 at the bottom
    depth: float  # meters along the camera's axis
    share: float  # of the thing's sample points: those in the image with nothing before them


@dataclass(frozen=True)
class SceneTruth:
    """The state of the simulation in the words of captions: names, meters, base frame."""

    # Centers [3] of objects, receptacles, the gripper's grasp point and the drawer's handle.
    positions: Mapping[str, np.ndarray]
    # The object between both finger pads, touched by both.
    held: str | None
    # object -> the receptacle (or "drawer") that it lies in.
    inside: Mapping[str, str]
    # Meters; None where there is no drawer.
    drawer_opening: float | None
    # camera -> name -> where its center is in the image; only what has its center there.
    sightings: Mapping[str, Mapping[str, Sighting]]


def read_truth(scene: Scene, cameras: Sequence[str], aspect: float = 1.0) -> SceneTruth:
    """Everything that captions may say of a scene; `aspect` is the images' width over height."""
    positions = {name: scene.object_position(name).copy() for name in OBJECTS}
    opening = None
    if scene.handle_position is None:
        positions |= {name: scene.receptacle_position(name).copy() for name in RECEPTACLES}
    else:
        positions[HANDLE] = scene.handle_position.copy()
        opening = scene.drawer_opening
    positions[GRIPPER] = scene.arm.position.copy()
    held = _held(scene)
    inside = {
        name: box
        for name in OBJECTS
        if name != held and (box := _container(positions, name, opening))
    }
    sightings = {camera: _sightings(scene, camera, positions, aspect) for camera in cameras}
    return SceneTruth(positions, held, inside, opening, sightings)


def project(scene: Scene, camera: str, points: np.ndarray, aspect: float = 1.0) -> np.ndarray:
    """Column, row (both 0 to 1 inside the image) and depth in meters of points [n, 3], as [n, 3];
    depth is negative behind the camera."""
    at = scene.model.camera(camera).id
    from_camera = (points - scene.data.cam_xpos[at]) @ scene.data.cam_xmat[at].reshape(3, 3)
    depth = -from_camera[:, 2]
    half = math.tan(math.radians(float(scene.model.cam_fovy[at])) / 2)
    half = half * np.maximum(np.abs(depth), 1e-9)
    column = 0.5 + 0.5 * from_camera[:, 0] / (half * aspect)
    return np.stack([column, 0.5 - 0.5 * from_camera[:, 1] / half, depth], 1)


def _held(scene: Scene) -> str | None:
    """The object that both pads touch."""
    model, data = scene.model, scene.data
    pads = [model.geom(name).id for name in ("left_pad", "right_pad")]
    touched: dict[int, set[str]] = {pad: set() for pad in pads}
    for contact in data.contact[: data.ncon]:
        for one, other in (contact.geom, contact.geom[::-1]):
            if one in touched:
                touched[one].add(model.body(model.geom_bodyid[other]).name)
    both = touched[pads[0]] & touched[pads[1]] & set(OBJECTS)
    return min(both) if both else None


def _container(positions: Mapping[str, np.ndarray], name: str, opening: float | None) -> str | None:
    at = positions[name]
    if opening is not None:
        across = abs(at[0] - CABINET_X - opening) < _DRAWER_DEPTH and abs(at[1]) < _DRAWER_WIDTH
        return DRAWER if across and at[2] < _DRAWER_HEIGHT else None
    for box in RECEPTACLES:
        off = at - positions[box]
        if np.hypot(off[0], off[1]) < INSIDE_RADIUS and off[2] < INSIDE_HEIGHT:
            return box
    return None


def _samples(scene: Scene, name: str, at: np.ndarray) -> list[np.ndarray]:
    """Points of a thing that a camera would look at, its center first."""
    if name == GRIPPER:
        pads = [scene.model.geom(part).id for part in ("left_pad", "right_pad", "palm")]
        return [at, *(scene.data.geom_xpos[pad] for pad in pads)]
    around, up = (0.036, 0.004) if name in RECEPTACLES else (0.012, 0.015)
    sides = ((1, 0), (0, 1), (0, -1), (-1, 0))
    return [at, *(at + np.array([around * x, around * y, up]) for x, y in sides)]


def _sightings(
    scene: Scene, camera: str, positions: Mapping[str, np.ndarray], aspect: float
) -> dict[str, Sighting]:
    """The things whose center is in a camera's image, by name."""
    model, data = scene.model, scene.data
    samples = {name: np.array(_samples(scene, name, at)) for name, at in positions.items()}
    points = np.concatenate(list(samples.values()))
    eye = data.cam_xpos[model.camera(camera).id].copy()
    first, distance = np.full(len(points), -1, np.int32), np.zeros(len(points))
    rays = (points - eye).ravel()
    mujoco.mj_multiRay(
        model, data, eye, rays, None, 1, -1, first, distance, len(points), mujoco.mjMAXVAL
    )
    hit = np.where(first < 0, -1, model.geom_bodyid[first])
    places = project(scene, camera, points, aspect)
    in_image = (places[:, 2] > 0) & (places[:, :2] >= 0).all(1) & (places[:, :2] < 1).all(1)
    found, at = {}, 0
    for name, own_points in samples.items():
        part = slice(at, at + len(own_points))
        at = part.stop
        if not in_image[part.start]:
            continue
        bodies = _HAND_BODIES if name == GRIPPER else (DRAWER,) if name == HANDLE else (name,)
        own = np.isin(hit[part], [model.body(body).id for body in bodies])
        # The grasp point lies in the air between the pads: whatever is behind it does not hide it.
        seen = (own | (distance[part] < 0) | (distance[part] >= 1)) & in_image[part]
        column, row, depth = places[part.start].tolist()
        found[name] = Sighting(column, row, depth, float(seen.mean()))
    return found
