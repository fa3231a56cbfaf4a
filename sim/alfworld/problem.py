"""A random ALFWorld game: a task in a room, where every object lies, and its PDDL problem."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np

from sim.alfworld.layouts import (
    FLOOR_PLANS,
    is_unseen,
    object_types,
    read_layout,
    receptacle_type,
    room_kind,
)
from sim.alfworld.pddl import LAMP, able_types, holdable_types, location_name, problem_text
from sim.alfworld.state import Layout

# ALFWorld's six task types, by its own numbers 1 to 6.
TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
SPLITS = ("train", "valid_seen", "valid_unseen")
# task type -> (what the object must be able to become, where that is done)
_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("Cleanable", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("Heatable", "Microwave"),
    "pick_cool_then_place_in_recep": ("Coolable", "Fridge"),
}
# The package lists nothing that a lamp stands on; desks and tables, the likeliest first.
_LAMP_STANDS = ("Desk", "SideTable", "Dresser", "DiningTable", "CoffeeTable", "Shelf")
# One task in ten of the rooms that are trained on is kept for valid_seen.
_SEEN_SHARE = 10
_COPIES = ((1, 0.65), (2, 0.25), (3, 0.1))  # how many of a type lie in a room, and how often


@dataclass(frozen=True)
class Task:
    """The task of a game, in AI2-THOR's names of types; `receptacle` of a look_at_obj_in_light
    is the lamp."""

    task_type: str
    object: str
    receptacle: str
    floor_plan: int

    @property
    def folder(self) -> str:
        """The name of its folder, as ALFRED names them."""
        return f"{self.task_type}-{self.object}-None-{self.receptacle}-{self.floor_plan}"


@dataclass(frozen=True)
class Problem:
    """A game before the engine has seen it."""

    task: Task
    instruction: str
    pddl: str
    traj_data: Mapping[str, Any]


def _receptacle_types(floor_plan: int) -> tuple[str, ...]:
    return tuple(sorted({receptacle_type(name) for name in read_layout(floor_plan).stands}))


def _resting(floor_plan: int, object_type: str) -> tuple[str, ...]:
    """Types of receptacles of a room that can hold an object."""
    if object_type == LAMP:
        there = [t for t in _LAMP_STANDS if t in _receptacle_types(floor_plan)]
        return tuple(there[:1])
    fits = holdable_types()
    return tuple(t for t in _receptacle_types(floor_plan) if object_type in fits.get(t, ()))


def _carried_types(floor_plan: int) -> tuple[str, ...]:
    """Types of a room that can be picked up and have a place to lie."""
    return tuple(t for t in object_types(floor_plan) if t != LAMP and _resting(floor_plan, t))


@cache
def tasks_of_room(task_type: str, floor_plan: int) -> tuple[Task, ...]:
    """Every task of a type that a room allows; an object never starts where it has to go."""
    receptacles = _receptacle_types(floor_plan)
    carried = _carried_types(floor_plan)
    if task_type == "look_at_obj_in_light":
        lit = LAMP in object_types(floor_plan) and _resting(floor_plan, LAMP)
        return tuple(Task(task_type, t, LAMP, floor_plan) for t in carried) if lit else ()
    if task_type in _TREATMENTS:
        ability, place = _TREATMENTS[task_type]
        if place not in receptacles:
            return ()
        carried = tuple(t for t in carried if t in able_types()[ability])
        receptacles = tuple(t for t in receptacles if t != place)
    return tuple(
        Task(task_type, t, receptacle, floor_plan)
        for t in carried
        for receptacle in receptacles
        if receptacle in _resting(floor_plan, t) and len(_resting(floor_plan, t)) > 1
    )


@cache
def tasks_of_split(task_type: str, split: str, seed: int) -> dict[int, tuple[Task, ...]]:
    """Floor plan -> the tasks of a type in a split. Rooms of valid_unseen are in no other split,
    tasks of valid_seen (object, receptacle and room together) not in train."""
    chosen: dict[int, tuple[Task, ...]] = {}
    for floor_plan in FLOOR_PLANS:
        if is_unseen(floor_plan) != (split == "valid_unseen"):
            continue
        tasks = tasks_of_room(task_type, floor_plan)
        if split != "valid_unseen":
            held_out = split == "valid_seen"
            tasks = tuple(task for task in tasks if _is_held_out(task, seed) == held_out)
        if tasks:
            chosen[floor_plan] = tasks
    return chosen


def _is_held_out(task: Task, seed: int) -> bool:
    digest = sha256(f"{seed}/{task.folder}".encode()).digest()
    return digest[0] % _SEEN_SHARE == 0


def trial_name(seed: int, index: int) -> str:
    """The folder name of a generated game; index counts within its split and type."""
    return f"trial_G{seed}_{index:05d}"


def draw_problem(
    task_type: str, split: str, seed: int, index: int, attempt: int, name: str
) -> Problem:
    """Game `index` of a split and type, determined by these arguments alone; rooms take turns."""
    rng = np.random.default_rng(
        [seed, SPLITS.index(split), TASK_TYPES.index(task_type), index, attempt]
    )
    by_room = tasks_of_split(task_type, split, seed)
    rooms = sorted(by_room)
    room = rooms[(index + 7 * attempt) % len(rooms)]
    tasks = by_room[room]
    task = tasks[int(rng.integers(len(tasks)))]
    placed = _place_objects(task, rng)
    layout = read_layout(room)
    start = _starting_location(layout, rng)
    instruction, goal = _goal(task, rng)
    return Problem(
        task=task,
        instruction=instruction,
        pddl=problem_text(name, layout, placed, start, goal),
        traj_data=_traj_data(task, name, instruction, seed),
    )


def _place_objects(task: Task, rng: np.random.Generator) -> dict[str, str]:
    """Object id -> receptacle id, for every object of the room."""
    by_type: dict[str, list[str]] = {}
    for name in read_layout(task.floor_plan).stands:
        by_type.setdefault(receptacle_type(name), []).append(name)
    lamp = [LAMP] if task.receptacle == LAMP else []
    counts, shares = zip(*_COPIES, strict=True)
    placed: dict[str, str] = {}
    for kind in [*_carried_types(task.floor_plan), *lamp]:
        copies = int(rng.choice(counts, p=shares)) if kind != LAMP else 1
        allowed = _resting(task.floor_plan, kind)
        if kind == task.object:
            if task.task_type == "pick_two_obj_and_place":
                copies = max(copies, 2)
            allowed = tuple(t for t in allowed if t != task.receptacle)
        places = [name for t in allowed for name in by_type[t]]
        for _ in range(copies):
            where = places[int(rng.integers(len(places)))]
            placed[_object_id(kind, where, placed, rng)] = where
    return placed


def _object_id(kind: str, where: str, taken: Iterable[str], rng: np.random.Generator) -> str:
    """An id with a place near the receptacle's own, meters, as AI2-THOR names objects."""
    x, y, z = (float(part) for part in where.split("|")[1:4])
    while True:
        dx, dz = rng.uniform(-0.2, 0.2, 2)
        name = f"{kind}|{x + dx:+06.2f}|{y + 0.05:+06.2f}|{z + dz:+06.2f}"
        if name not in taken:
            return name


def _starting_location(layout: Layout, rng: np.random.Generator) -> str:
    """A point of the floor and a heading at which no receptacle is reached."""
    used = {location_name(s.x, s.z, s.facing, s.down) for s in layout.stands.values()}
    while True:
        x, z = layout.reachable[int(rng.integers(len(layout.reachable)))]
        start = location_name(x, z, 90.0 * int(rng.integers(4)), 30.0)
        if start not in used:
            return start


def _goal(task: Task, rng: np.random.Generator) -> tuple[str, str]:
    """The instruction, one of the package's wordings, and the goal as PDDL."""
    from alfworld.gen.goal_library import gdict

    entry = gdict[task.task_type]
    wordings = entry["templates"]
    lamp = task.receptacle == LAMP
    names = {
        "obj": task.object,
        "recep": "" if lamp else task.receptacle,
        "toggle": LAMP if lamp else "",
        "mrecep": "",
    }
    wording = wordings[int(rng.integers(len(wordings)))]
    lower = {key: value.lower() for key, value in names.items()}
    return wording.format(**lower), entry["pddl"].format(**names)


def _traj_data(task: Task, name: str, instruction: str, seed: int) -> dict[str, Any]:
    lamp = task.receptacle == LAMP
    return {
        "task_id": name,
        "task_type": task.task_type,
        "pddl_params": {
            "object_target": task.object,
            "parent_target": "" if lamp else task.receptacle,
            "toggle_target": LAMP if lamp else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {
            "floor_plan": f"FloorPlan{task.floor_plan}",
            "scene_num": task.floor_plan,
            "room": room_kind(task.floor_plan),
            "random_seed": seed,
        },
        "turk_annotations": {"anns": [{"task_desc": instruction, "high_descs": []}]},
        "generated_by": "qsft-robot",
    }
