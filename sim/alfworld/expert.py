"""ALFWorld's own handcoded expert as a demonstrator, with noise and named ways to fail."""

from __future__ import annotations

import json

import numpy as np

from sim.alfworld.env import AlfworldEnv
from sim.alfworld.folders import TRAJ_DATA

# name -> what goes wrong, in plain words
FAILURE_MODES: dict[str, str] = {
    "random_command": "three commands of four are any that the engine admits",
    "wrong_object": "does the task with another kind of object than the one asked for",
    "wrong_receptacle": "does all but the last: puts the object in another kind of receptacle",
    "give_up": "begins well, then only looks around until the step limit",
    "cut_short": "does well, but the recording stops at a random moment (a truncated log)",
}
_RANDOM_SHARE = 0.75  # of the commands of random_command
_GIVES_UP_AFTER = (2, 14)  # range of the step; a good episode takes about 12
_CUT_AFTER = (3, 16)
# What changes nothing in the room.
_IDLE = ("look", "inventory", "help", "examine ")
# task type -> the fact that an object needs for it
_NEEDED = {
    "pick_clean_then_place_in_recep": "cleanable",
    "pick_heat_then_place_in_recep": "heatable",
    "pick_cool_then_place_in_recep": "coolable",
}


class AlfworldExpert:
    """Plays one episode of an AlfworldEnv.

    `act()` gives the next command; `done` says that the log may end here: the recording of a
    "cut_short" log stops. `noise` is the share of commands that chance replaces by any that the
    engine admits.
    """

    def __init__(
        self, env: AlfworldEnv, failure: str | None, noise: float, rng: np.random.Generator
    ) -> None:
        self.env, self.failure, self.rng = env, failure, rng
        self.noise = _RANDOM_SHARE if failure == "random_command" else noise
        ranges = {"give_up": _GIVES_UP_AFTER, "cut_short": _CUT_AFTER}
        after = ranges.get(str(failure))
        self._stops_after = None if after is None else int(rng.integers(*after))
        self._seed = int(rng.integers(2**31))
        self._steps = 0
        self._idle = False
        self.done = False

    def act(self) -> str:
        """The next command; the first call looks at the episode's game."""
        if self._steps == 0:
            self.env.ask_expert(self._task(), self._seed)
        self._steps += 1
        stops = self._stops_after is not None and self._steps >= self._stops_after
        if stops and self.failure == "cut_short":
            self.done = True
        idle = self._idle or self.env.advice is None or (stops and self.failure == "give_up")
        if idle:
            return self._any([c for c in self.env.commands if c.startswith(_IDLE)])
        if self.rng.random() < self.noise:
            return self._any(self.env.commands)
        assert self.env.advice is not None
        return self.env.advice

    def _any(self, commands: list[str] | tuple[str, ...]) -> str:
        return commands[int(self.rng.integers(len(commands)))]

    def _task(self) -> dict[str, str]:
        """The replacement of the game's own task, so that the expert does the wrong thing well."""
        if self.failure not in ("wrong_object", "wrong_receptacle"):
            return {}
        assert self.env.game is not None
        file = self.env.game.folder / TRAJ_DATA
        params = json.loads(file.read_text())["pddl_params"]
        target, parent = params["object_target"].lower(), params["parent_target"].lower()
        task_type = self.env.game.task_type
        if self.failure == "wrong_object":
            return self._chosen("object_target", self._other_objects(task_type, target, parent))
        others = {r for r, held in self._pairs("cancontain") if held == target} - {parent}
        there = {kind for _, kind in self._pairs("receptacletype")}
        chosen = self._chosen("parent_target", sorted(others & there))
        if chosen and task_type == "look_at_obj_in_light":
            chosen["task_type"] = "pick_and_place_simple"  # it forgets the lamp
        return chosen

    def _chosen(self, key: str, kinds: list[str]) -> dict[str, str]:
        if not kinds:
            self._idle = True  # the room offers no mistake of this kind
            return {}
        return {key: self._any(kinds)}

    def _other_objects(self, task_type: str, target: str, parent: str) -> list[str]:
        """Other kinds of objects of the room that can be taken through the same task."""
        kind_of = dict(self._pairs("objecttype"))
        needed = _NEEDED.get(task_type, "pickupable")
        able = {names[0] for predicate, *names in self.env.facts if predicate == needed}
        kinds = {kind for name, kind in kind_of.items() if name in able}
        if parent:
            kinds &= {
                held for receptacle, held in self._pairs("cancontain") if receptacle == parent
            }
        return sorted(kinds - {target})

    def _pairs(self, predicate: str) -> list[tuple[str, str]]:
        """The arguments of a fact of two, types as plain words ("mugtype" is "mug")."""
        return [
            (names[0].removesuffix("type"), names[1].removesuffix("type"))
            for found, *names in self.env.facts
            if found == predicate
        ]


def build_expert(
    env: AlfworldEnv, failure: str | None, noise: float, rng: np.random.Generator
) -> AlfworldExpert:
    """The expert for the episode that `env` has just started.

    `failure` is None or a key of FAILURE_MODES (else ValueError); `noise` in [0, 1] is the share of
    commands that are drawn at random.
    """
    bare = env.unwrapped
    if not isinstance(bare, AlfworldEnv):
        raise ValueError(f"The ALFWorld expert needs an AlfworldEnv, got {type(bare).__name__}.")
    if failure is not None and failure not in FAILURE_MODES:
        raise ValueError(
            f"ALFWorld has no failure mode {failure!r}; it has: {', '.join(FAILURE_MODES)}."
        )
    if not 0 <= noise <= 1:
        raise ValueError(f"noise {noise} is the share of random commands; it lies in [0, 1].")
    return AlfworldExpert(bare, failure, noise, rng)
