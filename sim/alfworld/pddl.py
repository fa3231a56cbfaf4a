"""The PDDL problem of an ALFWorld game, as ALFRED's domain wants it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from sim.alfworld.layouts import receptacle_type
from sim.alfworld.state import Layout

LAMP = "DeskLamp"  # the one thing of a room that is used where it stands
_GRID = 0.25  # meters of a step in the names of locations
_MARKS = {"-": "_minus_", "#": "-", "|": "_bar_", "+": "_plus_", ".": "_dot_", ",": "_comma_"}


@lru_cache(maxsize=1)
def holdable_types() -> dict[str, frozenset[str]]:
    """Receptacle type -> object types that it can hold, as the package has them."""
    from alfworld.gen import constants

    movable = set(constants.MOVABLE_RECEPTACLES)
    return {
        receptacle: frozenset(name for name in objects if not name.endswith("Sliced"))
        for receptacle, objects in constants.VAL_RECEPTACLE_OBJECTS.items()
        if receptacle not in movable
    }


@lru_cache(maxsize=1)
def able_types() -> dict[str, frozenset[str]]:
    """Ability (Heatable, Coolable, Cleanable, Toggleable, Sliceable) -> object types."""
    from alfworld.gen import constants

    return {name: frozenset(those) for name, those in constants.VAL_ACTION_OBJECTS.items()}


def location_name(x: float, z: float, facing: float, down: float) -> str:
    steps = (round(x / _GRID), round(z / _GRID), round(facing / 90) % 4, round(down))
    return "loc|" + "|".join(map(str, steps))


def problem_text(
    name: str, layout: Layout, placed: Mapping[str, str], start: str, goal: str
) -> str:
    """The problem for ALFRED's PDDL domain; `#` stands for PDDL's dash until the end, as ids hold
    minus signs."""
    fits, abilities = holdable_types(), able_types()
    receptacles = {r: receptacle_type(r) for r in layout.stands}
    objects = {o: o.split("|")[0] for o in placed}
    places = {r: location_name(s.x, s.z, s.facing, s.down) for r, s in layout.stands.items()}
    # The domain's own actions name these types, whether the room has them or not.
    object_kinds = sorted({*objects.values(), "Knife", "ButterKnife"})
    receptacle_kinds = sorted({*receptacles.values(), "SinkBasin", "Microwave", "Fridge"})
    declared = [
        "agent1 # agent",
        *(f"{kind}Type # otype" for kind in object_kinds),
        *(f"{kind}Type # rtype" for kind in receptacle_kinds),
        *(f"{o} # object" for o in sorted(objects)),
        *(f"{r} # receptacle" for r in sorted(receptacles)),
        *(f"{place} # location" for place in sorted({*places.values(), start})),
    ]
    facts = [f"(receptacleType {r} {kind}Type)" for r, kind in receptacles.items()]
    facts += [f"(objectType {o} {kind}Type)" for o, kind in objects.items()]
    facts += [
        f"(canContain {receptacle}Type {kind}Type)"
        for receptacle in sorted(set(receptacles.values()))
        for kind in object_kinds
        if kind in fits.get(receptacle, ())
    ]
    facts += [f"(pickupable {o})" for o, kind in objects.items() if kind != LAMP]
    openable = _openable()
    facts += [f"(openable {r})" for r, kind in receptacles.items() if kind in openable]
    facts.append(f"(atLocation agent1 {start})")
    for ability, those in sorted(abilities.items()):
        facts += [f"({ability.lower()} {o})" for o, kind in objects.items() if kind in those]
    facts += [f"(inReceptacle {o} {r})" for o, r in placed.items()]
    facts += [f"(objectAtLocation {o} {places[r]})" for o, r in placed.items()]
    facts += [f"(receptacleAtLocation {r} {place})" for r, place in places.items()]
    text = (
        f"(define (problem plan_{name})\n(:domain alfred)\n(:objects\n    "
        + "\n    ".join(declared)
        + "\n)\n(:init\n    "
        + "\n    ".join(facts)
        + "\n)\n"
        + goal
    )
    for sign, mark in _MARKS.items():
        text = text.replace(sign, mark)
    return text


@lru_cache(maxsize=1)
def _openable() -> frozenset[str]:
    from alfworld.gen import constants

    return frozenset(constants.OPENABLE_CLASS_SET)
