"""Presets and recipes of the tabletop."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart, mixture_of

_PLACE_FAILURES = (
    "miss_grasp",
    "early_close",
    "drop_early",
    "wrong_object",
    "wrong_receptacle",
    "overshoot",
    "hesitate",
    "wander",
)
_PICK_FAILURES = ("miss_grasp", "early_close", "drop_early", "wrong_object", "hesitate", "wander")
_CAMERAS = ("front", "wrist")
# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    "tabletop/low_dim": {
        "data.state_keys": ("proprio", "target"),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "model.width": 64,
        "model.depth": 2,
        "discount": 0.98,
        "optim.behavior_steps": 300,
        "optim.value_steps": 1200,
        "optim.learning_rate": 2e-3,
        "optim.value_learning_rate": 2e-3,
    },
    "tabletop/pixels": {
        "data.state_keys": ("proprio",),
        "data.cameras": ("front_image", "wrist_image"),
        "data.auxiliary_keys": ("target",),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "model.dropout": 0.0,
        "discount": 0.98,
        "optim.batch_size": 64,
        "optim.behavior_steps": 1500,
        "optim.value_steps": 1200,
        "optim.learning_rate": 1.5e-3,
        "optim.value_learning_rate": 1e-3,
        "optim.precision": "auto",
    },
    # A small pretrained VLM on two cores, all of its language model fine-tuned, on image features
    # that are computed once.
    "tabletop/vlm": {
        "data.state_keys": ("proprio",),
        "data.cameras": ("front_image", "wrist_image"),
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "model.lora_rank": 0,
        "discount": 0.98,
        "qsft.policy_share": 0.5,
        "qsft.value_weight": 1.0,
        "optim.batch_size": 64,
        "optim.behavior_steps": 600,
        "optim.value_steps": 900,
        "optim.learning_rate": 1e-3,
        "optim.value_learning_rate": 1e-3,
        "optim.precision": "auto",
    },
    # 80 steps at most, in logs that are stitched: the discount keeps gamma ** 80 at .3.
    "tabletop/drawer": {"discount": 0.985, "qsft.lam": 1.0},
}


def _recipe(task: str, description: str, *parts: RecipePart, episodes: int = 1500) -> Recipe:
    return Recipe(description, "tabletop", {"task": task}, parts, episodes, cameras=_CAMERAS)


RECIPES: dict[str, Recipe] = {
    "tabletop/pick": _recipe(
        "pick",
        "pick up the named object; about a third of the logs succeed",
        RecipePart(1.0, mixture_of(0.2, 0.3, _PICK_FAILURES), 0.25),
    ),
    "tabletop/place": _recipe(
        "place",
        "put the named object in the named receptacle; half of the logs were cut short, a fifth "
        "of all succeed",
        RecipePart(1.0, mixture_of(0.12, 0.16, _PLACE_FAILURES, cut_short=0.5), 0.25),
    ),
    "tabletop/place-rare": _recipe(
        "place",
        "the same with 5 to 10 % successes",
        RecipePart(1.0, mixture_of(0.03, 0.08, _PLACE_FAILURES, cut_short=0.5), 0.25),
        episodes=600,
    ),
    "tabletop/place-uncut": _recipe(
        "place",
        "every log runs to its success or its step limit; about a third succeed",
        RecipePart(1.0, mixture_of(0.2, 0.3, _PLACE_FAILURES), 0.25),
    ),
    "tabletop/place-rare-uncut": _recipe(
        "place",
        "every log runs to its success or its step limit; 5 to 10 % succeed",
        RecipePart(1.0, mixture_of(0.02, 0.12, _PLACE_FAILURES), 0.25),
    ),
    "tabletop/drawer": _recipe(
        "drawer",
        "stitching: some logs open the drawer and stop, others grasp from an open drawer",
        RecipePart(
            7 / 15,
            {"expert": 0.7, "miss_handle": 0.2, "short_pull": 0.1},
            0.2,
            {"phase": "open"},
            "drawer_open",
        ),
        RecipePart(
            8 / 15,
            mixture_of(0.35, 0.3, ("miss_grasp", "drop_early", "early_close")),
            0.2,
            {"phase": "grasp", "max_steps": 35},
            "drawer_grasp",
        ),
    ),
}
