"""What is true of an ALFWorld room can be seen in its picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim.alfworld.drawing.furniture import draw_furniture
from sim.alfworld.drawing.objects import draw_object, known_types
from sim.alfworld.drawing.room import place_objects, place_receptacles
from sim.alfworld.drawing.view import draw_room, draw_view
from sim.alfworld.state import Receptacle, RoomObject, RoomState, Stand, parse_id

FRIDGE, TABLE = "fridge|-02.00|00.00|+01.00", "diningtable|+01.00|00.00|+02.00"
DRAWER, SINK = "drawer|+02.00|+00.70|-01.00", "sink|00.00|+00.90|-02.00|sinkbasin"
CABINET, MICROWAVE = "cabinet|-02.00|+00.40|-01.00", "microwave|+02.00|+00.95|+01.00"
STANDS = {
    FRIDGE: Stand(-1.0, 1.0, 270, 0),
    TABLE: Stand(1.0, 1.0, 0, 30),
    DRAWER: Stand(1.0, -1.0, 90, 30),
    SINK: Stand(0.0, -1.0, 180, 30),
    CABINET: Stand(-1.0, -1.0, 270, 30),
    MICROWAVE: Stand(1.0, 1.0, 90, 0),
}
OPENABLE = (FRIDGE, DRAWER, CABINET, MICROWAVE)


def room(*objects: RoomObject, at: str = "", opened: tuple[str, ...] = ()) -> RoomState:
    receptacles = []
    for name, stand in sorted(STANDS.items()):
        kind, position = parse_id(name)
        kind = {"Diningtable": "DiningTable"}.get(kind, kind)
        receptacles.append(
            Receptacle(name, kind, position, stand, name in OPENABLE, name in opened)
        )
    return RoomState(3, tuple(receptacles), tuple(objects), (at,) if at else ())


def thing(kind: str, where: str, number: int = 1, **flags: bool) -> RoomObject:
    return RoomObject(f"{kind.lower()}|{number}", kind, where, **flags)


def changed(one: RoomState, two: RoomState) -> float:
    """Share of the pixels that differ clearly."""
    difference = np.abs(draw_view(one).astype(int) - draw_view(two)).max(axis=2)
    return float((difference > 25).mean())


def test_the_same_state_gives_the_same_pixels() -> None:
    state = room(thing("Mug", TABLE), at=TABLE)
    first = draw_view(state)
    draw_view(room(thing("Apple", SINK), at=SINK))
    draw_room(state)
    assert np.array_equal(draw_view(state), first)
    assert (first.shape, first.dtype) == ((128, 128, 3), np.uint8)
    assert draw_view(state, (48, 64)).shape == (48, 64, 3)


@pytest.mark.parametrize("name", OPENABLE)
def test_one_sees_whether_it_is_open_and_what_is_in_it_only_when_it_is(name: str) -> None:
    empty, full = room(at=name), room(thing("Tomato", name), at=name)
    assert np.array_equal(draw_view(empty), draw_view(full))
    empty, full = (
        room(at=name, opened=(name,)),
        room(thing("Tomato", name), at=name, opened=(name,)),
    )
    assert changed(room(at=name), empty) > 0.1
    assert changed(empty, full) > 0.01


@pytest.mark.parametrize("where", [TABLE, SINK])
@pytest.mark.parametrize("kind", ["Apple", "Plate", "ButterKnife"])
def test_states_of_an_object_are_told_apart_where_it_lies_and_in_the_hand(
    kind: str, where: str
) -> None:
    for place in (where, "hand"):
        looks = [
            room(thing(kind, place, **flags), at=where)
            for flags in ({}, {"hot": True}, {"cold": True}, {"clean": True})
        ]
        for i, one in enumerate(looks):
            for other in looks[:i]:
                assert changed(one, other) > 0.004, (kind, place)


def test_a_lamp_that_is_lit_and_food_that_is_sliced_look_so() -> None:
    lamp = thing("DeskLamp", TABLE)
    assert changed(room(lamp, at=TABLE), room(replace(lamp, lit=True), at=TABLE)) > 0.02
    bread = thing("Bread", TABLE)
    assert changed(room(bread, at=TABLE), room(replace(bread, sliced=True), at=TABLE)) > 0.01


def test_what_is_held_is_seen_in_the_lower_part_and_nowhere_else() -> None:
    for at in (TABLE, FRIDGE, DRAWER, ""):
        empty, full = draw_view(room(at=at)), draw_view(room(thing("Apple", "hand"), at=at))
        rows = np.nonzero((empty != full).any(axis=(1, 2)))[0]
        assert len(rows)
        assert rows.min() > 0.55 * 128


def test_every_type_that_can_be_carried_is_drawn_in_its_own_shape() -> None:
    shapes = {
        kind: draw_object(RoomObject("x|1", kind, "hand"))
        for kind in sorted(known_types() - {"ToiletPaperRoll", "Lamp"})
    }
    drawn = {
        (parts.kinds.tobytes(), parts.centers.tobytes(), parts.colors.tobytes())
        for parts in shapes.values()
    }
    assert len(drawn) == len(shapes) > 55
    for parts in shapes.values():
        assert parts.centers[:, 2].min() >= 0
        assert np.abs(parts.centers[:, :2]).max() < 0.15
    unknown = [draw_object(RoomObject("x|1", kind, "hand")) for kind in ("Gizmo", "Widget")]
    assert not np.array_equal(unknown[0].colors, unknown[1].colors)


@pytest.mark.parametrize("count", [1, 2, 5, 9, 16])
def test_objects_of_one_receptacle_keep_apart_and_stay_on_it(count: int) -> None:
    things = [thing("Egg", TABLE, i) for i in range(count)]
    placed = next(x for x in place_receptacles(room(*things)) if x.receptacle.id == TABLE)
    parts = place_objects(placed, things)
    assert len(parts) == count
    between = np.linalg.norm(parts.centers[:, None, :2] - parts.centers[None, :, :2], axis=2)
    between[np.diag_indices(count)] = np.inf
    assert between.min() > 2 * parts.sizes[:, 0].max() * 0.99
    assert (parts.centers[:, :2] > placed.low[:2]).all()
    assert (parts.centers[:, :2] < placed.high[:2]).all()


def test_each_object_of_a_crowded_table_is_seen() -> None:
    kinds = ("Apple", "Mug", "Knife", "CreditCard", "Vase", "Pen", "Plate", "WineBottle")
    things = [thing(kind, TABLE) for kind in kinds]
    whole = draw_view(room(*things, at=TABLE))
    for one in things:
        heated = (replace(x, hot=True) if x is one else x for x in things)
        other = draw_view(room(*heated, at=TABLE))
        assert (np.abs(whole.astype(int) - other).max(axis=2) > 25).mean() > 0.002, one.type


def test_a_neighbor_in_the_way_is_left_out() -> None:
    state = room(thing("Apple", TABLE), at=TABLE)
    kind, position = "Fridge", (1.0, 0.0, 1.5)  # between the agent and its table
    blocker = Receptacle("fridge|+01.00|00.00|+01.50", kind, position, STANDS[TABLE], True, False)
    blocked = replace(state, receptacles=(*state.receptacles, blocker))
    assert changed(state, blocked) < 0.02


def test_the_middle_of_the_room_shows_the_room_and_its_picture_shows_the_agent() -> None:
    state = room(thing("Apple", TABLE), at="")
    assert len(np.unique(draw_view(state).reshape(-1, 3), axis=0)) > 50
    here, there = draw_room(replace(state, at=(TABLE,))), draw_room(replace(state, at=(FRIDGE,)))
    assert here.shape == (256, 256, 3)
    assert (here[:140] != there[:140]).any()


def test_a_receptacle_that_nobody_drew_still_shows_its_objects() -> None:
    tank = Receptacle("tank|+01.00|00.00|-02.00", "Tank", (1.0, 0.0, -2.0), STANDS[SINK])
    assert draw_furniture("Tank", 0.0, False).surfaces
    empty = replace(room(), receptacles=(tank,), at=(tank.id,))
    assert changed(empty, replace(empty, objects=(thing("Apple", tank.id),))) > 0.01
