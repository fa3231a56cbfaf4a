"""The manipulation scenes of OGBench that can be simulated here, and their tasks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import gymnasium
import numpy as np


@dataclass(frozen=True)
class SceneFacts:
    """A scene: its default task, its step limit, and how its play data are recorded."""

    default_task: int
    max_steps: int
    # Kinds of objects that the oracles of play data handle.
    oracles: tuple[str, ...]
    # Bounds between which an episode draws the probability that cubes are stacked.
    stacking: tuple[float, float] = (0.5, 0.5)


SCENES: dict[str, SceneFacts] = {
    "cube-single": SceneFacts(2, 200, ("cube",), (0.0, 0.0)),
    "cube-double": SceneFacts(2, 500, ("cube",), (0.0, 0.25)),
    "scene": SceneFacts(2, 750, ("cube", "button", "drawer", "window")),
    "puzzle-3x3": SceneFacts(4, 500, ("button",)),
}
TASKS_OF_A_SCENE = 5


def task_names() -> list[str]:
    """Every task: a scene's default one by the scene's name, all five as <scene>-task<1 to 5>."""
    numbered = [f"{scene}-task{i + 1}" for scene in SCENES for i in range(TASKS_OF_A_SCENE)]
    return [*SCENES, *numbered]


def find_task(name: str) -> tuple[str, int]:
    """The scene of a task and its number there; ValueError with the nearest name for another."""
    names = task_names()
    if name not in names:
        near = get_close_matches(str(name), names, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown OGBench task {name!r}.{guess} There are: {', '.join(names)}.")
    if name in SCENES:
        return name, SCENES[name].default_task
    scene, _, number = name.rpartition("-task")
    return scene, int(number)


def make_scene(name: str, **kwargs: Any) -> Any:
    """The package's own environment `name`, with the arguments that it is registered with.

    Its reset draws two actions; here they follow from the seed too, so that an episode is the same
    to the bit.
    """
    import ogbench.manipspace  # noqa: F401 (registers the environments)

    spec = gymnasium.spec(f"{name}-v0")
    kind: Any = gymnasium.envs.registration.load_env_creator(str(spec.entry_point))

    class Seeded(kind):
        drawn: gymnasium.Space[Any] | None = None

        @property
        def action_space(self) -> gymnasium.Space[Any]:
            if self.drawn is None:
                self.drawn = super().action_space
            return self.drawn

        def reset(self, options: Any = None, *, seed: int | None = None) -> Any:
            self.action_space.seed(seed)
            return super().reset(options, seed=seed)

    return Seeded(**{**spec.kwargs, **kwargs})


def state_before(info: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The simulator's state before the last step, under the names of OGBench's files."""
    names = ("qpos", "qvel", "button_states")
    return {name: info[f"prev_{name}"] for name in names if f"prev_{name}" in info}
