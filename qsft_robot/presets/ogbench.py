"""Presets and recipes of OGBench's play data."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe

# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Flat states of 28 to 55 numbers, five dimensions of action, play data: a decision is five
    # actions, and a critic of whole decisions stitches logs that never reach the goal.
    "ogbench/states": {
        "data.state_keys": ("observation",),
        "data.short_logs": "keep",
        "model.name": "perceptron",
        "model.width": 128,
        "tokenizer.kind": "spline",
        "tokenizer.horizon": 5,
        "tokenizer.points": 3,
        "tokenizer.n_bins": 64,
        "discount": 0.99,
        "optim.batch_size": 256,
        "optim.learning_rate": 2e-3,
        "optim.value_learning_rate": 2e-3,
        "optim.behavior_steps": 11_000,
        "optim.value_steps": 1500,
        "critic.updates": 10_000,
        "critic.expectile": 0.9,
        "critic.ema_rate": 0.02,
        "critic.learning_rate": 1e-3,
        "acting.candidates": 32,
        "acting.min_p": 0.05,
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
