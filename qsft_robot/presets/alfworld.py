"""Presets and recipes of ALFWorld's games: text commands on two cores."""

from __future__ import annotations

import dataclasses
from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart

# Shared by the presets. A good log takes 5 to 20 of 50 steps: the discount tells those
# that search from those that stray.
_SHARED: dict[str, Any] = {
    "data.state_keys": (),
    "tokenizer.kind": "commands",
    "model.width": 64,
    "model.depth": 2,
    "model.text_history": 16,
    "discount": 0.97,
    "optim.batch_size": 64,
    "optim.behavior_steps": 1500,
    "optim.value_steps": 3500,
    "optim.learning_rate": 2e-3,
    "optim.value_learning_rate": 2e-3,
}
# Its images: things are told apart in 64 x 64 of 128 x 128 pixels too, in a quarter of the time.
_VIEW: dict[str, Any] = {
    "data.cameras": ("view_image",),
    "data.auxiliary_commands": True,
    "data.frame_cache_gib": 24.0,
    "model.image_shrink": 2,
}
# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Text commands on two cores: what the engine says, and the image.
    "alfworld/text_image": {
        **_SHARED,
        **_VIEW,
        "data.text_keys": ("feedback",),
    },
    # The image, the goal and the commands given before; no text of the engine.
    "alfworld/image": {**_SHARED, **_VIEW},
    "alfworld/text": {**_SHARED, "data.text_keys": ("feedback",)},
}


def _recipe(split: str) -> Recipe:
    # The noise is the share of commands drawn at random.
    mixture = {
        "expert": 0.22,
        "random_command": 0.25,
        "wrong_object": 0.14,
        "wrong_receptacle": 0.14,
        "give_up": 0.15,
        "cut_short": 0.1,
    }
    return Recipe(
        f"ALFWorld's six household tasks, rooms of {split}; about a third of the logs succeed",
        "alfworld",
        {"split": split},
        (RecipePart(1.0, mixture, 0.05),),
        episodes=3600,
        cameras=("view",),
        image_size=128,
    )


RECIPES: dict[str, Recipe] = {
    "alfworld": _recipe("train"),
    "alfworld/valid_seen": _recipe("valid_seen"),
    "alfworld/valid_unseen": _recipe("valid_unseen"),
    # For policies alone: its expert would need the engine's facts, which AI2-THOR doesn't tell.
    "alfworld_thor": dataclasses.replace(
        _recipe("valid_unseen"),
        description="rooms of valid_unseen in AI2-THOR's own pictures, for evaluate --env",
        env_name="alfworld_thor",
    ),
}
