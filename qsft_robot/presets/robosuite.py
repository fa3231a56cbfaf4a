"""Presets and recipes of robosuite."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart, mixture_of

_FAILURES = (
    "miss_grasp",
    "early_close",
    "drop_early",
    "wrong_place",
    "hesitate",
    "wander",
)
# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    "robosuite/low_dim": {
        "data.state_keys": (
            "robot0_eef_pos",
            "robot0_eef_quat",
            "robot0_gripper_qpos",
            "object",
        ),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "model.width": 64,
        "model.depth": 2,
        "discount": 0.99,
        # With lambda 1 and k = 1 the behavior is no more than where the policy starts.
        "optim.behavior_steps": 100,
        "optim.value_steps": 1900,
        "optim.learning_rate": 2e-3,
        "optim.value_learning_rate": 2e-3,
    },
    # Tasks whose successes take more than a hundred steps, of 250 at most: gamma ** 250 is .6.
    "robosuite/long": {"discount": 0.998},
    "robosuite/pixels": {
        "data.state_keys": ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
        "data.cameras": ("agentview_image", "robot0_eye_in_hand_image"),
        "data.auxiliary_keys": ("object",),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "model.dropout": 0.0,
        "discount": 0.99,
        # With the hand around the cube, good logs close it in one step of five: with a cut at .3 of
        # the likeliest token it would wait there.
        "acting.min_p": 0.03,
        "optim.batch_size": 64,
        "optim.behavior_steps": 1500,
        "optim.value_steps": 1200,
        "optim.learning_rate": 1.5e-3,
        "optim.value_learning_rate": 1e-3,
        "optim.precision": "auto",
    },
}


def _recipe(task: str) -> Recipe:
    mixture = mixture_of(0.25, 0.25, _FAILURES)
    return Recipe(
        f"robosuite {task}: a mixture of good, sloppy and failing logs",
        task,
        {},
        (RecipePart(1.0, mixture, 0.15),),
        episodes=300,
        cameras=("agentview", "robot0_eye_in_hand"),
        image_size=84,
    )


RECIPES: dict[str, Recipe] = {
    "robosuite/Lift": _recipe("Lift"),
    "robosuite/PickPlaceCan": _recipe("PickPlaceCan"),
    "robosuite/Stack": _recipe("Stack"),
    "robosuite/NutAssemblySquare": _recipe("NutAssemblySquare"),
}
