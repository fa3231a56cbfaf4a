"""Named settings as data: training presets, and recipes of demonstrations to collect."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qsft_robot.config.train import TrainConfig
from qsft_robot.names import unknown

# First seed of evaluation episodes: far from the seeds that logs are collected with.
EVALUATION_SEED = 100_000
# What the presets of ALFWorld share. A good log takes 5 to 20 of 50 steps: the discount tells those
# that search from those that stray.
_ALFWORLD: dict[str, Any] = {
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
_ALFWORLD_VIEW: dict[str, Any] = {
    "data.cameras": ("view_image",),
    "data.auxiliary_commands": True,
    "data.frame_cache_gib": 24.0,
    "model.image_shrink": 2,
}
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
    # Tasks whose successes take more than a hundred steps, of 250 at most: gamma ** 250 is .6.
    "robosuite/long": {"discount": 0.998},
    # Text commands on two cores: what the engine says, and the image.
    "alfworld/text_image": {
        **_ALFWORLD,
        **_ALFWORLD_VIEW,
        "data.text_keys": ("feedback",),
    },
    # The image, the goal and the commands given before; no text of the engine.
    "alfworld/image": {**_ALFWORLD, **_ALFWORLD_VIEW},
    "alfworld/text": {**_ALFWORLD, "data.text_keys": ("feedback",)},
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


def apply_presets(config: TrainConfig, names: Iterable[str]) -> TrainConfig:
    """The config with the presets' values, one preset after the other; ValueError for a name that
    doesn't exist. Contradictions are looked for once, at the end."""
    flat: dict[str, Any] = {}
    for name in names:
        if name not in PRESETS:
            raise unknown("preset", name, PRESETS)
        flat |= PRESETS[name]
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


@dataclass(frozen=True)
class RecipePart:
    """A share of a recipe's logs; the fields are those of `collect.CollectPart`."""

    share: float
    mixture: Mapping[str, float]
    noise: float
    reset_options: Mapping[str, Any] | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Recipe:
    """Logs that can be collected by name."""

    description: str
    env_name: str
    env_kwargs: Mapping[str, Any]
    parts: tuple[RecipePart, ...]
    episodes: int = 1500
    # Cameras collected when none are asked for.
    cameras: tuple[str, ...] = ()
    # Height and width of their images, in pixels.
    image_size: int = 64
    # Recorded with no task in mind and cut into logs afterwards; `parts` is empty.
    play: bool = False


def _mixture(
    expert: float, sloppy: float, failures: Iterable[str], cut_short: float = 0.0
) -> dict[str, float]:
    """Shares of the expert, the sloppy one and the logs cut short; the named failures share the
    rest evenly."""
    names = tuple(failures)
    rest = {name: (1.0 - expert - sloppy - cut_short) / len(names) for name in names}
    cut = {"cut_short": cut_short} if cut_short else {}
    return {"expert": expert, "sloppy": sloppy, **cut, **rest}


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
_ROBOSUITE_FAILURES = (
    "miss_grasp",
    "early_close",
    "drop_early",
    "wrong_place",
    "hesitate",
    "wander",
)
_TABLETOP_CAMERAS = ("front", "wrist")


def _tabletop(task: str, description: str, *parts: RecipePart, episodes: int = 1500) -> Recipe:
    return Recipe(
        description, "tabletop", {"task": task}, parts, episodes, cameras=_TABLETOP_CAMERAS
    )


def _robosuite(task: str) -> Recipe:
    mixture = _mixture(0.25, 0.25, _ROBOSUITE_FAILURES)
    return Recipe(
        f"robosuite {task}: a mixture of good, sloppy and failing logs",
        task,
        {},
        (RecipePart(1.0, mixture, 0.15),),
        episodes=300,
        cameras=("agentview", "robot0_eye_in_hand"),
        image_size=84,
    )


def _alfworld(split: str) -> Recipe:
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


def _ogbench() -> dict[str, Recipe]:
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


RECIPES: dict[str, Recipe] = {
    "tabletop/pick": _tabletop(
        "pick",
        "pick up the named object; about a third of the logs succeed",
        RecipePart(1.0, _mixture(0.2, 0.3, _PICK_FAILURES), 0.25),
    ),
    "tabletop/place": _tabletop(
        "place",
        "put the named object in the named receptacle; half of the logs were cut short, a fifth "
        "of all succeed",
        RecipePart(1.0, _mixture(0.12, 0.16, _PLACE_FAILURES, cut_short=0.5), 0.25),
    ),
    "tabletop/place-rare": _tabletop(
        "place",
        "the same with 5 to 10 % successes",
        RecipePart(1.0, _mixture(0.03, 0.08, _PLACE_FAILURES, cut_short=0.5), 0.25),
        episodes=600,
    ),
    "tabletop/place-uncut": _tabletop(
        "place",
        "every log runs to its success or its step limit; about a third succeed",
        RecipePart(1.0, _mixture(0.2, 0.3, _PLACE_FAILURES), 0.25),
    ),
    "tabletop/place-rare-uncut": _tabletop(
        "place",
        "every log runs to its success or its step limit; 5 to 10 % succeed",
        RecipePart(1.0, _mixture(0.02, 0.12, _PLACE_FAILURES), 0.25),
    ),
    "tabletop/drawer": _tabletop(
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
            _mixture(0.35, 0.3, ("miss_grasp", "drop_early", "early_close")),
            0.2,
            {"phase": "grasp", "max_steps": 35},
            "drawer_grasp",
        ),
    ),
    "robosuite/Lift": _robosuite("Lift"),
    "robosuite/PickPlaceCan": _robosuite("PickPlaceCan"),
    "robosuite/Stack": _robosuite("Stack"),
    "robosuite/NutAssemblySquare": _robosuite("NutAssemblySquare"),
    "alfworld": _alfworld("train"),
    "alfworld/valid_seen": _alfworld("valid_seen"),
    "alfworld/valid_unseen": _alfworld("valid_unseen"),
    # For policies alone: its expert would need the engine's facts, which AI2-THOR doesn't tell.
    "alfworld_thor": dataclasses.replace(
        _alfworld("valid_unseen"),
        description="rooms of valid_unseen in AI2-THOR's own pictures, for evaluate --env",
        env_name="alfworld_thor",
    ),
    **_ogbench(),
}


def recipe(name: str) -> Recipe:
    """The recipe of a name; ValueError with the nearest name when there is none."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
