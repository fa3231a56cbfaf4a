"""Presets and recipes of gymnasium's Hopper, HalfCheetah and Walker2d."""

from __future__ import annotations

from typing import Any

from qsft_robot.presets.recipe import Recipe, RecipePart


def _preset(low: float, high: float) -> dict[str, Any]:
    # Sums of dense rewards over a thousand steps, which nothing discounts.
    return {
        "data.state_keys": ("observation",),
        "data.return_low": low,
        "data.return_high": high,
        "tokenizer.kind": "uniform_bins",
        "tokenizer.n_bins": 64,
        "discount": 1.0,
        "optim.batch_size": 64,
    }


# Preset -> flag (as on the command line, with underscores) -> value.
PRESETS: dict[str, dict[str, Any]] = {
    "hopper/states": _preset(-50.0, 4000.0),
    "halfcheetah/states": _preset(-1500.0, 14000.0),
    "walker2d/states": _preset(-50.0, 6000.0),
}


def _medium(robot: str, mixture: dict[str, float]) -> Recipe:
    return Recipe(
        f"{robot} by trained agents (--agents), at the mean return of D4RL's medium data",
        f"gymnasium/{robot}",
        {},
        (RecipePart(1.0, mixture, noise=0.0),),
        episodes=1000,
    )


RECIPES: dict[str, Recipe] = {
    "hopper/medium": _medium("Hopper", {"a2c": 0.4, "ppo": 0.4, "sac": 0.2}),
    "halfcheetah/medium": _medium("HalfCheetah", {"a2c": 0.2, "ppo": 0.7, "sac": 0.1}),
    "walker2d/medium": _medium("Walker2d", {"a2c": 0.4, "trpo": 0.3, "sac": 0.3}),
}
