"""Visible state of an ALFWorld room, read from the facts of its engine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

IN_HAND = "hand"
OPENABLE = frozenset({"Fridge", "Cabinet", "Microwave", "Drawer", "Safe", "Box"})

_MARKS = {"_bar_": "|", "_minus_": "-", "_plus_": "+", "_dot_": ".", "_comma_": ","}
_GRID = 0.25  # meters of one step in the names of locations


@dataclass(frozen=True)
class Stand:
    """Where the agent stands to reach a receptacle: meters on the floor, degrees (0 looks along
    z, 90 along x), and degrees that it looks down."""

    x: float
    z: float
    facing: float
    down: float


@dataclass(frozen=True)
class Layout:
    """A floor plan as AI2-THOR has it: x right, y up, z forward, meters."""

    floor_plan: int
    stands: Mapping[str, Stand]  # id of a receptacle -> where it is reached from
    reachable: tuple[tuple[float, float], ...] = ()  # x, z of points that can be stood at


@dataclass(frozen=True)
class Receptacle:
    """Something that holds objects, such as a cabinet or a table."""

    id: str
    type: str
    position: tuple[float, float, float]
    stand: Stand
    openable: bool = False
    open: bool = False


@dataclass(frozen=True)
class RoomObject:
    """An object; `where` is the id of its receptacle, "hand", or "" when it is nowhere to see."""

    id: str
    type: str
    where: str
    hot: bool = False
    cold: bool = False
    clean: bool = False
    sliced: bool = False
    lit: bool = False


@dataclass(frozen=True)
class RoomState:
    """A room at one moment. `at` names the receptacles that the agent stands at, none when it is
    in the middle of the room; `reachable` are the points [x, z] that can be stood at, meters."""

    floor_plan: int
    receptacles: tuple[Receptacle, ...]
    objects: tuple[RoomObject, ...]
    at: tuple[str, ...] = ()
    reachable: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    def contents(self, receptacle: str) -> tuple[RoomObject, ...]:
        """The objects in or on a receptacle, behind a closed door too."""
        return tuple(x for x in self.objects if x.where == receptacle)

    @property
    def held(self) -> RoomObject | None:
        """The object in the agent's hand; None with an empty one."""
        return next((x for x in self.objects if x.where == IN_HAND), None)


@lru_cache(maxsize=1 << 16)
def plain_id(name: str) -> str:
    """An id as AI2-THOR writes it ("cabinet|+00.68|+00.50|-02.20"), whatever PDDL made of it."""
    for mark, sign in _MARKS.items():
        name = name.replace(mark, sign)
    return name.lower()


def state_from_facts(facts: Iterable[Sequence[str]], layout: Layout) -> RoomState:
    """The room that `facts` describe: tuples of a predicate of ALFRED's PDDL domain and the ids of
    its arguments, mangled for PDDL or not, in any order and case.

    Raises ValueError when the facts name no receptacle, or one of unknown place.
    """
    told: dict[str, list[list[str]]] = {}
    for predicate, *names in facts:
        told.setdefault(predicate.lower(), []).append([plain_id(name) for name in names])
    spelled = {name.lower(): name for name in layout.stands}
    places = _pairs(told.get("receptacleatlocation", ()))
    if not places:
        known = ", ".join(sorted(told)) or "none"
        raise ValueError(
            f"No receptacleAtLocation among the facts of FloorPlan{layout.floor_plan}; predicates "
            f"there: {known}. Ask the engine for its facts after a reset."
        )
    openable = {names[0] for names in told.get("openable", ())}
    opened = {names[0] for names in told.get("opened", ())}
    receptacles = []
    for name in sorted(places):
        kind, position = parse_id(name)
        receptacles.append(
            Receptacle(
                id=name,
                type=kind,
                position=position,
                stand=_stand(name, spelled, layout, places[name]),
                openable=name in openable or kind in OPENABLE,
                open=name in opened,
            )
        )
    agent_at = {names[-1] for names in told.get("atlocation", ())}
    at = tuple(x.id for x in receptacles if places[x.id] in agent_at)
    objects = _objects(told, set(places))
    return RoomState(layout.floor_plan, tuple(receptacles), objects, at, layout.reachable)


def _objects(told: Mapping[str, list[list[str]]], receptacles: set[str]) -> tuple[RoomObject, ...]:
    where: dict[str, str] = {}
    for names in [*told.get("objecttype", ()), *told.get("objectatlocation", ())]:
        where.setdefault(names[0], "")
    for name, receptacle in _pairs(told.get("inreceptacle", ())).items():
        where[name] = receptacle
    for names in told.get("holds", ()):
        where[names[-1]] = IN_HAND
    true_of = {
        flag: {names[0] for names in told.get(flag, ())}
        for flag in ("ishot", "iscool", "isclean", "issliced", "istoggled")
    }
    return tuple(
        RoomObject(
            id=name,
            type=_kind(name),
            where=where[name],
            hot=name in true_of["ishot"],
            cold=name in true_of["iscool"],
            clean=name in true_of["isclean"],
            sliced=name in true_of["issliced"],
            lit=name in true_of["istoggled"],
        )
        for name in sorted(set(where) - receptacles)
    )


def parse_id(name: str) -> tuple[str, tuple[float, float, float]]:
    """Type and position (x, y, z, meters) of an AI2-THOR id: Type|x|y|z or Type|x|y|z|Part."""
    numbers = name.split("|")[1:4]
    try:
        x, y, z = (float(number) for number in numbers)
    except ValueError:
        raise ValueError(
            f"The id {name!r} tells no position; ids look like Cabinet|+00.68|+00.50|-02.20."
        ) from None
    return _kind(name), (x, y, z)


# Types of receptacles and objects that are more than one word; the rest are capitalized.
_WORDS = """
AlarmClock ArmChair BaseballBat BasketBall BathtubBasin ButterKnife CD CellPhone CoffeeMachine
CoffeeTable CounterTop CreditCard DeskLamp DiningTable DishSponge FloorLamp GarbageCan HandTowel
HandTowelHolder HousePlant KeyChain LaundryHamper PaperTowel PaperTowelRoll PepperShaker
RemoteControl SaltShaker ScrubBrush SideTable SinkBasin SoapBar SoapBottle SprayBottle StoveBurner
TVStand TeddyBear TennisRacket TissueBox ToiletPaper ToiletPaperHanger ToiletPaperRoll TowelHolder
WateringCan WineBottle
"""
_SPELLED = {word.lower(): word for word in _WORDS.split()}


def _kind(name: str) -> str:
    first, *rest = re.split(r"[|]", name)
    part = rest[3] if len(rest) > 3 else ""
    # A sink's basin is a part of the sink; a slice is named after its place in the whole.
    word = (part if "basin" in part.lower() else first).lower()
    return _SPELLED.get(word, word.capitalize())


def _stand(name: str, spelled: Mapping[str, str], layout: Layout, location: str) -> Stand:
    if name in spelled:
        return layout.stands[spelled[name]]
    parts = location.split("|")[1:]
    try:
        x, z, quarter, down = (float(part) for part in parts)
    except ValueError:
        raise ValueError(
            f"Where to stand for {name!r} is in neither FloorPlan{layout.floor_plan}'s layout nor "
            f"the name of its location, {location!r} (loc|x|z|quarter turns|degrees down)."
        ) from None
    return Stand(x * _GRID, z * _GRID, 90 * quarter, down)


def _pairs(facts: Iterable[Sequence[str]]) -> dict[str, str]:
    return {names[0]: names[1] for names in facts}
