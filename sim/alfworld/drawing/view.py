"""Pictures of an ALFWorld room, drawn by MuJoCo from its state: the agent's view and the whole."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sim.alfworld.drawing.objects import draw_object
from sim.alfworld.drawing.room import (
    Placed,
    draw_walls,
    place_objects,
    place_receptacles,
    room_bounds,
)
from sim.alfworld.drawing.shapes import Parts, ball, box, disc, join, rod, turn
from sim.alfworld.state import RoomState
from sim.rendering import Camera, render_primitives

VIEW_SIZE = (128, 128)
ROOM_SIZE = (256, 256)

_FIELD = 55.0  # degrees, vertical, where the agent faces a receptacle
_WIDE = 78.0  # degrees, vertical, in the middle of the room
_EYE = 1.75  # meters above the floor, in the middle of the room
_ASIDE = 18.0  # degrees at most that a receptacle is seen from its side
_TALLEST = 0.4  # meters that objects may reach above their surface
_FAR = 3.5  # meters; furniture further away is left out where the agent faces something
_SKIN = (0.87, 0.66, 0.52)


def draw_view(state: RoomState, size: tuple[int, int] = VIEW_SIZE) -> np.ndarray:
    """The agent's view from where it stands, uint8 [height, width, 3]; the same state gives the
    same pixels.

    It faces the receptacles that it is at, near enough to tell their contents; furniture in the
    way of them is left out. What it holds is at the bottom. In the middle of the room it looks
    across the room. Raises RuntimeError, saying what to set, when the machine gives no OpenGL.
    """
    placed = place_receptacles(state)
    faced = [x for x in placed if x.receptacle.id in state.at]
    camera = _close_camera(faced) if faced else _wide_camera(state, placed)
    seen = _unobstructed(placed, faced, camera) if faced else [(x, True) for x in placed]
    pieces = [draw_walls(state, camera.eye), *_room_parts(state, seen)]
    held = state.held
    if held is not None:
        pieces.append(_in_hand(draw_object(held), camera))
    return _render(join(pieces), camera, size)


def draw_room(state: RoomState, size: tuple[int, int] = ROOM_SIZE) -> np.ndarray:
    """The room from above with the agent in it, and the agent's view in a corner: uint8
    [height, width, 3]."""
    placed = place_receptacles(state)
    bounds = room_bounds(state)
    low, high = np.asarray(bounds.low), np.asarray(bounds.high)
    middle, extent = (low + high) / 2, high - low
    aspect = size[1] / size[0]
    far = max(extent[1] * 1.0 + 1.6, (extent[0] + 1.2) / aspect) / (2 * math.tan(_radians(22)))
    camera = look_at(np.array([*middle, 0.3]), math.radians(90), _radians(-58), far, 44)
    pieces = [draw_walls(state, camera.eye), *_room_parts(state, [(x, True) for x in placed])]
    spot = _agent_spot(state, placed)
    pieces.append(_agent(state).placed((*spot, 0)))
    picture = _render(join(pieces), camera, size)
    side, edge = size[0] * 7 // 16, 2
    inset = draw_view(state, (side, side))
    framed = np.full((side + edge, side + edge, 3), 255, np.uint8)
    # In the corner at the front that the agent is not in.
    if spot[0] > middle[0]:
        framed[edge:, :side] = inset
        picture[-side - edge :, : side + edge] = framed
    else:
        framed[edge:, edge:] = inset
        picture[-side - edge :, -side - edge :] = framed
    return picture


def look_at(
    point: np.ndarray, azimuth: float, elevation: float, distance: float, field: float
) -> Camera:
    """A camera `distance` from a point that it looks at, along azimuth and elevation (radians)."""
    level = math.cos(elevation)
    forward = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
    return Camera(point - distance * forward, azimuth, elevation, field)


def _close_camera(faced: Sequence[Placed]) -> Camera:
    points = [x.to_room(x.furniture.focus) for x in faced]
    focus = np.mean(points, axis=0)
    apart = max((float(np.linalg.norm(p - focus)) for p in points), default=0.0)
    span = max(x.furniture.span for x in faced) + 1.6 * apart
    pitch = float(np.mean([x.furniture.pitch for x in faced]))
    first = faced[0]
    # From the side on which the agent stands, yet never so far that a door hides the contents.
    stand = first.receptacle.stand
    away = first.turn.T @ np.array([stand.x - first.foot[0], stand.z - first.foot[1], 0.0])
    aside = math.degrees(math.atan2(away[0], max(-away[1], 0.1)))
    facing = first.facing - max(-_ASIDE, min(_ASIDE, aside / 2))
    distance = span / 2 / math.tan(_radians(_FIELD / 2))
    # The lower part of the view is left to what the agent holds.
    aim = focus - np.array([0, 0, 0.03 * span])
    return look_at(aim, _radians(90 - facing), _radians(-pitch), distance, _FIELD)


def _wide_camera(state: RoomState, placed: Sequence[Placed]) -> Camera:
    middle = np.mean([x.foot for x in placed], axis=0)
    points = state.reachable or tuple((x.stand.x, x.stand.z) for x in state.receptacles)
    stood = np.asarray(points, float)
    away = np.linalg.norm(stood - middle[:2], axis=1)
    eye = np.array([*stood[int(away.argmax())], _EYE])
    to = np.array([*middle[:2], 0.75]) - eye
    azimuth = math.atan2(to[1], to[0])
    return Camera(eye, azimuth, math.atan2(to[2], math.hypot(to[0], to[1])), _WIDE)


def _unobstructed(
    placed: Sequence[Placed], faced: Sequence[Placed], camera: Camera
) -> list[tuple[Placed, bool]]:
    """The faced receptacles, and those near them that hide nothing of their contents; each with
    whether its own contents may be drawn without being taken for theirs."""
    ends = np.concatenate([_sight_ends(x) for x in faced])
    middle = np.mean([x.foot for x in faced], axis=0)
    kept = []
    for other in placed:
        if any(other is x for x in faced):
            kept.append((other, True))
            continue
        if np.linalg.norm(other.foot - middle) > _FAR or _behind(other, camera):
            continue
        if not _crossed(other.low, other.high, camera.eye, ends):
            top = max(surface.center[2] for surface in other.furniture.surfaces) + _TALLEST
            above = np.array([*other.high[:2], max(top, other.high[2])])
            kept.append((other, not _crossed(other.low, above, camera.eye, ends)))
    return kept


def _sight_ends(faced: Placed) -> np.ndarray:
    """Points that must be seen: the corners of the room above its surfaces, [n, 3]."""
    ends = []
    for surface in faced.furniture.surfaces:
        x0, y0, z0 = surface.center
        for x in (-0.5, 0.0, 0.5):
            for y in (-0.5, 0.5):
                for z in (0.03, 0.25):
                    ends.append((x0 + x * surface.width, y0 + y * surface.depth, z0 + z))
    if not faced.shows_contents:
        ends = [(x, -faced.furniture.extent[1] - 0.05, z) for x, _, z in ends]
    return np.asarray(ends) @ faced.turn.T + faced.foot


def _crossed(low: np.ndarray, high: np.ndarray, eye: np.ndarray, ends: np.ndarray) -> bool:
    """Whether any line from the eye to `ends` [n, 3] passes through a box."""
    along = ends - eye
    along = np.where(np.abs(along) < 1e-9, 1e-9, along)
    one, two = (low - eye) / along, (high - eye) / along
    enter = np.minimum(one, two).max(axis=1)
    leave = np.maximum(one, two).min(axis=1)
    return bool(((enter < leave) & (leave > 0) & (enter < 1)).any())


def _behind(other: Placed, camera: Camera) -> bool:
    to = (other.low + other.high) / 2 - camera.eye
    forward = camera.forward
    depth = float(to @ forward)
    radius = float(np.linalg.norm(other.high - other.low)) / 2
    side = math.sqrt(max(float(to @ to) - depth**2, 0.0))
    return depth < -radius or side - radius > max(depth, 0.3) * math.tan(_radians(40))


def _room_parts(state: RoomState, placed: Sequence[tuple[Placed, bool]]) -> list[Parts]:
    pieces = []
    for one, with_contents in placed:
        pieces.append(one.parts)
        if one.shows_contents and with_contents:
            things = state.contents(one.receptacle.id)
            if things:
                pieces.append(place_objects(one, things))
    return pieces


def _in_hand(thing: Parts, camera: Camera) -> Parts:
    """The held object, at the bottom of the agent's view."""
    rotation = camera.turn
    hand = join(
        [
            thing,
            rod(0.035, (0.13, -0.02, -0.16), (0.05, 0.0, -0.035), _SKIN),
            ball(0.05, 0.04, 0.025, (0.03, 0, -0.025), _SKIN),
        ]
    )
    upright = rotation @ turn("x", math.degrees(-camera.elevation))
    # Low things are held higher, so that none sinks below the edge of the view.
    raised = max(0.0, 0.08 - float(thing.centers[0, 2]))
    at = camera.eye + rotation @ np.array([0.04, 0.46, -0.215 + raised])
    return hand.placed(at, upright, 0.8)


def _agent_spot(state: RoomState, placed: Sequence[Placed]) -> tuple[float, float]:
    """Where the agent stands, x and y of the room."""
    stand = next((x.receptacle.stand for x in placed if x.receptacle.id in state.at), None)
    if stand is not None:
        return stand.x, stand.z
    eye = _wide_camera(state, placed).eye
    return float(eye[0]), float(eye[1])


def _agent(state: RoomState) -> Parts:
    """The agent as a figure that carries what it holds on its head."""
    orange = (1.0, 0.5, 0.05)
    pieces = [
        disc(0.3, 0.02, (0, 0, 0.02), (1.0, 0.85, 0.2), glow=0.8),
        rod(0.15, (0, 0, 0.2), (0, 0, 0.95), orange),
        ball(0.19, 0.19, 0.19, (0, 0, 1.3), (0.98, 0.85, 0.7)),
        box(0.14, 0.14, 0.02, (0, 0, 1.5), orange),
    ]
    if state.held is not None:
        pieces.append(draw_object(state.held).placed((0, 0, 1.52), scale=2.0))
    return join(pieces)


def _render(parts: Parts, camera: Camera, size: tuple[int, int]) -> np.ndarray:
    return render_primitives(
        parts.kinds,
        parts.sizes,
        parts.centers,
        parts.turns,
        parts.colors,
        parts.glow,
        camera,
        size,
    )


def _radians(degrees: float) -> float:
    return math.radians(degrees)
