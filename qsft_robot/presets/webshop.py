"""Preset and recipe of WebShop: pages in, searches and clicks out, a score at the purchase."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart

# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    # Any words, for searches; --tokenizer.no-free leaves what can be clicked and the goal's words.
    "webshop": {
        "data.state_keys": ("overlap",),
        "data.text_keys": ("page",),
        "discount": 0.97,
        "tokenizer.kind": "commands",
        "tokenizer.free": True,
        "model.width": 128,
        "model.depth": 3,
        "model.dropout": 0.0,
        "model.text_history": 4,
        "model.text_length": 80,
        "model.frame_text_length": 120,
        "optim.batch_size": 64,
        "optim.behavior_steps": 2000,
        "optim.value_steps": 4000,
        "optim.learning_rate": 1e-3,
        "optim.value_learning_rate": 1e-3,
    }
}
# Shoppers of mixed quality; the noise is the share of clicks at random.
_SHOPPERS = {
    "expert": 0.2,
    "own_words": 0.2,
    "first_hit": 0.25,
    "cheapest": 0.15,
    "no_options": 0.2,
}
RECIPES: dict[str, Recipe] = {
    "webshop": Recipe(
        "WebShop's task in an embedded shop: shoppers of mixed quality",
        "webshop",
        # Products are clicked by their places in the results: no number of one says anything.
        {"split": "train", "links": "rank"},
        (RecipePart(1.0, _SHOPPERS, 0.1),),
        episodes=10_000,
    )
}
