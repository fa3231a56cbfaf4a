"""Simulators by name: ours, those that packages register, and any gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsft_robot.extras import is_installed, naming_extras
from qsft_robot.names import unknown
from qsft_robot.parts.plugins import SIMULATORS as GROUP
from qsft_robot.parts.plugins import load_part, load_plugin, plugin_names

if TYPE_CHECKING:
    import gymnasium
    import numpy as np

# Entries of env_args: the key that tells success, and policy's observation key -> environment's.
SUCCESS_KEY, OBSERVATION_KEYS = "success_key", "observation_keys"
# Any installed gymnasium environment, e.g. "gymnasium:Pendulum-v1".
GYMNASIUM_PREFIX = "gymnasium:"
ROBOSUITE_TASKS = ("Lift", "PickPlaceCan", "Stack", "NutAssemblySquare")
# Environment name -> the package that has it. A simulator is a module or package with an `env` and
# perhaps an `expert`, which are submodules or the module itself. `env` has `ENVIRONMENT`, a class
# whose keyword arguments are env_kwargs, or `build_env(env_args, **overrides)`; `expert` has
# `build_expert(env, failure, noise, rng, **options)` and `FAILURE_MODES`, name -> plain words.
# `motion`, `games`, `args`, `play` and `labels` likewise have `Motion`, `generate_games`,
# `seeing(kwargs, keys)`, `PlayRecorder` and `Labels`; `presets` of a simulator that a package
# registers has `PRESETS` and `RECIPES`, whose names begin with its own and a slash.
SIMULATORS: dict[str, str] = {
    "tabletop": "sim.tabletop",
    "reacher2d": "sim.reacher2d",
    "alfworld": "sim.alfworld",
    "alfworld_thor": "sim.alfworld.thor",
    "ogbench": "sim.ogbench",
    "wordle": "sim.games.wordle",
    "twenty_questions": "sim.games.twenty_questions",
    "chess_endgames": "sim.games.chess",
    "webshop": "sim.webshop",
    "gymnasium/Hopper": "sim.locomotion.hopper",
    "gymnasium/HalfCheetah": "sim.locomotion.half_cheetah",
    "gymnasium/Walker2d": "sim.locomotion.walker2d",
    **dict.fromkeys(ROBOSUITE_TASKS, "sim.robosuite"),
}


def environment_names() -> list[str]:
    """Every environment that can be built by name."""
    known = [*SIMULATORS, *plugin_names(GROUP)]
    return [*known, f"{GYMNASIUM_PREFIX}<installed id>"]


def registered_simulators() -> list[str]:
    """The names of simulators that installed packages register; nothing is imported."""
    return plugin_names(GROUP)


def presets_of(env_name: str) -> Any:
    """What holds `PRESETS` and `RECIPES` of an environment's simulator; None where nothing does."""
    return _part(env_name, "presets")


def unknown_environment(name: str | None) -> str | None:
    """The note on logs whose environment nothing here simulates; None where something does, and
    of logs that name none or a LeRobot robot."""
    ours = [*SIMULATORS, *plugin_names(GROUP)]
    if not name or name.startswith("lerobot:") or name in ours:
        return None
    if name.startswith(GYMNASIUM_PREFIX) and _is_registered(name.removeprefix(GYMNASIUM_PREFIX)):
        return None
    near = get_close_matches(name, ours, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return (
        f"nothing here simulates the environment of the logs, {name!r}{guess}: `evaluate` needs "
        "--env (a recipe, a simulator's name or gymnasium:<module>:<id>)."
    )


def _is_registered(name: str) -> bool:
    module, colon, _ = name.rpartition(":")
    if colon:  # nothing is imported because logs name it
        return is_installed(module.split(".")[0])
    if not is_installed("gymnasium"):
        return False
    import gymnasium

    try:
        return gymnasium.spec(name) is not None
    except gymnasium.error.Error:
        return False


@naming_extras("the simulator")
def build_env(
    env_args: Mapping[str, Any], *, imports: Collection[str] = (), **overrides: Any
) -> gymnasium.Env:
    """Build the environment that `env_args` (robomimic's form) names.

    `env_args` stand in logs and policies, which others may have made: a module that they name
    (gymnasium:<module>:<id>) is imported only where `imports` names it too, or where it belongs to
    a package that registers its environments with gymnasium.

    `overrides` replace or add entries of env_kwargs, e.g. `max_steps=50`,
    `terminate_on_success=False`, `render_mode="rgb_array"`. What else stands beside env_kwargs
    (`type`, `control_hz`, ...) describes the logs, but for `success_key` and `observation_keys`
    (policy's key -> environment's). Raises ValueError on an unknown name.
    """
    env = _build(env_args, imports, overrides)
    success_key, keys = _keys_of(env_args)
    if success_key is None and not keys:
        return env
    from qsft_robot.parts.keyed_env import KeyedEnv

    return KeyedEnv(env, success_key, keys)


def _keys_of(env_args: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    success, keys = env_args.get(SUCCESS_KEY), env_args.get(OBSERVATION_KEYS) or {}
    if success is not None and not isinstance(success, str):
        raise ValueError(f"env_args: {SUCCESS_KEY!r} is {success!r}, no name.")
    if not isinstance(keys, Mapping) or not all(isinstance(x, str) for x in keys.values()):
        raise ValueError(f"env_args: {OBSERVATION_KEYS!r} is {keys!r}, no key by key.")
    return success, dict(keys)


def _build(
    env_args: Mapping[str, Any], imports: Collection[str], overrides: Mapping[str, Any]
) -> gymnasium.Env:
    name = env_args["env_name"]
    if name.startswith(GYMNASIUM_PREFIX):
        from sim.registered import build_registered

        kwargs = {**env_args.get("env_kwargs", {}), **overrides}
        return build_registered(name.removeprefix(GYMNASIUM_PREFIX), kwargs, imports)
    part = _part(name, "env")
    if part is None:
        raise unknown("environment", name, environment_names())
    if hasattr(part, "build_env"):
        return part.build_env(env_args, **overrides)
    from sim.argument_kinds import checked_arguments, kinds_of

    kwargs = {**env_args.get("env_kwargs", {}), **overrides}
    kwargs = _known_kwargs(name, part.ENVIRONMENT, kwargs)
    kinds = kinds_of(part.ENVIRONMENT)
    return part.ENVIRONMENT(**checked_arguments(f"env_kwargs of {name}", kinds, kwargs))


def has_cameras(env_name: str) -> bool:
    """Whether an environment takes `cameras` and `image_size`; True where it doesn't say."""
    part = None if env_name.startswith(GYMNASIUM_PREFIX) else _part(env_name, "env")
    if part is None or hasattr(part, "build_env"):
        return True
    return "cameras" in _arguments(part.ENVIRONMENT)


def showing(env_args: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """`env_args` of an environment that shows these state keys too, where its keys can be chosen:
    a policy may have learnt from more of them than the environment shows unasked."""
    part = _part(env_args.get("env_name", ""), "args")
    if part is None:
        return dict(env_args)
    return {**env_args, "env_kwargs": part.seeing(env_args.get("env_kwargs") or {}, keys)}


def build_expert(
    env: gymnasium.Env, failure: str | None, noise: float, rng: np.random.Generator, **kwargs: Any
) -> Any:
    """Build the scripted expert of an environment; `failure` is a name of `failure_modes`."""
    simulator: Any = env.unwrapped
    name = simulator.env_args["env_name"]
    modes = failure_modes(name)
    if failure is not None and failure not in modes:
        raise unknown("failure mode", failure, modes)
    return _part(name, "expert").build_expert(simulator, failure, noise, rng, **kwargs)


def failure_modes(env_name: str) -> dict[str, str]:
    """The named ways in which the scripted expert of an environment can fail, in plain words."""
    part = _part(env_name, "expert")
    if part is None:
        raise ValueError(f"{env_name!r} has no scripted expert, so nothing can be collected in it.")
    return part.FAILURE_MODES


def agent_files(env_name: str, names: Iterable[str], paths: Sequence[Path]) -> dict[str, str]:
    """Name of an agent -> its file, where an environment records trained agents; empty where it has
    a scripted expert, to which `paths` say nothing (ValueError)."""
    part = _part(env_name, "expert")
    if hasattr(part, "find_agents"):
        return part.find_agents(env_name, names, paths)
    if paths:
        raise ValueError(f"--agents: {env_name} has an expert of its own and takes no agents.")
    return {}


def reference_returns(env_name: str) -> tuple[float, float] | None:
    """Returns of a random and of an expert policy by which others normalize those of an
    environment; None where none are published."""
    part = _part(env_name, "env") if env_name in SIMULATORS else None
    return getattr(getattr(part, "ENVIRONMENT", None), "reference_returns", None)


def build_motion(env: gymnasium.Env, control_hz: float) -> Any:
    """The motion of an environment in physics time, for a robot that runs with the wall clock."""
    simulator: Any = env.unwrapped
    name = simulator.env_args["env_name"]
    part = _part(name, "motion")
    if part is None:
        raise unknown("real-time environment", name, _with("motion"))
    return part.Motion(simulator, control_hz)


def generate_games(
    world: str,
    folder: Path | None,
    games: Mapping[str, int],
    *,
    seed: int,
    workers: int,
    on_game: Callable[[int, int], None] | None = None,
) -> Any:
    """Make the games of a world that ships none; returns a report that prints itself."""
    part = _part(world, "games")
    if part is None:
        raise unknown("world of games", world, _with("games"))
    return part.generate_games(folder, games, seed=seed, workers=workers, on_game=on_game)


@naming_extras("the simulator")
def build_play_recorder(env_name: str, kwargs: Mapping[str, Any]) -> Any:
    """A recorder of play data in an environment: `record(seed)` gives an episode's arrays."""
    return _named_part(env_name, "play").PlayRecorder(**kwargs)


@naming_extras("the simulator")
def build_labels(env_args: Mapping[str, Any]) -> Any:
    """The judge of recorded states by the task of `env_args`: `keys` that it reads, and
    `successes(rows)`. None where the simulator has no such judge."""
    part = _part(env_args["env_name"], "labels")
    kwargs = env_args.get("env_kwargs") or {}
    task = {"task": kwargs["task"]} if "task" in kwargs else {}
    return None if part is None else part.Labels(**task)


_OFFERS = {
    "env": ("build_env", "ENVIRONMENT"),
    "expert": ("build_expert",),
    "motion": ("Motion",),
    "games": ("generate_games",),
    "args": ("seeing",),
    "play": ("PlayRecorder",),
    "labels": ("Labels",),
    "presets": ("PRESETS", "RECIPES"),
}


def _part(env_name: str, part: str) -> Any:
    """A part of an environment's simulator; None where there is no such simulator or part."""
    if env_name in SIMULATORS:
        simulator = load_part(SIMULATORS[env_name])
    else:
        simulator = load_plugin(GROUP, env_name)
    if simulator is None:
        return None
    if any(hasattr(simulator, offer) for offer in _OFFERS[part]):
        return simulator
    if not hasattr(simulator, "__path__"):
        return None
    inner = f"{simulator.__name__}.{part}"
    try:
        return load_part(inner)
    except ModuleNotFoundError as error:
        if error.name != inner:
            raise
        return None


def _named_part(name: str, part: str) -> Any:
    found = _part(name, part)
    if found is None:
        raise unknown(f"environment with {part} data", name, _with(part))
    return found


def _with(part: str) -> list[str]:
    return [name for name in SIMULATORS if _part(name, part) is not None]


def _known_kwargs(name: str, kind: type, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The kwargs; ValueError with the nearest name for one that the environment does not take."""
    known = _arguments(kind)
    for key in kwargs:
        if key not in known:
            raise unknown(f"argument of the environment {name}", key, known)
    return kwargs


def _arguments(kind: type) -> dict[str, None]:
    return dict.fromkeys(
        each.name
        for base in kind.__mro__
        if not base.__module__.startswith(("gymnasium.", "builtins", "typing"))
        for each in signature(base).parameters.values()
        if each.kind is not each.VAR_KEYWORD
    )
