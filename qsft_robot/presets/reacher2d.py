"""Presets and recipes of Reacher2d."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart

# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Ten numbers of state, two of action, returns of up to 100 that nothing discounts.
    "reacher2d/states": {
        "data.state_keys": ("state",),
        "data.return_high": 100.0,
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 32,
        "discount": 1.0,
        "optim.batch_size": 64,
    },
}
RECIPES: dict[str, Recipe] = {
    "reacher2d/medium": Recipe(
        "hold the tip of an arm of two joints at a target; three in ten logs do it well",
        "reacher2d",
        {},
        (
            RecipePart(
                1.0, {"expert": 0.3, "sluggish": 0.3, "other_way": 0.2, "wander": 0.2}, noise=0.3
            ),
        ),
        episodes=1000,
    ),
}
