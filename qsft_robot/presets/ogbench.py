"""Presets and recipes of OGBench's play data."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe

# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Flat states of 28 to 55 numbers, five dimensions of action, play data of 1 M steps.
    "ogbench/states": {
        "data.state_keys": ("observation",),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "discount": 0.99,
        "optim.batch_size": 256,
        "optim.behavior_steps": 2000,
        "optim.value_steps": 4000,
    },
}


def _recipes() -> dict[str, Recipe]:
    """Each scene's default task by the scene's name, and its five tasks by number."""
    found = {}
    for scene in ("cube-single", "cube-double", "scene", "puzzle-3x3"):
        for number in ("", *range(1, 6)):
            task = f"{scene}-task{number}" if number else scene
            which = f"task {number}" if number else "the default task"
            found[f"ogbench/{task}"] = Recipe(
                f"OGBench {scene}, {which}: play data of its oracles, 1001 steps an episode",
                "ogbench",
                {"task": task},
                (),
                episodes=1000,
                play=True,
            )
    return found


RECIPES: dict[str, Recipe] = _recipes()
