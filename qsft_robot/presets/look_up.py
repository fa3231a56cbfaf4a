"""Presets and recipes by name; those of a simulator stand in the file of its name beside this, or,
of one that a package registers, in its own `presets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from qsft_robot.config.train import TrainConfig
from qsft_robot.names import unknown
from qsft_robot.parts.simulators import presets_of, registered_simulators
from qsft_robot.presets import (
    alfworld,
    games,
    locomotion,
    ogbench,
    reacher2d,
    robosuite,
    tabletop,
    webshop,
)
from qsft_robot.presets.recipe import Recipe

# First seed of evaluation episodes: far from the seeds that logs are collected with.
EVALUATION_SEED = 100_000
# One line a simulator.
_SIMULATORS = (tabletop, reacher2d, robosuite, alfworld, ogbench, games, webshop, locomotion)
# Preset -> flag (as on the command line, with underscores) -> value. Later presets win.
PRESETS: dict[str, dict[str, Any]] = {
    # The paper's own settings: uniform residual of Eq. 3, slow target network, one-step targets,
    # max backup without a support mask, pi_phi exp(beta p_theta).
    "paper": {
        "qsft.residual": "uniform",
        "qsft.balance": "weighted",
        # Those two read neither of these; back to the defaults where another preset changed them.
        "qsft.policy_share": 0.75,
        "qsft.value_weight": 0.1,
        "qsft.backup": "max",
        "qsft.backup_support": 0.0,
        "qsft.targets": "ema",
        "qsft.lam": 0.0,
        "acting.rule": "paper",
        "acting.beta": 16.0,
    },
    **{name: preset for part in _SIMULATORS for name, preset in part.PRESETS.items()},
}
RECIPES: dict[str, Recipe] = {
    name: recipe for part in _SIMULATORS for name, recipe in part.RECIPES.items()
}


def find_preset(name: str) -> dict[str, Any]:
    """The settings of a preset; ValueError with the nearest name when there is none."""
    if name in PRESETS:
        return PRESETS[name]
    theirs = _registered("PRESETS", name)
    if name not in theirs:
        raise unknown("preset", name, [*PRESETS, *theirs])
    return theirs[name]


def find_recipe(name: str) -> Recipe | None:
    """The recipe of a name; None when there is none."""
    return RECIPES.get(name) or _registered("RECIPES", name).get(name)


def all_of(kind: Literal["PRESETS", "RECIPES"]) -> dict[str, Any]:
    """Every preset or recipe by name; imports each simulator that a package registers."""
    found = dict(PRESETS if kind == "PRESETS" else RECIPES)
    for name in registered_simulators():
        found |= _registered(kind, name)
    return found


def _registered(kind: str, name: str) -> Mapping[str, Any]:
    """Those of the registered simulator that a name, <simulator>/<name>, begins with; no other
    package is imported."""
    simulator = name.partition("/")[0]
    if simulator not in registered_simulators():
        return {}
    return getattr(presets_of(simulator), kind, {})


def apply_presets(config: TrainConfig, names: Iterable[str]) -> TrainConfig:
    """The config with the presets' values, one preset after the other; ValueError for a name that
    doesn't exist. Contradictions are looked for once, at the end."""
    flat: dict[str, Any] = {}
    for name in names:
        flat |= find_preset(name)
    return with_settings(config, flat)


def with_settings(config: TrainConfig, flat: Mapping[str, Any]) -> TrainConfig:
    """The config with settings replaced by their dotted names, e.g. {"discount": .98}."""
    groups: dict[str, dict[str, Any]] = {}
    top: dict[str, Any] = {}
    for name, value in flat.items():
        group, dot, key = name.partition(".")
        if dot:
            groups.setdefault(group, {})[key] = value
        else:
            top[name] = value
    for group, values in groups.items():
        top[group] = dataclasses.replace(getattr(config, group), **values)
    return dataclasses.replace(config, **top)


def recipe(name: str) -> Recipe:
    """The recipe of a name; ValueError with the nearest name when there is none."""
    found = find_recipe(name)
    if found is None:
        raise unknown("recipe", name, [*RECIPES, *_registered("RECIPES", name)])
    return found
