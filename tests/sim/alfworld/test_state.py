"""The room read from an engine's facts is the room that the facts tell of."""

from __future__ import annotations

import pytest

from sim.alfworld.state import (
    Layout,
    RoomObject,
    RoomState,
    Stand,
    parse_id,
    plain_id,
    state_from_facts,
)

CABINET = "Cabinet|+00.68|+00.50|-02.20"
SINK = "Sink|-01.90|+00.97|-01.50|SinkBasin"
LAYOUT = Layout(1, {CABINET: Stand(0.0, -1.25, 180, 30), SINK: Stand(-1.25, -1.5, 270, 30)})


def mangled(name: str) -> str:
    for sign, mark in (("|", "_bar_"), ("-", "_minus_"), ("+", "_plus_"), (".", "_dot_")):
        name = name.replace(sign, mark)
    return name.lower()


FACTS = [
    ("receptacleAtLocation", CABINET, "loc|0|-5|2|30"),
    ("receptacleAtLocation", SINK, "loc|-5|-6|3|30"),
    ("openable", CABINET),
    ("opened", CABINET),
    ("atLocation", "agent1", "loc|0|-5|2|30"),
    ("objectType", "Mug|+01.00|+01.00|+01.00", "MugType"),
    ("inReceptacle", "Mug|+01.00|+01.00|+01.00", CABINET),
    ("isHot", "Mug|+01.00|+01.00|+01.00"),
    ("holds", "agent1", "Apple|-01.00|+01.00|+01.00"),
    ("objectType", "Apple|-01.00|+01.00|+01.00", "AppleType"),
    ("isCool", "Apple|-01.00|+01.00|+01.00"),
    ("isClean", "Apple|-01.00|+01.00|+01.00"),
    ("objectType", "DeskLamp|+02.00|+01.00|+01.00", "DeskLampType"),
    ("inReceptacle", "DeskLamp|+02.00|+01.00|+01.00", SINK),
    ("isToggled", "DeskLamp|+02.00|+01.00|+01.00"),
]


def test_facts_tell_what_is_open_where_things_are_and_how_they_are() -> None:
    state = state_from_facts(FACTS, LAYOUT)
    cabinet, sink = state.receptacles
    assert (cabinet.type, cabinet.openable, cabinet.open) == ("Cabinet", True, True)
    assert (sink.type, sink.openable, sink.open) == ("SinkBasin", False, False)
    assert cabinet.position == (0.68, 0.50, -2.20)
    assert cabinet.stand == Stand(0.0, -1.25, 180, 30)
    assert state.at == (cabinet.id,)
    (mug,) = state.contents(cabinet.id)
    assert mug == RoomObject("mug|+01.00|+01.00|+01.00", "Mug", cabinet.id, hot=True)
    (lamp,) = state.contents(sink.id)
    assert lamp.type == "DeskLamp"
    assert lamp.lit
    held = state.held
    assert held is not None
    assert (held.type, held.cold, held.clean, held.hot) == ("Apple", True, True, False)


def test_the_form_and_order_of_the_facts_make_no_difference() -> None:
    as_engine = [(name.lower(), *map(mangled, names)) for name, *names in reversed(FACTS)]
    assert state_from_facts(as_engine, LAYOUT) == state_from_facts(FACTS, LAYOUT)


def test_a_receptacle_outside_the_layout_is_reached_from_the_place_its_location_names() -> None:
    burner = "StoveBurner|+00.20|+00.90|+00.30"
    facts = [*FACTS, ("receptacleAtLocation", burner, mangled("loc|-3|7|1|60"))]
    state = state_from_facts(facts, LAYOUT)
    (found,) = [x for x in state.receptacles if x.type == "StoveBurner"]
    assert found.stand == Stand(-0.75, 1.75, 90, 60)


def test_nobody_is_at_a_receptacle_in_the_middle_of_the_room() -> None:
    facts = [("atLocation", "agent1", "loc|9|9|0|0") if f[0] == "atLocation" else f for f in FACTS]
    assert state_from_facts(facts, LAYOUT).at == ()


def test_equal_states_are_equal_and_hash_alike() -> None:
    one, two = state_from_facts(FACTS, LAYOUT), state_from_facts(list(FACTS), LAYOUT)
    assert isinstance(one, RoomState)
    assert hash(one) == hash(two)


@pytest.mark.parametrize("name", [CABINET, SINK])
def test_ids_come_back_from_what_pddl_makes_of_them(name: str) -> None:
    assert plain_id(mangled(name)) == name.lower()
    assert parse_id(plain_id(mangled(name))) == parse_id(name)


def test_facts_without_receptacles_and_ids_without_place_are_refused() -> None:
    with pytest.raises(ValueError, match=r"FloorPlan1; predicates there: holds"):
        state_from_facts([("holds", "agent1", "apple")], LAYOUT)
    with pytest.raises(ValueError, match=r"'cabinet 1' tells no position"):
        state_from_facts([("receptacleAtLocation", "cabinet 1", "loc|0|0|0|0")], LAYOUT)
    facts = [("receptacleAtLocation", "Safe|+01.00|+00.00|+01.00", "loc 3")]
    with pytest.raises(ValueError, match=r"neither FloorPlan1's layout nor the name"):
        state_from_facts(facts, LAYOUT)
